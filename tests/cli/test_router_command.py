"""`inferloom router`, from a table of outcomes to an explained decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.routing.exchange import write_outcomes
from inferloom.routing.synthetic import made_world
from tests.cli.conftest import Cli


@pytest.fixture
def table(folder: Path) -> str:
    write_outcomes(made_world(240, 0)[0], folder / "outcomes.csv")
    return "outcomes.csv"


def test_from_an_import_to_an_explained_decision(cli: Cli, table: str, folder: Path) -> None:
    assert cli("router", "list").out.startswith("no routers yet")
    assert cli("router", "import", table, "world").code == 0
    told = cli("router", "data", "--json").json
    assert [arm["label"] for arm in told["arms"]] == ["cheap", "middle", "dear"]
    assert told["questions"] == 240
    trained = cli("router", "train", "r", "--embedder", "none", "--price", "0.002", "--out", "kept", "--json")
    assert (trained.json["version"], trained.json["status"]) == (1, "champion")
    listed = cli("router", "list", "--json").json
    assert [(row["name"], row["version"]) for row in listed] == [("r", 1)]
    for named in ("r", "r@1", "kept"):
        made = cli("router", "explain", named, "spell 312 and 555", "--json").json
        assert made["options"][0]["label"] == "cheap"
        assert made["arm"] == made["options"][0]["arm"]
    shown = cli("router", "explain", "r", "spell 312 and 555")
    assert shown.code == 0
    assert "expected to be right" in shown.out
    dear = cli("router", "explain", "r", "multiply 312 and 555 and 777 and 111", "--price", "0", "--json").json
    assert next(o["label"] for o in dear["options"] if o["arm"] == dear["arm"]) == "dear"


def test_eval_prints_the_protocol(cli: Cli, table: str) -> None:
    done = cli("router", "eval", "--data", table, "--embedder", "none", "--splits", "1")
    assert done.code == 0
    for name in ("router", "tuned kNN", "linear model", "best single arm", "oracle", "calibration error"):
        assert name in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "r"), "no scored runs to learn from"),
        (("train", "r", "--data", "outcomes.csv", "--arm", "cheap"), "at least two arms; there is 1"),
        (("train", "r", "--data", "nowhere.csv"), "no such file"),
        (("train", "r", "--data", "outcomes.csv", "--arm", "chep"), "did you mean `cheap`"),
        (("train", "r", "--price", "1", "--budget", "2"), "one of --price, --budget and --floor"),
        (("train", "r", "--data", "outcomes.csv", "--unit", "token"), "did you mean `tokens`"),
        (("train", "r", "--data", "outcomes.csv", "--cost", "cheap"), "must be NAME=VALUE"),
        (("explain", "r", "question"), "unknown router `r`"),
        (("explain", "r@x", "question"), "must be a whole number"),
        (("explain", ".", "question"), "no router there"),
        (("eval", "--field", "tag=task"), "go with `--data FILE`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli, table: str, arguments: tuple[str, ...], told: str) -> None:
    done = cli("router", *arguments)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
