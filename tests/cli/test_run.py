"""`run`, `runs` and `bank`: an answer, its accounts and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FIELDS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "usd", "seconds")


def test_usage_is_the_sum_of_the_ledger_rows(cli: Cli) -> None:
    answer = cli("run", "p.yaml", "how many?", "--json")
    assert answer.code == 0
    assert set(answer.json["usage"]) == set(answer.json["billed"]) == set(FIELDS)
    assert answer.json["usage"]["calls"] == 4
    shown = cli("runs", "show", answer.json["run_id"], "--json").json
    for kind, total in (("nominal", "usage"), ("billed", "billed")):
        for field in FIELDS:
            rows = sum(call[kind][field] for call in shown["calls"])
            assert rows == pytest.approx(answer.json[total][field]), field


def test_a_stream_repeats_without_bill_and_no_stream_draws_afresh(cli: Cli) -> None:
    first, second = (cli("run", "p.yaml", "how many?", "--stream", "s", "--json").json for _ in range(2))
    assert first["billed"]["calls"] > 0
    assert second["billed"]["calls"] == 0
    assert second["usage"] == first["usage"]
    assert second["answer"] == first["answer"]
    fresh = [cli("run", "p.yaml", "how many?", "--json").json for _ in range(3)]
    assert all(run["billed"]["calls"] > 0 for run in fresh)
    assert len({run["stream"] for run in fresh}) == 3


def test_the_answer_alone_is_on_standard_output(cli: Cli) -> None:
    done = cli("run", "p.yaml", "how many?")
    assert done.out.strip() in {"1", "2", "3", "4", "5", "6"}
    assert "4 calls" in done.err


def test_watch_tells_each_node_on_standard_error(cli: Cli) -> None:
    done = cli("run", "p.yaml", "how many?", "--watch", "--json")
    assert done.json["answer"]
    assert "sample" in done.err
    assert "vote" in done.err


def test_runs_lists_newest_first_and_shows_by_prefix(cli: Cli) -> None:
    ids = [cli("run", "p.yaml", question, "--json").json["run_id"] for question in ("one?", "two?")]
    assert [run["run_id"] for run in cli("runs", "--json").json] == ids[::-1]
    assert cli("runs", "show", ids[0][:10], "--json").json["question"] == "one?"
    assert "two?" in cli("runs").out


def test_reading_makes_no_database(cli: Cli, folder: Path) -> None:
    for command in ("runs", "bank", "study"):
        assert cli(command, "--json").json == []
    assert not (folder / "inferloom.db").exists()


def test_bank_size_export_prune_and_forget(cli: Cli, folder: Path) -> None:
    cli("run", "p.yaml", "a secret question?")
    cli("run", "p.yaml", "another one?")
    (size,) = cli("bank", "size", "--json").json
    assert (size["model"], size["completions"]) == ("m", 8)
    assert cli("bank", "export", "out.jsonl", "--json").json["written"] == 8
    assert len((folder / "out.jsonl").read_text().splitlines()) == 8
    assert cli("bank", "export", "out.jsonl").code == 2
    assert cli("bank", "forget", "secret question", "--json").json["completions"] == 4
    assert "secret" not in cli("runs", "--json").out
    assert cli("bank", "prune").code == 2
    assert cli("bank", "prune", "--model", "m", "--json").json == {"removed": 4}
    assert cli("bank", "--json").json == []


def test_db_may_come_from_the_environment(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLOOM_DB", "sqlite:///elsewhere.db")
    cli("run", "p.yaml", "how many?")
    assert (folder / "elsewhere.db").exists()
    assert not (folder / "inferloom.db").exists()


def test_markup_and_escapes_in_texts_do_not_reach_the_terminal(cli: Cli, folder: Path) -> None:
    (folder / "replies.yaml").write_text('- {say: "A: [red]1[/red]\\e[31m"}\n')
    run_id = cli("run", "p.yaml", "[bold]why?[/bold] \x1b[31m", "--json").json["run_id"]
    shown = cli("runs", "show", run_id).out
    assert "[bold]why?[/bold]" in shown
    assert "[red]1[/red]" in shown
    assert "\x1b" not in shown + cli("runs").out
