"""Every mistake is one line on standard error, or one JSON document; exit code 2; nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

BAD_PIPELINES = {
    "unknown node": ("models: {m: 'scripted:echo'}\nsteps: [{sample: {model: m}}, rnak]\n", "did you mean `rank`"),
    "unknown model": ("models: {small: 'scripted:echo'}\nsteps: [{sample: {model: smal}}]\n", "did you mean `small`"),
    "unknown scheme": ("models: {m: 'opnai:x'}\nsteps: [{sample: {model: m}}]\n", "openai"),
    "unknown pocket model": (
        "models: {m: 'pocket:lagre'}\nsteps: [{sample: {model: m}}]\n",
        "bad.yaml:1: models.m: unknown pocket model `lagre`; did you mean `large`?",
    ),
    "wrong type": ("models: {m: 'scripted:echo'}\nsteps: [{sample: {model: m, n: many}}]\n", "many"),
    "out of range": ("models: {m: 'scripted:echo'}\nsteps: [{sample: {model: m, n: 0}}]\n", "from 1 to 1024"),
    "rank before candidates": ("models: {m: 'scripted:echo'}\nsteps: [{rank: {model: m}}]\n", "candidates"),
    "cycle without exit": (
        "models: {m: 'scripted:echo'}\nnodes: {a: {sample: {model: m}}, b: vote}\nedges: [[a, b], [b, a]]\n",
        "",
    ),
    "missing capability": (
        "models: {m: {model: 'scripted:echo', capabilities: {logprobs: false}}}\n"
        "steps: [{sample: {model: m, logprobs: true}}]\n",
        "logprobs",
    ),
    "not yaml": ("models: {m\n", "bad.yaml:"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize("case", BAD_PIPELINES)
def test_a_bad_pipeline_is_one_line(cli: Cli, folder: Path, case: str) -> None:
    text, said = BAD_PIPELINES[case]
    (folder / "bad.yaml").write_text(text)
    done = cli("run", "bad.yaml", "hi")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    as_json = cli("run", "bad.yaml", "hi", "--json")
    assert as_json.code == 2
    assert set(as_json.json["error"]) == {"kind", "message", "where", "suggestion"}


@pytest.mark.parametrize(("case", "commands"), [("unknown node", 4), ("unknown pocket model", 3)])
def test_a_bad_pipeline_makes_no_database(cli: Cli, folder: Path, case: str, commands: int) -> None:
    (folder / "bad.yaml").write_text(BAD_PIPELINES[case][0])
    before = sorted(folder.iterdir())
    # A plan opens no model.
    for command in (
        ["run", "bad.yaml", "hi"],
        ["eval", "bad.yaml", "--data", "data.jsonl"],
        ["serve", "bad.yaml", "--port", "0"],
        ["plan", "bad.yaml"],
    )[:commands]:
        assert cli(*command).code == 2
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "did you mean `run`"),
        (["runs", "shwo"], "did you mean `show`"),
        (["run", "p.yaml", "hi", "--steam", "s"], "did you mean `--stream`"),
        (["run", "p.yaml"], "missing argument 'QUESTION'"),
        (["runs", "--limit", "0"], "limit"),
        (["run", "p.yaml", "  "], "the question is empty"),
        (["run", "selfconsistency", "hi"], "did you mean `self_consistency`"),
        (["nodes", "rnak"], "did you mean `rank`"),
        (["runs", "show", "abcdef"], "abcdef"),
        (["show", "nothing"], "unknown pipeline or study"),
        (["eval", "p.yaml", "--data", "data.jsonl", "--field", "answr=x"], "answer"),
        (["eval", "p.yaml", "--data", "data.jsonl", "--split", "tset"], "test"),
        (["eval", "p.yaml", "--data", "data.json"], ".jsonl"),
        (["eval", "p.yaml", "--data", "pokcet"], "did you mean `pocket`"),
        (["search", "nothing"], "no search job `nothing`"),
        (["models", "check", "nothing"], "unknown model `nothing`"),
        (["models", "check", "openai:x", "--base-url", "http://127.0.0.1:9/v1"], "cannot connect"),
        (["bank", "forget", "x"], "at least 3 characters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    as_json = cli(*arguments, "--json")
    assert as_json.code == 2
    assert as_json.json["error"]["message"]
    assert as_json.err == ""


@pytest.mark.parametrize("rows", ["", "\n\n", '{"question": "a"\n', '{"question": "a"}\n', '["a"]\n'])
def test_bad_data_names_the_file_before_anything_is_asked(cli: Cli, folder: Path, rows: str) -> None:
    (folder / "bad.jsonl").write_text(rows)
    done = cli("eval", "p.yaml", "--data", "bad.jsonl")
    assert done.code == 2
    assert "bad.jsonl" in done.err
    assert not (folder / "inferloom.db").exists()


def test_a_missing_key_is_named_and_a_key_in_a_file_never_repeated(cli: Cli, folder: Path) -> None:
    (folder / "k.yaml").write_text("models: {m: {model: 'openai:x', key: MY_KEY}}\nsteps: [{sample: {model: m}}]\n")
    done = cli("run", "k.yaml", "hi")
    assert done.code == 2
    assert "MY_KEY" in done.err
    (folder / "k.yaml").write_text("models: {m: {model: 'openai:x', key: sk-abc123}}\nsteps: [{sample: {model: m}}]\n")
    done = cli("run", "k.yaml", "hi")
    assert done.code == 2
    assert "sk-abc123" not in done.err + cli("run", "k.yaml", "hi", "--json").out


def test_an_unreachable_endpoint_is_the_users_to_mend(cli: Cli, folder: Path) -> None:
    (folder / "u.yaml").write_text(
        "models: {m: {model: 'openai:x', base_url: 'http://127.0.0.1:9/v1', retries: 1}}\n"
        "steps: [{sample: {model: m}}]\n"
    )
    done = cli("run", "u.yaml", "hi", "--json")
    assert done.code == 2
    assert done.json["error"]["kind"] == "unreachable"


def test_a_corrupt_database_is_left_as_it_is(cli: Cli, folder: Path) -> None:
    (folder / "inferloom.db").write_bytes(b"no database at all" * 100)
    done = cli("run", "p.yaml", "hi")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert (folder / "inferloom.db").read_bytes() == b"no database at all" * 100


def test_a_newer_database_is_refused_untouched(cli: Cli, folder: Path) -> None:
    cli("run", "p.yaml", "hi")
    with sqlite3.connect(folder / "inferloom.db") as connection:
        connection.execute("update inferloom_alembic_version set version_num = '9999'")
    connection.close()
    before = (folder / "inferloom.db").read_bytes()
    done = cli("runs", "--json")
    assert done.code == 2
    assert done.json["error"]["kind"] == "database"
    assert (folder / "inferloom.db").read_bytes() == before


def test_an_unforeseen_error_is_one_line_and_says_how_to_see_more(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("inferloom.nodes.describe.describe", broken)
    done = cli("nodes")
    assert done.code == 1
    assert done.err == "error: unexpected ZeroDivisionError: on purpose (set INFERLOOM_DEBUG=1 for the traceback)\n"
    monkeypatch.setenv("INFERLOOM_DEBUG", "1")
    assert "Traceback" in cli("nodes").err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from inferloom.cli import main; main()", *arguments]


def test_interrupt_ends_with_one_line_and_130(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        (folder / "slow.yaml").write_text(
            f"models: {{m: {{model: 'openai:x', base_url: '{url}'}}}}\nsteps: [{{sample: {{model: m}}}}]\n"
        )
        process = subprocess.Popen(
            command("run", "slow.yaml", "hi"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts background jobs with interrupts ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        connection, _ = server.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("nodes", "--json"), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141
