"""`ChatInferloom` beyond LangChain's standard cases: accounts, votes on calls, stop strings, limits, agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, ValidationError

from inferloom import ChatInferloom, Pipeline, Store
from inferloom.core.errors import ConnectionCutError, ModelTimeoutError, UnknownNameError, UserError
from inferloom.core.tools import ToolCall
from inferloom.core.types import Completion, Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.spec import PipelineSpec
from tests.support import tool_user  # noqa: F401  # it registers the model
from tests.support.flaky_server import FlakyServer

NUMBERS = count()


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/chat.db") as opened:
        yield opened


def scripted(reply: Any, **fields: Any) -> tuple[str, ScriptedBackend]:
    name = f"chat-{next(NUMBERS)}"
    return name, register_backend(name, ScriptedBackend(reply, name=name, **fields))


def chat(store: Store, steps: str, model: str = "scripted:echo", **fields: Any) -> ChatInferloom:
    spec = PipelineSpec.parse(f"models: {{m: {model}}}\nsteps: {steps}\n", "chat.yaml")
    return ChatInferloom(pipeline=Pipeline(spec, Gateway(store)), **fields)


async def test_usage_and_metadata_are_those_of_the_run(store: Store) -> None:
    name, _ = scripted(lambda request, seed: f"hm {seed % 9}\nA: 4")
    model = chat(store, "[{sample: {model: m, n: 3}}, vote]", f"scripted:{name}")
    said = await model.ainvoke("2+2?")
    run = store.run(said.response_metadata["run_id"])
    nominal = store.usage(run.id).nominal
    assert said.usage_metadata is not None
    assert said.usage_metadata["total_tokens"] == nominal.tokens
    assert said.response_metadata["usage_by_model"]["m"]["calls"] == nominal.calls == 3
    assert (said.response_metadata["answer"], said.response_metadata["scores"]) == ("4", {"vote_share": 1.0})
    assert (run.answer, run.question) == ("4", "2+2?")


def test_a_stream_is_the_answer_in_pieces_where_one_call_writes_it(store: Store) -> None:
    name, _ = scripted(lambda request, seed: "one two three\nA: 4")
    one = chat(store, "[{sample: {model: m}}]", f"scripted:{name}")
    vote = chat(store, "[{sample: {model: m, n: 3}}, vote]", f"scripted:{name}")
    for model, least in ((one, 4), (vote, 1)):
        told = [chunk for chunk in model.stream("q") if chunk.content]
        assert "".join(str(chunk.content) for chunk in told) == "one two three\nA: 4"
        assert len(told) >= least
    assert len(told) == 1


def test_reasoning_is_not_told(store: Store) -> None:
    name, _ = scripted(lambda request, seed: "<think>a b c</think>\nso 1 < 2\nA: 4")
    model = chat(store, "[{sample: {model: m}}]", f"scripted:{name}")
    assert "".join(str(chunk.content) for chunk in model.stream("q")) == "so 1 < 2\nA: 4" == model.invoke("q").content


async def test_a_stream_that_breaks_and_differs_is_an_error(store: Store) -> None:
    with FlakyServer(plan=["cut"], answer=lambda body, seed, index: f"word {len(server.log)} and more of it") as server:
        model = chat(store, "[{sample: {model: m}}]", f"{{model: 'openai:flaky', base_url: '{server.base_url}'}}")
        with pytest.raises(ConnectionCutError, match="came out differently"):
            [chunk async for chunk in model.astream("q")]
        assert len(server.log) == 2


def test_calls_are_voted_on_and_come_back_whole(store: Store) -> None:
    drawn = count()

    def reply(request: Request, seed: int) -> Completion:
        number = next(drawn)
        arguments = json.dumps({"a": 1, "b": 2} if number % 3 else {"a": 9, "b": 9})
        call = ToolCall("add", arguments, f"call_{number}")
        return Completion(text="", finish_reason="stop", completion_tokens=3, tool_calls=(call,))

    name, backend = scripted(reply)
    model = chat(store, "[{sample: {model: m, n: 3}}, vote]", f"scripted:{name}").bind_tools([add])
    said = model.invoke("1+2?")
    assert [(call["name"], call["args"], call["id"]) for call in said.tool_calls] == [
        ("add", {"a": 1, "b": 2}, "call_1")
    ]
    assert (said.content, said.response_metadata["finish_reason"]) == ("", "tool_calls")
    assert backend.served[0].request.tools is not None
    whole: AIMessageChunk | None = None
    for chunk in model.stream("1+2?"):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.tool_calls[0]["args"] == {"a": 1, "b": 2}


def test_an_agents_loop(store: Store) -> None:
    model = chat(store, "[{sample: {model: m, n: 3}}, vote]", "scripted:tool-user")
    builder = StateGraph(MessagesState)
    builder.add_node("agent", lambda state: {"messages": [model.bind_tools([add]).invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([add]))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    builder.add_edge("tools", "agent")
    done = builder.compile().invoke({"messages": [SystemMessage("Be exact."), HumanMessage("What is 3 + 4?")]})
    kinds = [type(message) for message in done["messages"]]
    assert kinds == [SystemMessage, HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert done["messages"][-1].content == "The tool said: 7"


async def test_structured_output(store: Store) -> None:
    class Sum(BaseModel):
        """A sum."""

        left: int
        right: int

    model = chat(store, "[{sample: {model: m, n: 3}}, vote]", "scripted:tool-user")
    assert await model.with_structured_output(Sum).ainvoke("What is 3 + 4?") == Sum(left=3, right=4)


def test_stop_strings_and_parameters_reach_the_steps_that_answer(store: Store) -> None:
    name, backend = scripted(lambda request, seed: "one END two")
    model = chat(store, "[{sample: {model: m}}]", f"scripted:{name}", temperature=0.25)
    assert model.invoke("q", stop=["END"]).content == "one "
    assert "".join(str(chunk.content) for chunk in model.stream("q", stop=["END"])) == "one "
    asked = backend.served[0].request
    assert (asked.stop, asked.temperature) == (("END",), 0.25)
    assert model.invoke("q", max_tokens=1).content == "one"


def test_a_chain(store: Store) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Say it."), ("human", "{word}")])
    chain = prompt | chat(store, "[{sample: {model: m}}]") | StrOutputParser()
    assert chain.batch([{"word": "a"}, {"word": "b"}]) == ["a", "b"]


async def test_named_draws_are_the_same_again_and_others_fresh(store: Store) -> None:
    name, _ = scripted(lambda request, seed: f"A: {seed}")
    model = chat(store, "[{sample: {model: m}}]", f"scripted:{name}", draws="mine")
    first, again = await model.ainvoke("q"), await model.ainvoke("q")
    assert first.content == again.content
    fresh = chat(store, "[{sample: {model: m}}]", f"scripted:{name}")
    assert len({(await fresh.ainvoke("q")).content for _ in range(4)}) == 4


async def test_time_and_cancellation_end_the_run(store: Store) -> None:
    name, _ = scripted(lambda request, seed: "late", latency=30)
    steps, slow = "[{sample: {model: m}}]", f"scripted:{name}"
    with pytest.raises(ModelTimeoutError, match=r"no answer within 0.05 s"):
        await chat(store, steps, slow, timeout=0.05).ainvoke("q")
    with pytest.raises(ModelTimeoutError):
        list(chat(store, steps, slow, timeout=0.05).stream("q"))
    task = asyncio.create_task(chat(store, steps, slow).ainvoke("q"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.flush()
    assert [run.status for run in store.runs()] == ["failed"] * 3
    assert all(call.outcome == "unknown" for run in store.runs() for call in store.calls(run.id))


async def test_mistakes_are_one_sentence(store: Store) -> None:
    model = chat(store, "[{sample: {model: m, n: 3}}, vote]")
    with pytest.raises(UserError, match=r"unknown argument `temprature`.*did you mean `temperature`"):
        await model.ainvoke("q", temprature=1)
    with pytest.raises(UserError, match="`temperature` is 0, but pipeline"):
        await model.ainvoke("q", temperature=0)
    with pytest.raises(UnknownNameError, match="unknown tool `ad`; did you mean `add`"):
        model.bind_tools([add], tool_choice="ad")
    with pytest.raises(ValidationError, match="name the pipeline"):
        ChatInferloom()
