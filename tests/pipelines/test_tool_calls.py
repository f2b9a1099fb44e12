"""Tool calls on their way: to the server, into the bank, through votes and judges, and back in the next turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.core.answers import normalise
from inferloom.core.errors import CapabilityError
from inferloom.core.tools import ToolCall, Tools, calls_answer
from inferloom.core.types import Candidate, Completion, Message, Request
from inferloom.models.client import Gateway, request_body
from inferloom.models.nominal import upper_bound
from inferloom.models.openai import open_openai
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.tool_server import ToolServer

ADD = Tools(json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]))
CALL = ToolCall("add", '{"a": 1, "b": 2}', "call_0")
ASK = Request(messages=(Message("user", "1+2?"),), tools=ADD)


def calls(name: str, *arguments: str) -> ScriptedBackend:
    """A model whose i-th draw calls `add` with the i-th arguments, round and round."""
    said: list[int] = []

    def reply(request: Request, seed: int) -> Completion:
        said.append(seed)
        call = ToolCall("add", arguments[(len(said) - 1) % len(arguments)], f"call_{len(said)}")
        return Completion(text="", finish_reason="stop", completion_tokens=5, tool_calls=(call,))

    return register_backend(name, ScriptedBackend(reply, name=name))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/tools.db") as opened:
        yield opened


def pipeline(store: Store, text: str) -> Pipeline:
    return Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_is_offered_tools_and_its_calls_are_read(streamed: bool) -> None:
    heard: list[str] = []
    with ToolServer() as server:
        spec = ModelSpec.parse({"model": "openai:m", "base_url": server.base_url})
        backend = open_openai("m", spec)
        sink = (lambda index, text: heard.append(text)) if streamed else None
        turns = (*ASK.messages, Message("assistant", "", (CALL,)), Message("tool", "3", tool_call_id="call_0"))
        [made] = await backend.generate(Request(messages=turns, tools=Tools(ADD.definitions, "add")), [1], sink)
        await backend.aclose()
    assert made.tool_calls == (CALL,)
    assert (made.text, made.finish_reason, made.completion_tokens) == ("", "stop", 12)
    assert heard == []
    [body] = server.bodies
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["tools"] == json.loads(ADD.definitions)
    function = {"name": "add", "arguments": CALL.arguments}
    assert body["messages"][1]["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert body["messages"][2] == {"role": "tool", "content": "3", "tool_call_id": "call_0"}


async def test_the_bank_gives_tool_calls_back(store: Store) -> None:
    with ToolServer() as server:
        text = (
            f"models: {{m: {{model: 'openai:m', base_url: '{server.base_url}'}}}}\nsteps:\n  - sample: {{model: m}}\n"
        )
        first = await pipeline(store, text).ainvoke("1+2?", stream="s", tools=ADD)
        again = await pipeline(store, text).ainvoke("1+2?", stream="s", tools=ADD)
        assert len(server.bodies) == 1
    assert first.tool_calls == again.tool_calls == (CALL,)
    assert again.billed.calls == 0


async def test_candidates_are_voted_on_by_name_and_arguments(store: Store) -> None:
    calls("voters", '{"a": 1, "b": 2}', '{"a": 2, "b": 2}', '{"b": 2.0, "a": 1}')
    flow = pipeline(store, "models: {m: scripted:voters}\nsteps:\n  - sample: {model: m, n: 3}\n  - vote\n")
    result = await flow.ainvoke("1+2?", tools=ADD)
    assert result.candidates[0].scores["vote_share"] == pytest.approx(2 / 3)
    assert result.tool_calls == (ToolCall("add", '{"a": 1, "b": 2}', "call_1"),)
    assert result.answer == 'add({"a": 1, "b": 2})'
    stored = [row.candidate for row in store.candidates(result.run_id)]
    assert stored[0] == Candidate.from_json(stored[0].to_json())
    assert stored[0].tool_calls and stored[0].content == ""


def test_the_answer_of_calls_keeps_their_case_and_not_their_order() -> None:
    one, other = ToolCall("read", '{"path": "/A"}'), ToolCall("read", '{"path": "/a"}')
    assert normalise(calls_answer([one])) != normalise(calls_answer([other]))
    assert calls_answer([one, other]) == calls_answer([other, one])
    assert ToolCall("read", "not json").canonical == "read(not json)"


async def test_a_judge_reads_the_calls(store: Store) -> None:
    read: list[str] = []

    def judge(request: Request, seed: int) -> str:
        read.append(request.messages[-1].content)
        return "7"

    register_backend("calls-judge", ScriptedBackend(judge, name="calls-judge"))
    calls("judged", '{"a": 1}', '{"a": 2}')
    text = (
        "models: {m: scripted:judged, j: scripted:calls-judge}\n"
        "steps:\n  - sample: {model: m, n: 2}\n  - score: {model: j}\n  - best: judge\n"
    )
    result = await pipeline(store, text).ainvoke("1+2?", tools=ADD)
    assert sorted('add({"a": 1})' in text for text in read) == [False, True]
    assert result.tool_calls


async def test_what_tools_said_goes_on_as_turns_or_as_text(store: Store) -> None:
    seen: list[Request] = []

    def reply(request: Request, seed: int) -> str:
        seen.append(request)
        return "A: 3"

    register_backend("after-tools", ScriptedBackend(reply, name="after-tools"))
    flow = pipeline(store, "models: {m: scripted:after-tools}\nsteps:\n  - sample: {model: m}\n")
    turns = [
        Message("user", "1+2?"),
        Message("assistant", "", (CALL,)),
        Message("tool", "3", tool_call_id="call_0"),
    ]
    assert (await flow.ainvoke(turns, tools=ADD)).answer == "3"
    assert [turn for turn in seen[0].messages if turn.role != "system"] == turns
    result = await flow.ainvoke(turns)
    assert seen[1].messages[-1] == Message("user", '1+2?\n\nadd({"a": 1, "b": 2}) returned: 3')
    assert store.run(result.run_id).question == "1+2?"


@pytest.mark.parametrize(
    ("steps", "model", "said"),
    [
        ("[{sample: {model: m}}, {fuse: {model: m}}]", "scripted:echo", "`fuse` writes answers and cannot offer tools"),
        ("[{sample: {model: m}}]", "pocket:small", "model `m` \\(pocket:small\\) cannot call any"),
    ],
)
async def test_tools_that_would_be_lost_are_refused(store: Store, steps: str, model: str, said: str) -> None:
    flow = pipeline(store, f"models: {{m: '{model}'}}\nsteps: {steps}\n")
    with pytest.raises(CapabilityError, match=said):
        await flow.ainvoke("1+2?", tools=ADD)
    assert store.runs() == []


def test_tools_are_part_of_the_address_and_of_the_bound() -> None:
    plain = Request(messages=ASK.messages)
    assert request_body(plain) != request_body(ASK) != request_body(Request(messages=ASK.messages, tools=Tools("[]")))
    spec = ModelSpec.parse("scripted:echo")
    assert upper_bound(spec, ASK, 1).prompt_tokens > upper_bound(spec, plain, 1).prompt_tokens + len(ADD.definitions)


async def test_forgetting_finds_the_arguments(store: Store) -> None:
    calls("forgetful", json.dumps({"who": 'Zoë "Z" Smith'}))
    flow = pipeline(store, "models: {m: scripted:forgetful}\nsteps:\n  - sample: {model: m}\n")
    result = await flow.ainvoke("1+2?", tools=ADD)
    assert store.bank_forget('Zoë "Z" Smith').completions == 1
    [row] = store.candidates(result.run_id)
    assert (row.candidate.text, row.candidate.tool_calls) == ("", ())
