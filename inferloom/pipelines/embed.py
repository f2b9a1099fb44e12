"""A pipeline as a LangGraph graph of messages: a graph, a node or a subgraph of an agent, with its checkpointer.

`Pipeline.ainvoke` opens a run, executes a lean graph inside it and closes it. Here LangGraph is in charge: it may stop
at any node (an interrupt, a crash), and go on in another process from its checkpoint. So what a run needs to go on is
either in the checkpoint or in the database:

- in the checkpoint: the run's id and stream, and how many draws of each address the finished nodes took, so that a node
  that is run again asks for the very draws that it asked for before and finds them in the bank;
- in the ledger: what was spent, and which requests are charged already.

**Names.** With a thread, run and stream are named by a hash of the thread's id and of the task that began the run,
which LangGraph derives from the checkpoint before it: taking up a thread finds them again, and the next turn gets new
ones. Inside another graph that task is the outer graph's. Without a thread they are new every time. In the config's
`configurable`, `inferloom_stream` names the stream instead, and `inferloom_namespace` the namespace of memories.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeAlias, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime

from inferloom.core.digest import digest
from inferloom.core.errors import InferloomError, UnknownNameError, UserError
from inferloom.core.types import Candidate, Json, total
from inferloom.models.langchain_messages import answer_message, from_langchain
from inferloom.pipelines.background import run_sync
from inferloom.pipelines.compile import (
    AFRESH,
    NodeFunction,
    State,
    graph_name,
    lanes,
    recursion_limit,
    turn_json,
    wire,
)
from inferloom.pipelines.execution import CURRENT, AnswerTokens, Run, execute, result_of, spent
from inferloom.pipelines.message_tokens import MessageTokens, streams_messages
from inferloom.pipelines.result import RunResult, StreamEvent
from inferloom.pipelines.spec import StepSpec
from inferloom.store import CallRow, RunRow

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from inferloom.pipelines.run import Pipeline

BEGIN = "run/begin"
"""The node that opens the run; all others are the pipeline's own, under their paths."""
_OPEN_RUNS = 1024
"""Runs kept in memory; one that fell out is opened again from the ledger."""


class RunJson(TypedDict):
    """The run in work."""

    id: str
    stream: str
    started: float
    namespace: str | None


def add_draws(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    """Draws by address, added up."""
    return {} if AFRESH in right else {**left, **{place: left.get(place, 0) + n for place, n in right.items()}}


class AgentState(State):
    """The whole state. Those around the graph see `AgentInput` and `AgentOutput` of it."""

    messages: Annotated[list[AnyMessage], add_messages]
    run: NotRequired[RunJson]
    drawn: NotRequired[Annotated[dict[str, int], add_draws]]
    result: NotRequired[dict[str, Json] | None]


class AgentInput(TypedDict):
    """What the graph reads: a conversation that ends with the question."""

    messages: Annotated[list[AnyMessage], add_messages]


class AgentOutput(TypedDict):
    """What it gives: the conversation with its answer, the bare answer, and `RunResult.to_json`."""

    messages: Annotated[list[AnyMessage], add_messages]
    answer: str | None
    stopped: str | None
    result: dict[str, Json]


if TYPE_CHECKING:
    AgentGraph: TypeAlias = CompiledStateGraph[AgentState, None, AgentInput, AgentOutput]
else:
    AgentGraph = CompiledStateGraph


def agent_graph(
    pipeline: Pipeline,
    checkpointer: BaseCheckpointSaver[str] | bool | None,
    interrupt_before: Sequence[str],
    interrupt_after: Sequence[str],
) -> AgentGraph:
    """A pipeline as a graph of messages; the arguments are those of `Pipeline.compile`."""
    spec = pipeline.spec
    for path in (*interrupt_before, *interrupt_after):
        if path not in spec.graph.paths:
            raise UnknownNameError("step", path, spec.graph.paths)
    embedding = _Embedding(pipeline)
    builder = StateGraph(AgentState, input_schema=AgentInput, output_schema=AgentOutput)
    builder.add_node(BEGIN, _both_ways(embedding.begin))
    builder.add_edge(START, BEGIN)
    wire(builder, spec, execute, spent, BEGIN, embedding.around)
    app = builder.compile(
        checkpointer=checkpointer,
        interrupt_before=[graph_name(path) for path in interrupt_before],
        interrupt_after=[graph_name(path) for path in interrupt_after],
        name=spec.name,
    )
    return app.with_config(recursion_limit=1 + recursion_limit(spec))


_Body: TypeAlias = Callable[[AgentState, RunnableConfig], Awaitable[dict[str, Any]]]


def _both_ways(body: _Body) -> RunnableLambda[AgentState, dict[str, Any]]:
    """A node for graphs that are invoked synchronously and for those that are not."""

    async def in_background(state: AgentState, config: RunnableConfig) -> dict[str, Any]:
        return await body(state, config)

    def synchronous(state: AgentState, config: RunnableConfig) -> dict[str, Any]:
        return run_sync(in_background(state, config))

    return RunnableLambda(synchronous, afunc=body)


@dataclass(slots=True)
class _Opened:
    """A run in memory, on the event loop where its calls are made."""

    run: Run
    loop: asyncio.AbstractEventLoop
    failed: bool = False
    """Whether the database has it as failed; the first failure is the reason, not the cancels that follow."""


class _Embedding:
    """The runs of one pipeline that LangGraph is executing."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._store = pipeline.gateway.store
        self._lanes = lanes(pipeline.spec, any_type=True)
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    async def begin(self, state: AgentState, config: RunnableConfig) -> dict[str, Any]:
        """Open the run of a question, and clear away what an earlier question of the thread has left."""
        turns = from_langchain(state.get("messages") or [])
        question = next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
        if question is None:
            raise UserError("the conversation holds no user message; its last one is the question", where="messages")
        run_id, stream = _names(config)
        told: RunJson = {
            "id": run_id,
            "stream": stream,
            "started": time.time(),
            "namespace": config.get("configurable", {}).get("inferloom_namespace"),
        }
        self._pipeline.save()
        await self._store.write(self._row(told, question))
        return {
            "run": told,
            "question": question,
            "turns": [turn_json(turn) for turn in turns],
            "outputs": {AFRESH: {}},
            "drawn": {AFRESH: 0},
            "answer": None,
            "result": None,
            **({"stopped": AFRESH} if state.get("stopped") else {}),
        }

    def around(self, step: StepSpec, node: NodeFunction) -> RunnableLambda[AgentState, dict[str, Any]]:
        """A node's function inside the run that stands in the state."""

        async def body(state: AgentState, config: RunnableConfig) -> dict[str, Any]:
            told = state["run"]
            opened = await self._open(told)
            drawn = state.get("drawn") or {}
            before = (state.get("outputs") or {}).get(step.path)
            sink = _Writer(get_stream_writer())
            run = replace(
                opened.run,
                client=opened.run.client.at(drawn),
                rows=[],
                executions=Counter({step.path: before["count"] if before else 0}),
                events=sink,
                tokens_of=(),
            )
            token = CURRENT.set(run)
            live = step.path == self._pipeline.live_path and streams_messages(config)
            try:
                async with MessageTokens(config, state["messages"], told["id"]) if live else nullcontext() as tokens:
                    if tokens is not None:
                        sink.tokens, run.tokens_of = tokens, (step.path,)
                        run.answering = AnswerTokens(step.path, sink)
                    update = await node(state)
                    update["drawn"] = {place: n - drawn.get(place, 0) for place, n in run.client.drawn.items()}
                    await self._store.write(*run.rows)
                    if "answer" in update:
                        result = await self._finish(state, update, run)
                        message = result_message(result, self._pipeline.spec.name)
                        update |= {"answer": result.answer, "stopped": result.stopped}
                        update |= {"result": result.to_json(), "messages": [message]}
                        if run.answering is not None:
                            run.answering.finish(result.content)
            except GraphBubbleUp:
                raise
            except BaseException as error:
                self._fail(opened, told, state["question"], run, error)
                raise
            finally:
                CURRENT.reset(token)
            return update

        return _both_ways(body)

    async def _open(self, told: RunJson) -> _Opened:
        """The run, from memory or from the ledger."""
        loop = asyncio.get_running_loop()
        found = self._opened.get(told["id"])
        if found is None or found.loop is not loop:
            run = self._pipeline.open_run(told["id"], told["stream"], lanes=self._lanes, fresh=False)
            if told["namespace"] is not None:
                from inferloom.memory.scope import MemoryScope

                run.memory = MemoryScope(namespace=told["namespace"])
            await run.client.prepare()
            rows, bodies = await asyncio.to_thread(self._ledger, told["id"])
            # Another node of the run may have been quicker.
            found = self._opened.get(told["id"])
            if found is None or found.loop is not loop:
                run.client.take_up(rows, bodies)
                found = self._opened[told["id"]] = _Opened(run, loop)
        self._opened.move_to_end(told["id"])
        while len(self._opened) > _OPEN_RUNS:
            self._opened.popitem(last=False)
        return found

    def _ledger(self, run: str) -> tuple[list[CallRow], dict[str, str]]:
        self._store.flush()
        rows = self._store.calls(run)
        return rows, self._store.request_bodies(sorted({row.request for row in rows}))

    async def _finish(self, state: AgentState, update: dict[str, Any], run: Run) -> RunResult:
        """Close the run."""
        told, spec = state["run"], self._pipeline.spec
        record = update["outputs"][spec.graph.end]
        candidates = [Candidate.from_json(candidate) for candidate in record["candidates"]]
        stopped = update.get("stopped") or state.get("stopped") or None
        result = result_of(run, spec, candidates, stopped, time.time() - told["started"])
        row = self._row(told, state["question"])
        await self._store.write(replace(row, status="done", answer=result.answer, stopped=stopped, ended=time.time()))
        result = await asyncio.to_thread(self._with_usage, result)
        self._opened.pop(told["id"], None)
        return result

    def _with_usage(self, result: RunResult) -> RunResult:
        """The result with the ledger's sums, which know of every process that had a part in the run."""
        reports = self._store.usage_by_model(result.run_id)
        return replace(
            result,
            usage=total(report.nominal for report in reports.values()),
            billed=total(report.billed for report in reports.values()),
            bound=total(report.bound for report in reports.values()),
            usage_by_model={name: report.nominal for name, report in reports.items()},
        )

    def _fail(self, opened: _Opened, told: RunJson, question: str, run: Run, error: BaseException) -> None:
        row = self._row(told, question)
        reason = error.sentence if isinstance(error, InferloomError) else f"{type(error).__name__}: {error}"
        failed = [] if opened.failed else [replace(row, status="failed", error=reason, ended=time.time())]
        opened.failed = True
        # A call that was cancelled while it was being committed is known to the ledger only: go on from there.
        self._opened.pop(told["id"], None)
        self._store.submit(*run.rows, *failed)

    def _row(self, told: RunJson, question: str) -> RunRow:
        return RunRow(
            id=told["id"],
            pipeline=self._pipeline.spec.hash,
            stream=told["stream"],
            question=question,
            status="running",
            started=told["started"],
        )


class _Writer:
    """Events of nodes for LangGraph's `custom` stream; the answer's tokens for its `messages` stream."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write = write
        self.tokens: MessageTokens | None = None

    def put_nowait(self, event: StreamEvent, /) -> None:
        """Pass an event on."""
        if event.kind == "answer" and self.tokens is not None and "anew" not in event.data:
            self.tokens.put(str(event.data["text"]))
        elif event.kind not in ("answer", "token", "restart"):
            self._write({"kind": event.kind, "path": event.path, **event.data})


def result_message(result: RunResult, name: str) -> AIMessage:
    """The answer as a message with the run's accounts; `name` is the pipeline's."""
    usage = result.usage
    return answer_message(
        result.content,
        result.tool_calls,
        id=result.run_id,
        usage_metadata={
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.tokens,
            "input_token_details": {"cache_read": usage.cached_tokens},
        },
        response_metadata={
            "model_name": name,
            "model_provider": "inferloom",
            "finish_reason": "tool_calls" if result.tool_calls else "stop",
            "answer": result.answer,
            "scores": dict(result.scores),
            "stopped": result.stopped,
            "run_id": result.run_id,
            "usage_by_model": {model: used.to_json() for model, used in result.usage_by_model.items()},
        },
    )


def _names(config: RunnableConfig) -> tuple[str, str]:
    """The ids of run and stream: stable where there is a thread, else new."""
    wanted = config.get("configurable", {}).get("inferloom_stream")
    info = get_runtime().execution_info
    if info is None or info.thread_id is None:
        return uuid.uuid4().hex, wanted or uuid.uuid4().hex
    outer = info.checkpoint_ns.rpartition("|")[0]
    run_id = digest(f"{info.thread_id}\x1f{outer if ':' in outer else info.task_id}")
    return run_id, wanted or f"thread/{info.thread_id}/{run_id}"
