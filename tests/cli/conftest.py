"""The command line, run in this process: fast, and with exit code, standard output and standard error apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from inferloom.cli.main import run

PIPELINE = """\
models: {m: "scripted:replies.yaml"}
steps:
  - sample: {model: m, n: 4}
  - vote
"""
REPLIES = "- {say: ['A: 1', 'A: 2', 'A: 3', 'A: 4', 'A: 5', 'A: 6']}\n"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:  # type: ignore[type-arg]  # whatever the command says
        """Its standard output as one JSON document."""
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a pipeline whose model draws one of six answers by its seed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(PIPELINE)
    (tmp_path / "replies.yaml").write_text(REPLIES)
    rows = [{"question": f"what is {i} times 7?", "answer": "1"} for i in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def cli(folder: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call
