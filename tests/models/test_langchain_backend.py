"""`langchain:`: chat models of LangChain as models of a pipeline, one of a provider's own package over real HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, MessagesState, StateGraph

from inferloom.core.errors import (
    CapabilityError,
    ModelError,
    RateLimitedError,
    RequestRejectedError,
    ServerFaultError,
    SetupError,
    UnknownNameError,
)
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import Message, Request
from inferloom.models.client import Gateway
from inferloom.models.langchain import LangChainBackend, UnexplainedError, open_langchain, register_chat_model
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.flaky_server import FlakyServer
from tests.support.tool_server import ToolServer

ASK = Request(messages=(Message("system", "Be brief."), Message("user", "one two three")), max_tokens=20)
ADD = Tools(
    json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]), "required"
)
NUMBERS = count()


class Parrot(BaseChatModel):
    """Says what it is told to, with its usage, and keeps what it was asked."""

    says: str = "A: 3"
    usage: bool = True
    fails: Any = None
    asked: list[dict[str, Any]] = []

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append({"messages": messages, "stop": stop, **kwargs})
        if self.fails is not None:
            raise self.fails
        told: Any = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9} if self.usage else None
        message = AIMessage(self.says, usage_metadata=told, response_metadata={"stop_reason": "max_tokens"})
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/langchain.db") as opened:
        yield opened


def backend(model: BaseChatModel, **fields: Any) -> LangChainBackend:
    return LangChainBackend("langchain:test", model, ModelSpec.parse({"model": "langchain:test", **fields}))


def provided(server_url: str, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> LangChainBackend:
    """LangChain's own package for OpenAI, made by its name."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    spec = {"model": "langchain:openai:flaky", "extra": {"base_url": server_url, "stream_usage": True}, **fields}
    parsed = ModelSpec.parse(spec)
    return open_langchain(parsed.rest, parsed)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_providers_model_over_http(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    with FlakyServer(cached=2) as server:
        sink = (lambda index, text: heard.append(text)) if streamed else None
        [made] = await provided(server.base_url, monkeypatch).generate(ASK, [1], sink)
    [entry] = server.log
    assert made.text == entry.texts[0]
    assert "".join(heard) == (made.text if streamed else "")
    assert (made.prompt_tokens, made.completion_tokens) == (entry.prompt_tokens, entry.completion_tokens)
    assert (made.cached_tokens, made.finish_reason) == (2, "stop")
    assert [turn["role"] for turn in entry.body["messages"]] == ["system", "user"]
    assert entry.body.get("max_completion_tokens", entry.body.get("max_tokens")) == 20


async def test_tools_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ToolCall("add", '{"a": 1}', "c1")
    turns = (Message("user", "1?"), Message("assistant", "", (call,)), Message("tool", "1", tool_call_id="c1"))
    with ToolServer() as server:
        model = provided(server.base_url, monkeypatch)
        assert model.capabilities.tools
        [made] = await model.generate(Request(messages=turns, tools=ADD), [1])
    assert [one.canonical for one in made.tool_calls] == ['add({"a": 1, "b": 2})']
    assert made.finish_reason == "stop"
    [body] = server.bodies
    assert body["tool_choice"] == "required"
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "add"
    assert body["messages"][2] == {"role": "tool", "content": "1", "tool_call_id": "c1"}


@pytest.mark.parametrize(("fault", "kind"), [("rate_limit", RateLimitedError), ("server_error", ServerFaultError)])
async def test_failures_say_whether_to_ask_again(
    fault: Any, kind: type[ModelError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyServer(plan=[fault]) as server:
        with pytest.raises(kind):
            await provided(server.base_url, monkeypatch).generate(ASK, [1])
        assert len(server.log) == 1  # LangChain retried nothing by itself


async def test_a_registered_model_answers_in_a_pipeline_with_exact_accounts(store: Store) -> None:
    name = f"parrot-{next(NUMBERS)}"
    register_chat_model(name, Parrot())
    text = f"models: {{m: {{model: 'langchain:{name}', price: {{input: 1, output: 1}}}}}}\n"
    flow = Pipeline(PipelineSpec.parse(text + "steps: [{sample: {model: m, n: 3}}, vote]\n"), Gateway(store))
    result = await flow.ainvoke("q", stream="s")
    assert (result.answer, result.usage.calls, result.billed.calls) == ("3", 3, 3)
    assert result.billed.prompt_tokens == 21 and result.usage.prompt_tokens == 7
    assert (await flow.ainvoke("q", stream="s")).billed.calls == 0


async def test_what_goes_along_and_what_comes_back() -> None:
    model = Parrot(says="one END two", asked=[])
    request = Request(messages=ASK.messages, stop=("END",), temperature=0.3, max_tokens=9)
    [made] = await backend(model, reject=["temperature"], max_tokens_field="max_completion_tokens").generate(
        request, [1]
    )
    assert (made.text, made.stop_reason, made.finish_reason) == ("one ", "END", "length")
    [asked] = model.asked
    assert (asked["stop"], asked["max_completion_tokens"], "temperature" in asked) == (["END"], 9, False)


async def test_what_it_cannot_do_is_said(store: Store) -> None:
    able = backend(Parrot()).capabilities
    assert able.names() == []
    with pytest.raises(UnexplainedError, match="did not tell its usage"):
        await backend(Parrot(usage=False)).generate(ASK, [1])
    with pytest.raises(UnexplainedError, match="KeyError: 'inside'"):
        await backend(Parrot(fails=KeyError("inside"))).generate(ASK, [1])
    with pytest.raises(RequestRejectedError, match="cannot go on from text"):
        await backend(Parrot()).generate(Request(prefix="A"), [1])
    name = f"parrot-{next(NUMBERS)}"
    register_chat_model(name, Parrot())
    spec = PipelineSpec.parse(f"models: {{m: 'langchain:{name}'}}\nsteps: [{{sample: {{model: m, logprobs: true}}}}]\n")
    with pytest.raises(CapabilityError, match="`logprobs`"):
        Pipeline(spec, Gateway(store))


async def test_the_fingerprint_knows_the_model_and_its_settings() -> None:
    one = await backend(Parrot()).fingerprint()
    assert one == await backend(Parrot()).fingerprint()
    assert one != await backend(Parrot(), revision="2").fingerprint()
    assert one != await backend(GenericFakeChatModel(messages=iter([]))).fingerprint()


def test_a_name_or_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="chat model"):
        open_langchain("nobody", ModelSpec.parse("langchain:nobody"))
    with pytest.raises(SetupError, match="langchain-anthropic"):
        open_langchain("anthropic:x", ModelSpec.parse("langchain:anthropic:x"))
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(SetupError, match=r"pip install 'inferloom\[langchain\]'"):
        open_langchain("openai:x", ModelSpec.parse("langchain:openai:x"))


async def test_drafts_are_no_messages_of_the_agent(store: Store) -> None:
    """LangGraph listens to every chat model that is called inside a graph; candidates are not what the agent says."""
    name = f"parrot-{next(NUMBERS)}"
    register_chat_model(name, Parrot(says="draft\nA: 3"))
    text = f"models: {{m: 'langchain:{name}'}}\nsteps: [{{sample: {{model: m, n: 3}}}}, vote]\n"
    flow = Pipeline(PipelineSpec.parse(text), Gateway(store))
    builder = StateGraph(MessagesState)
    builder.add_node("solve", flow.graph)
    builder.add_edge(START, "solve")
    told = [
        message.content
        async for _, (message, _) in builder.compile().astream(
            {"messages": "q"}, stream_mode="messages", subgraphs=True
        )
    ]
    assert told == ["draft\nA: 3"]
