"""Commands that write pages: the file appears whole, and a mistake leaves none."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


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
