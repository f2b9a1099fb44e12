"""The `openai` backend against a real server, whole replies and every way to fail."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest

from inferloom.core.errors import (
    BadResponseError,
    ConnectionCutError,
    ModelError,
    ModelTimeoutError,
    RateLimitedError,
    RequestRejectedError,
    ServerFaultError,
    SetupError,
    UnreachableError,
)
from inferloom.core.types import Message, Request
from inferloom.models.openai import OpenAIBackend, open_openai
from inferloom.models.openai_wire import retry_after
from inferloom.models.spec import ModelSpec
from tests.support.flaky_server import FlakyServer

ASK = Request(messages=(Message("user", "one two three"),), temperature=0.7)


def backend(server: FlakyServer, **fields: object) -> OpenAIBackend:
    spec = ModelSpec.parse({"model": "openai:flaky", "base_url": server.base_url, **fields})
    return open_openai(spec.rest, spec)


async def test_a_reply_is_read_whole() -> None:
    with FlakyServer(cached=2) as server:
        model = backend(server)
        [made] = await model.generate(ASK, [7])
        await model.aclose()
    [entry] = server.log
    assert made.text == entry.texts[0]
    assert made.finish_reason == "stop"
    assert (made.prompt_tokens, made.cached_tokens, made.completion_tokens) == (3, 2, entry.completion_tokens)
    assert made.logprobs is None
    assert entry.body == {
        "model": "flaky",
        "messages": [{"role": "user", "content": "one two three"}],
        "temperature": 0.7,
        "max_tokens": 512,
        "seed": 7,
    }


async def test_usage_of_several_completions_adds_up_to_the_servers() -> None:
    def answer(body: dict[str, object], seed: int, index: int) -> str:
        return "word " * (index * 5 + 1)

    with FlakyServer(answer=answer) as server:
        model = backend(server)
        made = await model.generate(ASK, [1, 2, 3])
        scored = await model.generate(Request(messages=ASK.messages, logprobs=2), [1, 2, 3])
        await model.aclose()
    assert [completion.prompt_tokens for completion in made] == [3, 0, 0]
    assert sum(completion.completion_tokens for completion in made) == server.log[0].completion_tokens
    # With log-probabilities each share is exact; the trailing blank is a token of its own here.
    assert [completion.completion_tokens for completion in scored] == [len(c.logprobs or ()) for c in scored]
    assert all(len(token.top) == 2 for completion in scored for token in completion.logprobs or ())


async def test_fewer_choices_than_asked_come_back_as_they_are() -> None:
    with FlakyServer(plan=["fewer"]) as server:
        model = backend(server)
        made = await model.generate(ASK, [1, 2, 3, 4])
        await model.aclose()
    assert [completion.text for completion in made] == server.log[0].texts
    assert len(made) == 2


async def test_stop_strings_limits_and_structure_reach_the_server() -> None:
    with FlakyServer() as server:
        model = backend(server)
        [stopped] = await model.generate(Request(messages=ASK.messages, stop=("\n",)), [1])
        [cut] = await model.generate(Request(messages=ASK.messages, max_tokens=2), [1])
        schema = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
        [formed] = await model.generate(Request(messages=ASK.messages, schema=schema), [1])
        await model.aclose()
    assert (stopped.finish_reason, stopped.stop_reason, "\n" in stopped.text) == ("stop", "\n", False)
    assert (cut.finish_reason, cut.stop_reason, cut.completion_tokens) == ("length", None, 2)
    assert formed.text == '{"a": 1}'


@pytest.mark.parametrize("inline", [True, False])
async def test_reasoning_is_split_off(inline: bool) -> None:
    with FlakyServer(answer=lambda body, seed, index: "<think>A: 1 maybe</think>\nA: 2") as server:
        model = backend(server)
        sink: list[str] = []
        [made] = await model.generate(ASK, [1], None if inline else lambda index, text: sink.append(text))
        await model.aclose()
    assert (made.text, made.reasoning) == ("A: 2", "A: 1 maybe")


async def test_streamed_and_whole_replies_are_the_same() -> None:
    request = Request(messages=ASK.messages, logprobs=1, stop=("A:",))
    with FlakyServer() as server:
        model = backend(server, prefix="completions")
        seen: dict[int, str] = {0: "", 1: ""}

        def sink(index: int, text: str) -> None:
            seen[index] += text

        streamed = await model.generate(request, [5, 6], sink)
        whole = await model.generate(request, [5, 6])
        raw = Request(prefix="Q: 1 + 1", logprobs=1)
        raw_streamed = await model.generate(raw, [5], lambda index, text: None)
        raw_whole = await model.generate(raw, [5])
        await model.aclose()
    assert streamed == whole
    assert raw_streamed == raw_whole
    assert [seen[0], seen[1]] == [completion.text for completion in whole]


async def test_prefixes_go_where_the_server_takes_them() -> None:
    open_turn = Request(messages=(*ASK.messages, Message("assistant", "A:")))
    with FlakyServer() as server:
        model = backend(server, prefix="continue_final_message")
        await model.generate(open_turn, [1])
        await model.generate(Request(prefix="raw", logprobs=3), [1])
        assert model.capabilities.prefix
        await model.aclose()
        assert server.log[0].body["continue_final_message"] is True
        assert server.log[0].body["add_generation_prompt"] is False
        assert (server.log[1].path, server.log[1].body["prompt"]) == ("/v1/completions", "raw")
        for prefix, request in (("off", Request(prefix="raw")), ("completions", open_turn)):
            plain = backend(server, prefix=prefix)
            with pytest.raises(SetupError, match=r"prefix: (completions|continue_final_message)"):
                await plain.generate(request, [1])
        assert not backend(server).capabilities.prefix
        assert len(server.log) == 2


async def test_rejected_fields_are_not_sent_and_extra_ones_are() -> None:
    with FlakyServer(rejects=["temperature", "seed", "top_p"]) as server:
        strict = backend(server)
        with pytest.raises(RequestRejectedError, match="Unsupported parameter: 'seed'") as caught:
            await strict.generate(ASK, [1])
        assert not caught.value.retryable
        fields = {"reject": ["temperature", "seed", "top_p"], "extra": {"reasoning_effort": "low"}}
        tamed = backend(server, **fields, max_tokens_field="max_completion_tokens", capabilities={"n": False})
        [made] = await tamed.generate(Request(messages=ASK.messages, top_p=0.5), [1])
        await strict.aclose()
        await tamed.aclose()
    assert made.text
    assert set(server.log[1].body) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}
    assert (tamed.capabilities.n, tamed.capabilities.seed, tamed.capabilities.logprobs) == (False, False, True)


FAULTS = [
    ("rate_limit", RateLimitedError, True, "failed"),
    ("server_error", ServerFaultError, True, "failed"),
    ("timeout", ModelTimeoutError, True, "unknown"),
    ("cut", ConnectionCutError, True, "unknown"),
    ("truncated", BadResponseError, True, "unknown"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("fault", "error", "retryable", "outcome"), FAULTS)
async def test_every_fault_becomes_its_error(
    fault: str, error: type[ModelError], retryable: bool, outcome: str, streamed: bool
) -> None:
    with FlakyServer(plan=[fault, None], retry_after="3") as server:  # type: ignore[list-item]  # parametrised
        model = backend(server, timeout=0.5)
        sink = (lambda index, text: None) if streamed else None
        with pytest.raises(error) as caught:
            await model.generate(ASK, [1], sink)
        assert type(caught.value) is error
        assert (caught.value.retryable, caught.value.outcome) == (retryable, outcome)
        assert server.base_url in str(caught.value)
        assert caught.value.retry_after == (3.0 if fault == "rate_limit" else None)
        # The SDK makes no second attempt of its own, and the backend goes on after a fault.
        assert len(server.log) == 1
        [made] = await model.generate(ASK, [1], sink)
        await model.aclose()
    assert made.text == server.log[1].texts[0]
    assert [entry.completions for entry in server.log] == [0, 1]


async def test_unreachable_names_the_url() -> None:
    with FlakyServer() as server:
        model = backend(server)
        url = server.base_url
    with pytest.raises(UnreachableError, match=url) as caught:
        await model.generate(ASK, [1])
    assert caught.value.exit_code == 2
    await model.aclose()


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 1}}, "choices"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, "usage"),
        ({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}, "choices.0.message"),
        ([1], "reply"),
    ],
)
async def test_missing_fields_are_a_bad_response(reply: object, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FlakyServer() as server:
        monkeypatch.setattr(server, "reply_with", reply)
        model = backend(server)
        with pytest.raises(BadResponseError, match=field):
            await model.generate(ASK, [1])
        await model.aclose()


async def test_connections_of_another_event_loop_are_not_reused() -> None:
    with FlakyServer() as server:
        model = backend(server)

        async def ask_once() -> str:
            [made] = await model.generate(ASK, [1])
            await model.aclose()
            return made.text

        texts = [await asyncio.to_thread(asyncio.run, ask_once()) for _ in range(2)]
        assert [await ask_once()] == texts[:1] == texts[1:]


async def test_log_probabilities_that_do_not_come_are_an_error() -> None:
    with FlakyServer(ignores=["logprobs"]) as server:
        model = backend(server)
        with pytest.raises(BadResponseError, match=r"reject: \[logprobs\]") as caught:
            await model.generate(Request(messages=ASK.messages, logprobs=0), [1])
        assert (caught.value.retryable, caught.value.outcome) == (False, "unknown")
        await model.aclose()


async def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("MY_ENDPOINT_KEY", secret)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-secret-987654")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    with FlakyServer(key=secret) as server:
        model = backend(server, key="MY_ENDPOINT_KEY")
        assert (await model.generate(ASK, [1]))[0].text
        keyless = backend(server)
        with pytest.raises(RequestRejectedError, match="401") as caught:
            await keyless.generate(ASK, [1])
        shown = [repr(model), str(vars(model).get("_spec")), str(caught.value), await model.fingerprint()]
        await model.aclose()
        await keyless.aclose()
    assert [entry.authorization for entry in server.log] == [f"Bearer {secret}", "Bearer none"]
    assert all("openai-organization" not in entry.headers for entry in server.log)
    assert caught.value.__cause__ is None
    assert not [text for text in shown if "secret" in text]


async def test_a_server_that_repeats_the_key_does_not_get_it_into_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ENDPOINT_KEY", "odd.key.of.mine")
    with FlakyServer(rejects=["seed"], reject_message="bad field, key odd.key.of.mine, or sk-abcdef123456") as server:
        model = backend(server, key="MY_ENDPOINT_KEY")
        with pytest.raises(RequestRejectedError, match=r"bad field, key \*\*\*, or \*\*\*"):
            await model.generate(ASK, [1])
        await model.aclose()


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    spec = ModelSpec.parse("openai:gpt-4o-mini")
    with pytest.raises(SetupError, match="OPENAI_API_KEY is not set"):
        open_openai(spec.rest, spec)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-two\nlines")
    with pytest.raises(SetupError, match="characters that no key has") as caught:
        open_openai(spec.rest, spec)
    assert "lines" not in str(caught.value)


async def test_fingerprints_tell_endpoints_apart() -> None:
    base = {"model": "openai:m", "base_url": "http://127.0.0.1:1/v1"}
    same = [base, {**base, "timeout": 3}, {**base, "base_url": "http://127.0.0.1:1/v1/"}]
    other = [
        {**base, "revision": "2"},
        {**base, "base_url": "http://127.0.0.1:2/v1"},
        {**base, "model": "openai:n"},
        {**base, "extra": {"top_k": 1}},
    ]
    prints = []
    for fields in same + other:
        spec = ModelSpec.parse(fields)
        prints.append(await open_openai(spec.rest, spec).fingerprint())
    assert len(set(prints[:3])) == 1
    assert len(set(prints)) == 5


def test_retry_after_is_read_in_every_form() -> None:
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    in_an_hour = retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)})
    assert in_an_hour is not None
    assert 3000 < in_an_hour <= 3600
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
