"""The programs of `examples/` as a user starts them, on the models that come along."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from inferloom.core.answers import same_answer
from inferloom.store import Store

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def started(folder: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def said(folder: Path, name: str, *arguments: str) -> str:
    with started(folder, name, *arguments) as process:
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return out


def test_every_example_is_tested_here() -> None:
    tested = {"agent_that_remembers.py", "batch.py", "tool_agent.py"}
    in_test_studio = {"studio.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested | in_test_studio


def test_the_agent_remembers_between_sessions_and_for_each_user(tmp_path: Path) -> None:
    pytest.importorskip("wordllama", reason="the agent's memory needs the extra `embeddings`")
    taught = said(tmp_path, "agent_that_remembers.py", "ann", "7$5=?", "--explain", "a$b=3*a+b")
    again = said(tmp_path, "agent_that_remembers.py", "ann", "6$4=?", "--thread", "2")
    said(tmp_path, "agent_that_remembers.py", "bob", "6$4=?")
    # What an answer is worth is the model's business; what reached it is ours.
    assert taught.splitlines()[0] == "3*7=21"
    assert again.splitlines()[0] == "3*6=18"
    with closing(sqlite3.connect(tmp_path / "inferloom.db")) as database:
        bodies = [body for (body,) in database.execute("select body from requests")]
        memories = set(database.execute("select namespace, name from memories"))
    asked = [json.loads(body)["messages"] for body in bodies]
    explained = {messages[-1][1]: "a$b=3*a+b" in messages[0][1] for messages in asked if len(messages) <= 2}
    assert explained["7$5=?"]
    assert {("ann", "explained"), ("ann", "solved")} <= memories
    assert all("a$b=3*a+b" not in str(messages) for messages in asked if messages[0][1] == "6$4=?")
    with Store.open(f"{tmp_path}/inferloom.db") as store:
        assert [run.status for run in store.runs()] == ["done"] * 3


def test_the_tool_agents_answer_is_verified(tmp_path: Path) -> None:
    out = said(tmp_path, "tool_agent.py", "12+34+56").splitlines()
    assert out == ["add(12, 34)", "add(46, 56)", "A: 102 (verified)"]
    with Store.open(f"{tmp_path}/inferloom.db") as store:
        runs = store.runs()
        assert [run.answer for run in runs] == ["102", "102", 'add({"a": 46, "b": 56})', 'add({"a": 12, "b": 34})']
        models = {call.model for run in runs for call in store.calls(run.id)}
    assert models == {"caller", "large"}


def test_a_batch_that_is_killed_repeats_no_committed_call(tmp_path: Path) -> None:
    count = 24
    rows = [json.dumps({"question": f"1{number}+2{number}"}) for number in range(count)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    with started(tmp_path, "batch.py", "in.jsonl", "out.jsonl") as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write('{"line": 23, "ans')  # a line that was cut in the middle
    before = len((tmp_path / "out.jsonl").read_text().splitlines()) - 1
    assert 5 <= before < count
    out = said(tmp_path, "batch.py", "in.jsonl", "out.jsonl")
    assert len(out.splitlines()) == count - before
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(answer["line"] for answer in answers) == list(range(count))
    assert sum(same_answer(one["answer"], str(30 + 2 * one["line"])) for one in answers if one["line"] < 10) > 0
    with closing(sqlite3.connect(tmp_path / "inferloom.db")) as database:
        [banked] = database.execute("select count(*), sum(completion_tokens) from completions")
        [billed] = database.execute("select sum(completions), sum(billed_completion_tokens) from calls")
    # Every completion in the bank was billed once: what was committed before the kill was not asked for again.
    assert banked == billed
    assert banked[0] == 5 * count
