"""`check_model` tells what an endpoint can do, on servers of which we know it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inferloom.core.errors import SetupError
from inferloom.models import retry
from inferloom.models.check import CheckReport, check_model
from inferloom.models.spec import ModelSpec
from tests.support.flaky_server import FlakyServer, default_answer


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr(retry, "sleep", at_once)


def counting(body: dict[str, Any], seed: int, index: int) -> str:
    """Goes on counting where asked to, in both ways of continuing."""
    return " 5, 6" if body.get("prompt") or body.get("continue_final_message") else default_answer(body, seed, index)


async def checked(server: FlakyServer, **fields: object) -> CheckReport:
    return await check_model(ModelSpec.parse({"model": "openai:flaky", "base_url": server.base_url, **fields}))


def results(report: CheckReport) -> dict[str, str]:
    return {probe.name: probe.result for probe in report.probes}


async def test_an_endpoint_that_can_do_everything() -> None:
    with FlakyServer(answer=counting) as server:
        report = await checked(server, price={"input": 1, "output": 2})
        again = await checked(server, prefix="continue_final_message")
    assert set(results(report).values()) == {"ok"}
    assert report.reachable
    assert report.rejected == ()
    # The default spec leaves prefixes off; the probe found the better way.
    assert report.suggested == {"prefix": "continue_final_message"}
    assert again.suggested == {}
    first = server.log[: len(server.log) // 2]
    assert report.usage.calls == len(first)
    assert report.usage.prompt_tokens == sum(entry.prompt_tokens for entry in first)
    assert report.usage.completion_tokens == sum(entry.completion_tokens for entry in first)
    assert report.usage.usd > 0
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["probes"][0] == {"name": "reachable", "result": "ok", "detail": "the model answers"}


async def test_with_a_tokenizer_the_open_turn_goes_to_completions() -> None:
    pytest.importorskip("transformers")
    with FlakyServer(answer=counting) as server:
        report = await checked(server, prefix="completions", tokenizer="pocket:small")
    assert report["prefix"].detail == "goes on from an open assistant turn (`prefix: completions`)"
    assert report.suggested == {}
    assert [type(entry.body["prompt"]) for entry in server.log if "prompt" in entry.body] == [list]
    assert not [entry for entry in server.log if "continue_final_message" in entry.body]


def rambling(body: dict[str, Any], goes_on: bool) -> str:
    """Never counts; asked to go on, ends its one sentence or begins it anew."""
    sentence = "the cat sat on the mat"
    messages = body.get("messages", [])
    opened = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
    return sentence.removeprefix(opened) if goes_on else sentence


@pytest.mark.parametrize(
    ("goes_on", "result", "said"),
    [
        (True, "ok", "goes on from an open assistant turn (`prefix: continue_final_message`)"),
        (False, "no", "starts anew instead of going on from an open assistant turn"),
    ],
)
async def test_a_model_that_cannot_count_is_tried_with_half_of_its_own_answer(
    goes_on: bool, result: str, said: str
) -> None:
    fields = {"prefix": "continue_final_message"}
    with FlakyServer(answer=lambda body, seed, index: rambling(body, goes_on), rejects=["prompt"]) as server:
        report = await checked(server, **fields)
    assert (report["prefix"].result, report["prefix"].detail) == (result, said)
    assert report.suggested == ({} if goes_on else {"prefix": "off"})


async def test_a_server_that_drops_the_open_turn_starts_anew() -> None:
    def answer(body: dict[str, Any], seed: int, index: int) -> str:
        return "1, 2, 3" if body.get("continue_final_message") else counting(body, seed, index)

    with FlakyServer(answer=answer) as server:
        report = await checked(server)
    # A raw prefix is what is left.
    assert report["prefix"].detail == "goes on from a raw prefix (`prefix: completions`)"
    assert report.suggested == {"prefix": "completions"}


async def test_rejected_parameters_are_found_and_left_out_of_the_rest() -> None:
    with FlakyServer(answer=counting, rejects=["temperature", "top_p", "n", "max_tokens"]) as server:
        report = await checked(server)
        accepted = await checked(server, **report.suggested)
    assert report.rejected == ("temperature", "top_p", "n")
    assert results(report) == {
        "reachable": "ok",
        "parameters": "no",
        "n": "no",
        "logprobs": "ok",
        "prefix": "ok",
        "seed": "ok",
        "structured": "ok",
    }
    assert report.suggested["max_tokens_field"] == "max_completion_tokens"
    assert report.suggested["reject"] == ["temperature", "top_p", "n"]
    assert accepted.suggested == {}


async def test_an_endpoint_that_ignores_what_it_cannot_do() -> None:
    ignored = ["n", "seed", "logprobs", "response_format"]
    with FlakyServer(ignores=ignored) as server:
        report = await checked(server)
    assert results(report)["n"] == "no"
    assert results(report)["seed"] == "no"
    assert results(report)["structured"] == "no"
    assert results(report)["logprobs"] == "no"
    assert results(report)["prefix"] == "unknown"
    assert "cannot tell from `first" in report["prefix"].detail
    assert report.suggested["capabilities"] == {"n": False, "logprobs": False, "seed": False, "structured": False}


async def test_faults_leave_unknowns_and_nothing_at_all_is_unreachable() -> None:
    with FlakyServer(plan=[None, "cut", "cut", *[None] * 5, "server_error", "server_error"], answer=counting) as server:
        report = await checked(server)
        url = server.base_url
    assert report["parameters"].result == "unknown"
    assert "`temperature` could not be tried: the connection broke" in report["parameters"].detail
    assert report["n"].result == "unknown"
    gone = await check_model(ModelSpec.parse({"model": "openai:flaky", "base_url": url}))
    assert not gone.reachable
    assert set(results(gone).values()) == {"no", "unknown"}
    assert gone.usage.calls == 0


async def test_a_missing_key_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SetupError, match="OPENAI_API_KEY"):
        await check_model(ModelSpec.parse("openai:gpt-4o-mini"))


async def test_a_model_in_process_is_checked_too() -> None:
    report = await check_model(ModelSpec.parse({"model": "scripted:echo", "capabilities": {"logprobs": False}}))
    assert (report["n"].result, report["logprobs"].result, report["seed"].result) == ("ok", "no", "unknown")
    assert report.suggested == {}
