"""A search job says where it is wrong before anything is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inferloom.core.errors import InferloomError, SpecError
from inferloom.search.job import JOBS, SearchJob, load_job
from tests.search import workload


def text(tmp_path: Path, old: str = "", new: str = "") -> str:
    made = workload.job_text(workload.write_items(tmp_path))
    assert old in made
    return made.replace(old, new, 1) if old else made


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials: 8", "trails: 8", r"^<text>:5: trails: unknown field `trails`; did you mean `trials`\?$"),
        ("trials: 8", "trials: 0", r"^<text>:5: trials: the value is 0; .*greater than or equal to 1$"),
        ("[quality, tokens]", "[tokens]", r"^<text>:4: objectives: `quality` must come first"),
        ("[quality, tokens]", "[quality, token]", r"^<text>:4: objectives\[1\]: .*did you mean `tokens`\?$"),
        ("dev: 8", "dev: -1", r"^<text>:3: split: `dev` is -1; it must be above 0$"),
        ("dev: 8", "dve: 8", r"^<text>:3: split\.dve: unknown field `dve`; did you mean `dev`\?$"),
        ("seed: 3", "sampler: tp", r"^<text>:7: sampler: unknown sampler `tp`; did you mean `tpe`\?$"),
        (
            "grader: numeric",
            "grade: numeric",
            r"^<text>:2: data\.grade: unknown field `grade`; did you mean `grader`\?$",
        ),
        ("\nspace:", "\nspaces:", r"the field `space` is missing"),
        ("steps.0.sample.n <= 4", "steps.0.sample.m <= 4", r"rules\[0\]: unknown hole .*did you mean"),
    ],
)
def test_each_mistake_is_one_sentence_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InferloomError) as raised:
        SearchJob.load(text(tmp_path, old, new))
    assert raised.value.exit_code == 2
    assert re.search(message, raised.value.sentence), raised.value.sentence


def test_a_space_can_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(workload.SPACE)
    (tmp_path / "job.yaml").write_text("space: space.yaml\ndata: {file: sums.jsonl}\n")
    job = load_job(tmp_path / "job.yaml")
    assert job.name == "job" and job.space.count().raw == 192
    with pytest.raises(SpecError, match=r"job\.yaml:1: space: there is no file `spice\.yaml`"):
        (tmp_path / "job.yaml").write_text("space: spice.yaml\ndata: {file: sums.jsonl}\n")
        load_job(tmp_path / "job.yaml")


def test_what_does_not_change_the_trials_does_not_change_the_identity(tmp_path: Path) -> None:
    job = SearchJob.load(text(tmp_path))
    for old, new, same in (
        ("concurrency: 16", "concurrency: 2", True),
        ("name: adding", "name: other", True),
        ("seed: 3", "seed: 4", False),
        ("trials: 8", "trials: 9", True),
        ("batch: 4", "batch: 5", False),
        ("choice: [1, 2, 4, 8]", "choice: [1, 2, 4]", False),
    ):
        assert (SearchJob.load(text(tmp_path, old, new)).identity("data") == job.identity("data")) is same, new
    assert job.identity("data") != job.identity("other data")


def test_a_job_reads_its_own_yaml(tmp_path: Path) -> None:
    job = SearchJob.load(text(tmp_path))
    again = SearchJob.load(job.to_yaml())
    assert again.identity("data") == job.identity("data") and again.to_yaml() == job.to_yaml()


@pytest.mark.parametrize("name", sorted(path.stem for path in JOBS.glob("*.yaml")))
def test_the_jobs_that_come_along_are_sound(name: str) -> None:
    job = load_job(name)
    assert job.name == name
    assert (job.space.count().valid or 0) > job.spec.trials


def test_an_unknown_job_names_those_that_come_along() -> None:
    with pytest.raises(SpecError, match="did you mean `demo`"):
        load_job("demoo")
