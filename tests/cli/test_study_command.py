"""`inferloom study`: every command, its text and its JSON, on a search with scripted models."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

JOB = """\
data: {file: data.jsonl, grader: numeric}
split: {dev: 10, confirm: 5, test: 20}
objectives: [quality, tokens]
trials: 4
batch: 2
finalists: 2
space:
  models: {small: "scripted:replies.yaml", large: "scripted:constant:A: 1"}
  steps:
    - sample: {model: {choice: [small, large]}, n: {int: [1, 6]}}
    - vote
"""


@pytest.fixture
def job(folder: Path) -> str:
    (folder / "job.yaml").write_text(JOB)
    return JOB


@pytest.fixture
def studied(cli: Cli, job: str) -> Cli:
    """One finished study, `one`."""
    assert cli("search", "job.yaml", "--name", "one", "--json").code == 0
    return cli


def count(folder: Path, table: str) -> int:
    connection = sqlite3.connect(folder / "inferloom.db")
    try:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
    finally:
        connection.close()


def test_studies_are_listed_with_how_far_they_are(studied: Cli, folder: Path) -> None:
    result = studied("show", "one", "--json").json
    stopped = studied("search", "job.yaml", "--name", "two", "--max-billed", "calls=1", "--json")
    assert stopped.code == 0, "what the bank holds is not billed"
    (folder / "job.yaml").write_text(JOB + "seed: 5\n")
    assert studied("search", "job.yaml", "--name", "three", "--max-billed", "calls=30", "--json").json["stopped"]
    rows = {row["study"]: row for row in studied("study", "--json").json}
    assert [row["study"] for row in studied("study", "list", "--json").json] == ["three", "two", "one"]
    assert (rows["one"]["status"], rows["one"]["trials_done"], rows["one"]["trials"]) == ("done", 4, 4)
    assert rows["one"]["best_dev"] == max(trial["dev"]["mean"] for trial in result["trials"])
    assert rows["one"]["billed"] == result["billed"] and rows["two"]["billed"]["calls"] == 0
    assert rows["three"]["status"] == "stopped" and rows["three"]["trials_done"] == 4
    text = studied("study").out
    assert "4 of 4" in text and f"{rows['one']['best_dev']:.1%}" in text and "stopped" in text


def test_show_is_the_same_by_both_names(studied: Cli) -> None:
    for options in ((), ("--json",), ("--yaml",)):
        assert studied("study", "show", "one", *options).out == studied("show", "one", *options).out != ""


def test_studies_side_by_side_with_their_paired_difference(studied: Cli, folder: Path) -> None:
    only_small = JOB.replace("{choice: [small, large]}", "small")
    (folder / "small.yaml").write_text(only_small)
    (folder / "smaller.yaml").write_text(JOB.replace("test: 20", "test: 15"))
    (folder / "graded.yaml").write_text(JOB.replace("numeric", "exact"))
    for name in ("small", "smaller", "graded"):
        assert studied("search", f"{name}.yaml", "--json").code == 0
    done = studied("study", "compare", "one", "small", "--json").json
    assert [study["study"] for study in done["studies"]] == ["one", "small"]
    assert done["studies"][0]["winner"]["test"]["mean"] == 1.0
    [pair] = done["differences"]
    means = [study["winner"]["test"]["mean"] for study in done["studies"]]
    assert pair["difference"]["mean"] == pytest.approx(means[0] - means[1]) and pair["difference"]["n"] == 20
    assert pair["difference"]["low"] > 0 and pair["sentence"].startswith("The winner of `one` beats the winner of `sm")
    turned = studied("study", "compare", "small", "one")
    assert "The winner of `small` loses to the winner of `one`: -" in turned.out
    assert "billed calls" in turned.out and "95% interval" in turned.out

    assert studied("search", "job.yaml", "--name", "again", "--json").code == 0
    assert "No difference between the winners of `one` and `again`: +0.0 points" in (
        studied("study", "compare", "one", "again").out
    )
    three = studied("study", "compare", "one", "smaller", "graded", "--json").json["differences"]
    assert [(pair["first"], pair["second"]) for pair in three] == [
        ("one", "smaller"),
        ("one", "graded"),
        ("smaller", "graded"),
    ]
    assert all(pair["difference"] is None for pair in three)
    assert "tested on different items (20 and 15, 15 of them in both)" in three[0]["sentence"]
    assert "graded differently" in three[1]["sentence"]


def test_a_study_is_exported_whole_or_by_its_scores(studied: Cli, folder: Path) -> None:
    assert "wrote" in studied("study", "export", "one", "one.json").out
    document = json.loads((folder / "one.json").read_text())
    result = studied("show", "one", "--json").json
    assert {"study", "status", "job", "result", "trials", "items"} <= set(document)
    assert document["job"]["space"]["steps"][1] == "vote" and "origin" not in document["job"]
    assert document["trials"] == result["trials"] and document["result"]["winner"] == result["winner"]
    done = studied("study", "export", "one", "one.csv", "--json").json
    with (folder / "one.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert done["written"] == len(rows) == len(document["items"]) == count(folder, "evaluations")
    assert list(rows[0]) == ["trial", "split", "item", "score", "answer", "tokens", "calls", "usd", "seconds"]
    winner = [float(row["score"]) for row in rows if (row["trial"], row["split"]) == (str(trial(result)), "test")]
    assert sum(winner) / len(winner) == pytest.approx(result["winner"]["test"]["mean"])
    assert sorted(path.name for path in folder.glob("*one*")) == ["one.csv", "one.json"]


def trial(result: dict) -> int:  # type: ignore[type-arg]  # JSON
    return int(result["winner"]["trial"])


def test_delete_leaves_the_bank_and_the_looks(studied: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = studied("show", "one", "--json").json
    assert studied("search", "job.yaml", "--name", "two", "--json").code == 0
    banked, scores = count(folder, "completions"), count(folder, "evaluations")
    refused = studied("study", "delete", "one")
    assert refused.code == 2 and "--yes" in refused.err and count(folder, "searches") == 2
    assert studied("study", "delete", "one", "--json").code == 2

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert "was not deleted" in studied("study", "delete", "one").out and count(folder, "searches") == 2
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    said = studied("study", "delete", "one").out
    assert "the bank keeps its completions" in said and "stay counted" in said
    assert studied("study", "show", "one").code == 2
    assert (count(folder, "completions"), count(folder, "touches")) == (banked, 2)
    assert count(folder, "evaluations") == scores / 2
    connection = sqlite3.connect(folder / "inferloom.db")
    assert connection.execute("select study_name from studies").fetchall() == [("two",)]
    connection.close()

    # A new one of this name is a new one: nothing is billed, since the bank has it all, and it is one more look.
    anew = studied("search", "job.yaml", "--name", "one", "--json").json
    assert anew["billed"]["calls"] == 0 and anew["test_touches"] == 3
    assert anew["trials"] == first["trials"]
    assert studied("study", "delete", "two", "--yes", "--json").json == {"study": "two", "scores": scores // 2}


def test_a_study_goes_on_without_the_file_and_from_elsewhere(
    cli: Cli, job: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = cli("search", "job.yaml", "--name", "s", "--max-billed", "calls=30", "--json")
    assert stopped.json["stopped"]
    assert "inferloom study resume s" in cli("study", "show", "s").err
    (folder / "job.yaml").unlink()
    (folder / "elsewhere").mkdir()
    # The data is beside the job's file; the script of a scripted model is where the command runs.
    (folder / "replies.yaml").rename(folder / "elsewhere" / "replies.yaml")
    monkeypatch.chdir(folder / "elsewhere")
    db = f"sqlite:///{folder / 'inferloom.db'}"
    done = cli("study", "resume", "s", "--max-billed", "calls=5000", "--out", "o", "--json", "--db", db)
    assert done.code == 0, done.out
    assert done.json["stopped"] is None and len(done.json["trials"]) == 4
    assert (folder / "elsewhere" / "o" / "report.html").exists()
    assert "study resume s" in done.json["command"]
    (folder / "job.yaml").write_text(job)
    monkeypatch.chdir(folder)
    (folder / "elsewhere" / "replies.yaml").rename(folder / "replies.yaml")
    whole = cli("search", "job.yaml", "--name", "whole", "--json").json
    assert whole["trials"] == done.json["trials"] and whole["winner"]["test"] == done.json["winner"]["test"]
    assert "winner" in cli("study", "resume", "s").out


def test_more_trials_are_the_trials_of_a_longer_study(studied: Cli, folder: Path) -> None:
    first = studied("show", "one", "--json").json
    done = studied("study", "extend", "one", "--trials", "8", "--json")
    assert done.code == 0, done.out
    more = done.json
    assert len(more["trials"]) == 8 and more["test_touches"] == 2
    pairs = zip(first["trials"], more["trials"][:4], strict=True)
    assert all({**before, "on_front": 0} == {**after, "on_front": 0} for before, after in pairs)
    (folder / "job.yaml").write_text(JOB.replace("trials: 4", "trials: 8"))
    fresh = studied("search", "job.yaml", "--name", "fresh", "--json").json
    assert fresh["trials"] == more["trials"] and fresh["winner"]["test"] == more["winner"]["test"]
    # Its own file asks for as many by now, and the old number is refused.
    assert studied("search", "job.yaml", "--name", "one", "--json").json == {**more, "report": "report.html"}
    (folder / "job.yaml").write_text(JOB)
    refused = studied("search", "job.yaml", "--name", "one")
    assert refused.code == 2 and "job.yaml:4: trials: the value is 4; must be at least 8" in refused.err
    assert "test split has been looked at 4 times" in studied("study", "extend", "one", "--trials", "9").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "ones"], "did you mean `one`"),
        (["compare", "one"], "only `one` is named; must be two studies or more"),
        (["compare", "one", "one"], "`one` is named twice"),
        (["compare", "one", "oen"], "did you mean `one`"),
        (["export", "one", "one.txt"], "`one.txt` must end in .json or .csv"),
        (["export", "one", "there.csv"], "the file exists already"),
        (["export", "one", "nowhere/one.csv"], "the folder does not exist"),
        (["export", "noe", "new.csv"], "did you mean `one`"),
        (["delete", "noe", "--yes"], "did you mean `one`"),
        (["resume", "noe"], "did you mean `one`"),
        (["resume", "one", "--max-billed", "cals=3"], "study resume --max-billed"),
        (["extend", "one"], "missing option '--trials'"),
        (["extend", "one", "--trials", "4"], "must be more than 4"),
        (["extend", "one", "--trials", "many"], "valid integer"),
        (["lst"], "did you mean `list`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_changes_nothing(studied: Cli, folder: Path, arguments: list[str], said: str) -> None:
    (folder / "there.csv").write_text("kept")
    before = {path.name: path.stat().st_size for path in folder.iterdir() if "inferloom.db" not in path.name}
    done = studied("study", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert said in done.err
    assert studied("study", *arguments, "--json").json["error"]["message"]
    after = {path.name: path.stat().st_size for path in folder.iterdir() if "inferloom.db" not in path.name}
    assert after == before and len(studied("study", "--json").json) == 1


def test_an_exhausted_space_has_no_more_trials(cli: Cli, folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB.replace("{int: [1, 6]}", "{choice: [1, 2]}"))
    assert cli("search", "job.yaml", "--name", "one").code == 0
    done = cli("study", "extend", "one", "--trials", "9")
    assert done.code == 2 and "every valid point of the study's space was tried (4)" in done.err


def test_looking_for_a_study_makes_no_database(cli: Cli, folder: Path) -> None:
    for arguments in (["show", "x"], ["resume", "x"], ["extend", "x", "--trials", "3"], ["delete", "x", "--yes"]):
        assert cli("study", *arguments).code == 2
    assert not (folder / "inferloom.db").exists()
