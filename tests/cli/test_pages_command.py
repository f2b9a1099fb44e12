"""Commands that write pages: the file appears whole, and a mistake leaves none."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.test_study_command import JOB


def test_a_run_becomes_a_page(cli: Cli, folder: Path) -> None:
    run = cli("run", "p.yaml", "how much?", "--json").json["run_id"]
    done = cli("runs", "page", run[:10], "--out", "there.html")
    assert (done.code, done.out) == (0, "wrote there.html\n")
    assert "how much?" in (folder / "there.html").read_text()
    assert cli("runs", "page", run, "--json").json == {"run_id": run, "page": "run.html"}


def test_a_page_of_nothing_is_not_written(cli: Cli, folder: Path) -> None:
    run = cli("run", "p.yaml", "how much?", "--json").json["run_id"]
    unknown = cli("runs", "page", "zzz")
    assert unknown.code == 2
    assert "unknown run `zzz`" in unknown.err
    missing = cli("runs", "page", run, "--out", "missing/run.html")
    assert missing.code == 2
    assert "missing/run.html: the page cannot be written" in missing.err
    assert not list(folder.glob("*.html"))


def test_a_study_becomes_a_report(cli: Cli, folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB)
    assert cli("search", "job.yaml", "--name", "one", "--json").code == 0
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "data.jsonl").rename(folder / "moved.jsonl")
    done = cli("study", "report", "one", "--out", "there.html", "--json")
    assert (done.code, done.json) == (0, {"study": "one", "report": "there.html"})
    again = (folder / "there.html").read_text()
    assert "right answer" in first and "right answer" not in again, "the data have moved"
    assert "Item by item" in first and "Item by item" in again
    assert cli("study", "watch", "one", "--json").json["status"] == "done"
    unknown = cli("study", "report", "two")
    assert unknown.code == 2
    assert "unknown study `two`" in unknown.err
