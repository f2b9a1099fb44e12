"""`inferloom models check` on real servers and engines: what it finds, what it suggests, what the command says."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.cli.main import run
from inferloom.core.types import Json
from inferloom.models.check import CheckReport, check_model
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.document import dump
from tests_vllm.support import Models


def results(report: CheckReport) -> dict[str, str]:
    """What was found, but of structured output: these models like endless white space, which a schema allows."""
    return {probe.name: probe.result for probe in report.probes if probe.name != "structured"}


async def test_a_server_can_do_everything_and_its_spec_is_right(served: Models) -> None:
    report = await check_model(ModelSpec.parse(served["large"]))
    assert set(results(report).values()) == {"ok"}
    assert report["prefix"].detail == "goes on from an open assistant turn (`prefix: completions`)"
    assert report.rejected == ()
    assert report.suggested.keys() <= {"capabilities"}
    assert report.usage.calls > 10
    assert report.usage.prompt_tokens > 0


async def test_a_spec_that_says_nothing_of_prefixes_is_told_the_way(served: Models) -> None:
    bare: dict[str, Json] = {
        name: part for name, part in served["large"].items() if name not in ("prefix", "tokenizer")
    }
    report = await check_model(ModelSpec.parse(bare))
    assert report["prefix"].detail == "goes on from an open assistant turn (`prefix: continue_final_message`)"
    assert report.suggested["prefix"] == "continue_final_message"


def test_the_command_says_so(
    served: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models.yaml").write_text(dump({"large": served["large"]}))
    assert run(["models", "check", "large"]) == 0
    said = capsys.readouterr().out
    assert "goes on from an open assistant turn" in " ".join(said.split())
    assert "all of temperature" in " ".join(said.split())
