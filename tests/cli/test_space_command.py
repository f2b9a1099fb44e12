"""`inferloom space`: counts are exact, samples a function of the seed, mistakes one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.pipelines.document import load_document
from inferloom.pipelines.spec import PipelineSpec
from tests.cli.conftest import Cli

SPACE = """\
models: {m: "scripted:replies.yaml"}
steps:
  - sample: {model: m, n: {int: [1, 4], name: n}}
  - choice: [vote, {fuse: m}]
    name: end
rules: [n > 1]
"""


@pytest.fixture
def spaces(folder: Path) -> Path:
    (folder / "s.yaml").write_text(SPACE)
    (folder / "endless.yaml").write_text(SPACE.replace("{int: [1, 4], name: n}", "{float: [0, 1], name: n}"))
    (folder / "none.yaml").write_text(SPACE.replace("n > 1", "n > 4"))
    return folder


def test_space_counts_a_file_exactly(cli: Cli, spaces: Path) -> None:
    assert cli("space", "count", "s.yaml", "--json").json == {"space": "s.yaml", "raw": 8, "valid": 6}
    said = cli("space", "count", "s.yaml").out
    assert "8 ways to fill 2 holes" in said and "6 of them" in said
    none = cli("space", "count", "none.yaml")
    assert none.code == 0 and "none is valid; for example, " in none.out and "`n > 4`" in none.out


def test_space_samples_valid_points_by_seed(cli: Cli, spaces: Path) -> None:
    arguments = ("space", "sample", "s.yaml", "--count", "5", "--yaml", "--json", "--seed")
    first, again, other = (cli(*arguments, seed).json for seed in (1, 1, 2))
    assert first == again
    assert first["points"] != other["points"]
    for point in first["points"]:
        spec = PipelineSpec.parse(point["pipeline"])
        assert point["values"]["n"] > 1
        assert spec.to_data()["steps"][0]["sample"]["n"] == point["values"]["n"]  # type: ignore[call-overload, index]
    assert [set(point) for point in cli("space", "sample", "s.yaml", "--json").json["points"]] == [{"values"}]


def test_space_samples_print_values_and_pipelines_that_run(cli: Cli, spaces: Path) -> None:
    assert len(cli("space", "sample", "s.yaml", "--count", "3").out.splitlines()) == 3
    printed = cli("space", "sample", "s.yaml", "--yaml").out
    assert printed.startswith("# n: ")
    (spaces / "point.yaml").write_text(printed)
    assert cli("run", "point.yaml", "how many?").code == 0
    assert cli("space", "sample", "s.yaml", "--count", "2", "--yaml").out.count("\n---\n") == 1


def test_space_lists_and_shows_what_comes_along(cli: Cli, spaces: Path) -> None:
    assert "archon" in [space["name"] for space in cli("space", "--json").json]
    assert "archon" in cli("space").out
    shown = cli("space", "show", "archon")
    assert "generators * samples <= 24" in shown.out
    (spaces / "mine.yaml").write_text(shown.out)
    holes = cli("space", "show", "mine.yaml", "--json").json["holes"]
    assert [hole["name"] for hole in holes] == [
        *("generators", "samples", "fusers_1", "fusers_2", "fusers_3"),
        "check",
    ]
    assert load_document(shown.out).data
    assert not (spaces / "inferloom.db").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["space", "count", "archn"], "did you mean `archon`"),
        (["space", "count", "nothing_of_the_kind"], "spaces that come along: archon"),
        (["space", "count", "t.yaml"], "did you mean `s.yaml`"),
        (["space", "count", "s.yaml", "--limit", "7"], "more than 7 ways to fill the holes"),
        (["space", "count", "endless.yaml"], "endless.yaml:3: n: a `float` without `step` has no end of values"),
        (["space", "sample", "none.yaml"], "no valid point: for example, the point breaks the rule `n > 4`"),
        (["space", "sample", "s.yaml", "--count", "0"], "count"),
        (["space", "sample", "s.yaml", "--sed", "1"], "did you mean `--seed`"),
        (["space", "cuont", "s.yaml"], "did you mean `count`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_about_a_space_is_one_line(cli: Cli, spaces: Path, arguments: list[str], said: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert said in done.err
    as_json = cli(*arguments, "--json")
    assert (as_json.code, as_json.err) == (2, "")
    assert as_json.json["error"]["message"]
