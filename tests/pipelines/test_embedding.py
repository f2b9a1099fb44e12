"""A pipeline inside an agent's graph: messages, threads, checkpointers, interrupts, streams, crashes, accounts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from sqlalchemy import create_engine, make_url, text

from inferloom.core.errors import RequestRejectedError, UnknownNameError, UserError
from inferloom.core.types import Request, Usage
from inferloom.models.client import Gateway, draw_seed
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Address, Store
from tests.pipelines.child_agent import CALLS
from tests.support.savers import saver_beside
from tests.support.stores import SHARED, database_of

ROOT = Path(__file__).parents[2]
CHILD = "tests.pipelines.child_agent"


def solver(request: Request, seed: int) -> str:
    if "single digit" in request.messages[-1].content:
        return str(seed % 10)
    return f"thinking {seed}\nA: {seed % 3}"


MODEL = register_backend("embedded", ScriptedBackend(solver, name="embedded"))
VOTE = """
models: {m: scripted:embedded}
steps:
  - sample: {model: m, n: 5}
  - sample: {model: m, n: 3}
  - vote
"""
CHOICE = """
models: {m: scripted:embedded}
steps:
  - sample: {model: m, n: 3}
  - when: {if: agreement <= 1, then: [{sample: {model: m, n: 4}}]}
  - loop: {at_most: 2, do: [{sample: {model: m, n: 1}}]}
  - vote
"""
ONE = "models: {m: scripted:embedded}\nsteps:\n  - sample: {model: m}\n"
NUMBERS = count()
THREAD: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database_of(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


def pipeline(store: Store, spec: str = VOTE) -> Pipeline:
    return Pipeline(PipelineSpec.parse(spec, "test.yaml"), Gateway(store))


def agent(flow: Pipeline, saver: Any = None, question: str = "sure?") -> CompiledStateGraph[Any, Any, Any, Any]:
    """Solve, ask the user something, solve again."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [HumanMessage(interrupt(question))]}

    builder = StateGraph(MessagesState)
    builder.add_node("solve", flow.graph)
    builder.add_node("ask", ask)
    builder.add_node("again", flow.graph)
    builder.add_edge(START, "solve")
    builder.add_edge("solve", "ask")
    builder.add_edge("ask", "again")
    return builder.compile(checkpointer=saver)


def nominal(store: Store, run: str) -> Usage:
    store.flush()
    return store.usage(run).nominal


@pytest.mark.parametrize("spec", [VOTE, CHOICE, ONE])
async def test_the_graph_is_langgraphs_own_and_records_what_ainvoke_records(store: Store, spec: str) -> None:
    flow = pipeline(store, spec)
    assert isinstance(flow.graph, CompiledStateGraph)
    config: Any = {"configurable": {"inferloom_stream": "s"}}
    done = await flow.graph.ainvoke({"messages": "how much?"}, config)
    result = await flow.ainvoke("how much?", stream="s")
    assert [type(message) for message in done["messages"]] == [HumanMessage, AIMessage]
    assert (done["answer"], done["stopped"], done["messages"][-1].content) == (result.answer, None, result.content)
    run = store.run(done["result"]["run_id"])
    assert (run.status, run.answer, run.question, run.stream) == ("done", result.answer, "how much?", "s")
    assert nominal(store, run.id) == nominal(store, result.run_id) == result.usage
    assert done["result"]["usage"] == result.usage.to_json()
    told = done["messages"][-1].usage_metadata
    assert told["total_tokens"] == result.usage.tokens
    steps, others = store.steps(run.id), store.steps(result.run_id)
    assert [(one.path, one.ordinal, one.candidates_out) for one in steps] == [
        (one.path, one.ordinal, one.candidates_out) for one in others
    ]
    assert [row.candidate for row in store.candidates(run.id)] == [
        row.candidate for row in store.candidates(result.run_id)
    ]


async def test_it_is_invoked_without_a_loop_too(store: Store) -> None:
    flow = pipeline(store)
    outer = agent(flow)
    assert (await asyncio.to_thread(flow.graph.invoke, {"messages": "how much?"}))["answer"] is not None
    done = await asyncio.to_thread(outer.invoke, {"messages": "how much?"}, {"recursion_limit": 50})
    assert done["messages"][1].usage_metadata["total_tokens"] > 0


async def test_a_thread_is_a_conversation_and_each_turn_a_run_with_draws_of_its_own(store: Store) -> None:
    flow = pipeline(store)
    app = flow.compile(InMemorySaver())
    before = len(MODEL.served)
    for question in ("first", "same", "same"):
        done = await app.ainvoke({"messages": question}, THREAD)
    assert [message.content for message in done["messages"]][::2] == ["first", "same", "same"]
    asked = [message.content for message in MODEL.served[-1].request.messages if message.role != "system"]
    assert asked == [message.content for message in done["messages"]][:-1]
    runs = store.runs()
    assert len({run.id for run in runs}) == len({run.stream for run in runs}) == 3
    assert all(run.status == "done" and nominal(store, run.id).calls == 8 for run in runs)
    assert len(MODEL.served) == before + 6


async def test_an_interrupt_at_a_node_is_taken_up_by_another_process_without_repeating(url: str) -> None:
    """Another process: another gateway, another graph and another connection, with nothing in memory."""
    with Store.open(url) as store:
        async with saver_beside(url) as saver:
            app = pipeline(store).compile(saver, interrupt_before=["steps/1"])
            await app.ainvoke({"messages": "how much?"}, THREAD)
            assert (await app.aget_state(THREAD)).next == ("steps/1",)
    before = len(MODEL.served)
    with Store.open(url) as store:
        assert store.runs(1)[0].status == "running"
        async with saver_beside(url) as saver:
            app = pipeline(store).compile(saver, interrupt_before=["steps/1"])
            done = await app.ainvoke(None, THREAD)
        assert len(MODEL.served) == before + 1
        [run] = store.runs()
        assert run.status == "done"
        assert nominal(store, run.id).calls == done["result"]["usage"]["calls"] == 8
        # The two samples ask the same thing: eight draws, all different.
        made = [row.candidate.origin.get("completion") for row in store.candidates(run.id) if row.path == "steps/1"]
        assert len(set(made)) == 8


async def test_a_run_costs_the_same_with_and_without_an_interrupt(store: Store) -> None:
    """Cached prompt tokens included: what the finished steps sent is still known."""
    spec = VOTE.replace("- vote", "- score: {model: m}\n  - vote: {weight: judge}")
    usages = []
    for interrupted in ([], ["steps/1"], ["steps/2"]):
        config: Any = {"configurable": {"thread_id": str(interrupted), "inferloom_stream": "s"}}
        saver = InMemorySaver()
        done = (
            await pipeline(store, spec)
            .compile(saver, interrupt_before=interrupted)
            .ainvoke({"messages": "how much? " * 20}, config)
        )
        if interrupted:
            done = await pipeline(store, spec).compile(saver).ainvoke(None, config)
        usages.append(done["result"]["usage"])
    assert usages[0]["cached_tokens"] > 0
    assert usages[1:] == [usages[0]] * 2


async def test_an_interrupt_of_the_agents_own(url: str) -> None:
    with Store.open(url) as store:
        async with saver_beside(url) as saver:
            app = agent(pipeline(store), saver)
            stopped = await app.ainvoke({"messages": "how much?"}, THREAD)
            assert stopped["__interrupt__"][0].value == "sure?"
            before = len(MODEL.served)
            done = await agent(pipeline(store), saver).ainvoke(Command(resume="think again"), THREAD)
        assert len(MODEL.served) == before + 2
        assert [message.type for message in done["messages"]] == ["human", "ai", "human", "ai"]
        assert [run.question for run in store.runs()] == ["think again", "how much?"]


async def test_a_failed_node_is_run_again_and_pays_for_nothing_twice(store: Store) -> None:
    served: list[str] = []

    def fails_once(request: Request, seed: int) -> str:
        said = request.messages[-1].content
        served.append(said)
        if "single digit" in said and len(served) == 8:
            raise RequestRejectedError("the model said no")
        return solver(request, seed)

    name = f"fails-once-{next(NUMBERS)}"
    register_backend(name, ScriptedBackend(fails_once, name=name))
    steps = "[{sample: {model: m, n: 5}}, {score: {model: m}}, {best: judge}]"
    flow = pipeline(store, f"models: {{m: scripted:{name}}}\nsteps: {steps}\n")
    app = flow.compile(InMemorySaver())
    with pytest.raises(RequestRejectedError):
        await app.ainvoke({"messages": "q"}, THREAD)
    store.flush()
    [run] = store.runs()
    assert run.status == "failed" and "the model said no" in str(run.error)
    scored = sum(row.billed.calls for row in store.calls(run.id) if row.step == "steps/1")
    before = len(served)
    done = await app.ainvoke(None, THREAD)
    assert len(served) - before == 5 - scored
    [run] = store.runs()
    assert (run.status, run.error) == ("done", None)
    assert nominal(store, run.id).calls == done["result"]["usage"]["calls"] == 10
    assert store.usage(run.id).billed.completion_tokens == nominal(store, run.id).completion_tokens


async def test_streams_of_an_agent(store: Store) -> None:
    app = agent(pipeline(store, ONE), InMemorySaver())
    seen: dict[str, list[Any]] = {"values": [], "updates": [], "custom": [], "messages": []}
    async for _, mode, chunk in app.astream({"messages": "how much?"}, THREAD, stream_mode=list(seen), subgraphs=True):
        seen[mode].append(chunk)
    state = (await app.aget_state(THREAD)).values
    pieces = [message.content for message, meta in seen["messages"] if meta["langgraph_node"] == "steps/0"]
    assert len(pieces) > 2 and "".join(pieces) == state["messages"][-1].content
    assert [event["kind"] for event in seen["custom"]] == ["node"]
    assert any("steps/0" in update for update in seen["updates"])
    assert any(value.get("answer") for value in seen["values"])


async def test_an_answer_that_a_vote_decides_is_streamed_whole(store: Store) -> None:
    told = [part async for part in pipeline(store).graph.astream({"messages": "q"}, stream_mode="messages")]
    assert len(told) == 1 and told[0][0].content.startswith("thinking")


async def test_a_cancelled_agent_cancels_the_run_and_goes_on_later(store: Store) -> None:
    name = f"slow-agent-{next(NUMBERS)}"
    slow = register_backend(name, ScriptedBackend(solver, name=name, latency=0.2))
    flow = pipeline(store, VOTE.replace("scripted:embedded", f"scripted:{name}"))
    app = agent(flow, InMemorySaver())
    task = asyncio.create_task(app.ainvoke({"messages": "q"}, THREAD))
    for _ in range(1000):
        if len(slow.served) == 2:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.flush()
    [run] = store.runs()
    assert run.status == "failed"
    unknown = [row for row in store.calls(run.id) if row.outcome == "unknown"]
    assert len(unknown) == 1 and unknown[0].bound.calls == 3
    before = len(slow.served)
    await app.ainvoke(None, THREAD)
    assert len(slow.served) - before == 1
    assert [run.status for run in store.runs()] == ["done"]


async def test_a_budget_holds_over_an_interrupt(store: Store) -> None:
    spec = VOTE + "budget: {calls: 6}\n"
    saver = InMemorySaver()
    await pipeline(store, spec).compile(saver, interrupt_before=["steps/1"]).ainvoke({"messages": "q"}, THREAD)
    done = await pipeline(store, spec).compile(saver, interrupt_before=["steps/1"]).ainvoke(None, THREAD)
    assert done["stopped"] == "budget"
    assert done["result"]["usage"]["calls"] == 6
    again = await pipeline(store, spec).compile(saver).ainvoke({"messages": "another"}, THREAD)
    assert again["result"]["run_id"] != done["result"]["run_id"]
    assert again["result"]["usage"]["calls"] == 6


async def test_ainvoke_inside_a_node_leaves_no_trace_in_the_agents_checkpoints(store: Store) -> None:
    flow = pipeline(store)

    async def solve(state: MessagesState) -> dict[str, Any]:
        result = await flow.ainvoke(state["messages"][-1].text)
        return {"messages": [AIMessage(result.content)]}

    saver = InMemorySaver()
    builder = StateGraph(MessagesState)
    builder.add_node("solve", solve)
    builder.add_edge(START, "solve")
    await builder.compile(checkpointer=saver).ainvoke({"messages": "q"}, THREAD)
    assert {found.config["configurable"]["checkpoint_ns"] for found in saver.list(None)} == {""}


async def test_what_cannot_be_asked_is_said_in_one_sentence(store: Store) -> None:
    flow = pipeline(store)
    with pytest.raises(UnknownNameError, match="unknown step `steps/7`"):
        flow.compile(interrupt_before=["steps/7"])
    with pytest.raises(UserError, match="holds no user message"):
        await flow.graph.ainvoke({"messages": []})
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(UserError, match="message 0: it holds a block of the type `image_url`"):
        await flow.graph.ainvoke({"messages": [HumanMessage(picture)]})  # type: ignore[arg-type]  # as a user might
    assert store.runs() == []


def child(url: str, log: Path, shape: str, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", CHILD, url, str(log), shape, str(last)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=120)


def committed(url: str) -> set[int]:
    """The seeds of the draws in the bank."""
    engine = create_engine(make_url(url) if "://" in url else f"sqlite:///{url}")
    with engine.connect() as connection:
        rows = connection.execute(text("select stream, fingerprint, request, draw from completions")).all()
    engine.dispose()
    return {
        draw_seed(Address(stream=stream, fingerprint=fingerprint, request=request), draw)
        for stream, fingerprint, request, draw in rows
    }


@pytest.mark.parametrize("shape", ["outer", "alone"])
@pytest.mark.parametrize("last", [2, 9, 14, 27])
def test_kill_9_and_again_repeats_no_committed_call(url: str, tmp_path: Path, shape: str, last: int) -> None:
    log = tmp_path / "log"
    died = child(url, log, shape, last)
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept, first = committed(url), len(log.read_text().split())
    assert kept or last <= 4
    done = child(url, log, shape, 0)
    assert done.returncode == 0, done.stderr
    seeds = [int(line) for line in log.read_text().split()]
    assert kept.isdisjoint(seeds[first:])
    # What had been asked and was lost with the process is asked again under the same seed; nothing else is.
    assert len(set(seeds)) == len(committed(url)) == CALLS
    assert max(Counter(seeds).values()) <= 2
    with Store.open(url) as store:
        [run] = store.runs()
        assert (run.status, run.answer) == ("done", done.stdout.split("A: ")[1].strip())
        assert store.usage(run.id).nominal.calls == CALLS
        assert [step.ordinal for step in store.steps(run.id)] == [0] * 6
