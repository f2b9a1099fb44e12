"""Races inside a study: what is stopped, what that saves, and that it is the same each time."""

from __future__ import annotations

from pathlib import Path

from inferloom.search.job import SearchJob
from inferloom.search.study import run_study
from inferloom.store import Store
from tests.search import workload

SIZES = "{dev: 80, confirm: 10, test: 20}"


def job(folder: Path, racing: bool) -> SearchJob:
    data = workload.write_items(folder, 120)
    text = workload.job_text(data, trials=12, sizes=SIZES, extra=f"racing: {str(racing).lower()}")
    return SearchJob.load(text.replace("objectives: [quality, tokens]", "objectives: [quality]"))


async def test_beaten_trials_stop_and_the_rest_is_as_without_races(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "a.db")) as store:
        raced = await run_study(job(tmp_path, True), store, name="raced")
        rows = store.evaluations("raced", split="dev")
        plain = await run_study(job(tmp_path, False), store, name="plain")
    stopped = [trial for trial in raced.trials if trial.status == "stopped"]
    done = [trial for trial in raced.trials if trial.status == "done"]
    assert stopped and done
    assert {trial.dev.n for trial in stopped if trial.dev} <= {12, 20, 40}
    assert {trial.dev.n for trial in done if trial.dev} == {80}
    for trial in [*stopped, *done]:
        assert trial.dev is not None
        assert sum(row.trial == trial.number for row in rows) == trial.dev.n
    assert raced.winner.trial not in {trial.number for trial in stopped}
    assert not any(trial.on_front for trial in stopped)
    assert raced.nominal.calls < plain.nominal.calls
    assert {trial.status for trial in plain.trials} <= {"done", "duplicate"}


async def test_races_repeat_themselves(tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        with Store.open(str(tmp_path / f"{name}.db")) as store:
            results.append(await run_study(job(tmp_path, True), store, name="raced"))
    assert results[0].trials == results[1].trials
    assert results[0].winner.pipeline_hash == results[1].winner.pipeline_hash
