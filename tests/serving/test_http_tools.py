"""Tools over HTTP: offered, called, answered; candidates that call tools are voted on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.serving.http_server import REFINED, SINGLE, VOTE, Serving, pipeline, serving
from tests.support.tool_server import ToolServer

TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ToolServer]:
    with ToolServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(upstream: ToolServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tools")
    for name, steps in (("one", SINGLE), ("four", VOTE), ("refined", REFINED)):
        (folder / f"{name}.yaml").write_text(pipeline(upstream.base_url, steps))
    with serving(folder, "one.yaml", "four.yaml", "refined.yaml", "small=single") as found:
        yield found


def test_a_call_comes_back_and_its_answer_goes_on(server: Serving, upstream: ToolServer) -> None:
    turns: list[ChatCompletionMessageParam] = [{"role": "user", "content": "1+2?"}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="four", messages=turns, tools=[TOOL], tool_choice="required")
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": 2})
        said = choice.message.model_dump()
        turns += [said, {"role": "tool", "tool_call_id": call.id, "content": "3"}]  # type: ignore[list-item]  # as users do
        client.chat.completions.create(model="four", messages=turns, tools=[TOOL])
    sent = upstream.bodies[-1]["messages"]
    assert sent[-1]["content"] == "3"
    assert sent[-1]["tool_call_id"] == call.id == sent[-2]["tool_calls"][0]["id"]


@pytest.mark.parametrize("model", ["one", "four"])
def test_a_streamed_call_is_whole(server: Serving, model: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "1+2?"}], tools=[TOOL], stream=True
        )
        deltas = [chunk.choices[0] for chunk in stream]
    (call,) = [call for delta in deltas for call in delta.delta.tool_calls or []]
    assert call.function is not None
    assert json.loads(call.function.arguments or "") == {"a": 1, "b": 2}
    assert deltas[-1].finish_reason == "tool_calls"
    assert not "".join(delta.delta.content or "" for delta in deltas)


def test_tools_that_cannot_be_offered_are_refused(server: Serving, upstream: ToolServer) -> None:
    calls = len(upstream.bodies)
    for model, told in (("refined", "`fuse` writes answers"), ("small", "cannot call any")):
        for streamed in (False, True):
            response = server.ask(model, tools=[TOOL], stream=streamed)  # type: ignore[list-item]  # it is plain JSON
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "tools"
            assert told in response.json()["error"]["message"]
    other = {"type": "function", "function": {"name": "sub"}}
    response = server.ask("one", tools=[TOOL], tool_choice=other)  # type: ignore[list-item,arg-type]  # it is plain JSON
    assert "it must be one of add" in response.json()["error"]["message"]
    assert len(upstream.bodies) == calls
