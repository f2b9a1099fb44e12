"""Running a pipeline: load it, ask it, get the answer with its accounts.

A run is one question. Its id stands in the database with every call, step and candidate; its usage is the sum of its
ledger rows. LangGraph executes the graph; this module gives each node its context and keeps the records.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeVar

from inferloom.core.answers import votes_of
from inferloom.core.digest import digest
from inferloom.core.errors import BudgetExceededError, InferloomError
from inferloom.core.memory import Memory
from inferloom.core.protocols import Capabilities, Oracle, Prompts, Sandbox
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import (
    Candidate,
    Choice,
    Completion,
    Json,
    Message,
    NodeOutput,
    NodeState,
    Request,
    Usage,
    total,
)
from inferloom.models.budget import Budget, Purse
from inferloom.models.client import Gateway, OpenModel, RunClient
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.compile import CompiledGraph, compile_graph
from inferloom.pipelines.rules import check_capabilities, check_tools
from inferloom.pipelines.spec import PipelineSpec, StepSpec
from inferloom.store import CandidateRow, DecisionRow, PipelineRow, Row, RunRow, StepRow, Store

if TYPE_CHECKING:
    from inferloom.memory.scope import MemoryScope

T = TypeVar("T")

STOPPED_BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """An answer with its accounts: `usage` is nominal, what it costs in production; `billed` was spent this time."""

    answer: str | None
    candidates: tuple[Candidate, ...]
    usage: Usage
    billed: Usage
    bound: Usage
    """The most that calls of unknown outcome can have cost on top of `billed`."""
    usage_by_model: Mapping[str, Usage]
    stopped: str | None
    """Why the run ended early (`budget`), or None."""
    run_id: str
    stream: str
    wall_seconds: float

    @property
    def text(self) -> str:
        """The full text of the answer."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the answer consists of, where tools were offered and it calls some."""
        return self.candidates[0].tool_calls if self.candidates else ()

    def to_json(self) -> dict[str, Json]:
        """The result as the document of `run --json`."""
        return {
            "answer": self.answer,
            "text": self.text,
            "usage": dict(self.usage.to_json()),
            "billed": dict(self.billed.to_json()),
            "unknown_at_most": dict(self.bound.to_json()),
            "stopped": self.stopped,
            "run_id": self.run_id,
            "stream": self.stream,
            "wall_seconds": self.wall_seconds,
        }


class RunOptions(TypedDict, total=False):
    """What an evaluation says of a run beside the question; `Pipeline.ainvoke` explains each."""

    stream: str | None
    notes: Sequence[str]
    examples: Sequence[tuple[str, str]]
    study: str | None
    item: str | None
    tag: str | None
    oracle: Oracle | None
    memory: MemoryScope | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """Something that happens while a run goes on: `token`, `node`, another event of a node, or at last `result`.

    `restart` says that the tokens of a completion so far are void: its call failed and is made again.
    """

    kind: str
    path: str
    data: Mapping[str, Json] = field(default_factory=dict)
    result: RunResult | None = None


class EventSink(Protocol):
    """Where the events of a run go; an `asyncio.Queue` is one."""

    def put_nowait(self, event: StreamEvent, /) -> None:
        """Take an event."""
        ...


@dataclass(slots=True)
class _Run:
    """One run while it goes on."""

    id: str
    stream: str
    client: RunClient
    prompts: Prompts
    oracle: Oracle | None = None
    memory: MemoryScope | None = None
    rows: list[Row] = field(default_factory=list)
    events: EventSink | None = None
    tokens_of: Collection[str] | None = None
    executions: Counter[str] = field(default_factory=Counter)


_CURRENT: ContextVar[_Run] = ContextVar("inferloom_run")


class _Context:
    """What a node sees of its run."""

    __slots__ = ("_ordinal", "_rng", "_run", "path", "prompts")

    def __init__(self, run: _Run, path: str, ordinal: int) -> None:
        self._run = run
        self.path = path
        self.prompts = run.prompts
        self._ordinal = ordinal
        self._rng: Random | None = None

    @property
    def rng(self) -> Random:
        # Seeding costs more than most nodes' other work, and few nodes roll dice.
        if self._rng is None:
            self._rng = Random(f"{self._run.stream}|{self.path}|{self._ordinal}")
        return self._rng

    async def generate(self, model: str, request: Request) -> list[Completion]:
        run = self._run
        if run.events is None or (run.tokens_of is not None and self.path not in run.tokens_of):
            return await run.client.generate(model, request, path=self.path)
        events, path = run.events, self.path

        def preview(position: int, text: str) -> None:
            events.put_nowait(StreamEvent(kind="token", path=path, data={"index": position, "text": text}))

        def void(position: int) -> None:
            events.put_nowait(StreamEvent(kind="restart", path=path, data={"index": position}))

        return await run.client.generate(model, request, path=path, on_token=preview, on_restart=void)

    @property
    def oracle(self) -> Oracle | None:
        return self._run.oracle

    @property
    def sandbox(self) -> Sandbox:
        from inferloom.sandbox import default_sandbox

        return default_sandbox()

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        from inferloom.models.embedding import default_embedder

        return await default_embedder().embed(texts)

    def memory(self, name: str) -> Memory:
        from inferloom.memory.book import book_of
        from inferloom.memory.scope import MemoryScope

        run = self._run
        scope = run.memory or MemoryScope()
        return scope.memory(
            book_of(run.client.gateway.store), name, f"{run.stream}|{self.path}|{self._ordinal}", run.id
        )

    def rows(self, path: str) -> Sequence[Mapping[str, Json]]:
        from inferloom.core.rows import read_rows

        return read_rows(path)

    def emit(self, event: str, data: Mapping[str, Json]) -> None:
        if self._run.events is not None:
            self._run.events.put_nowait(StreamEvent(kind=event, path=self.path, data=data))


async def _execute(step: StepSpec, state: NodeState) -> NodeOutput:
    """Run one node and record it; a budget that ends inside a node ends the run with the best so far."""
    run = _CURRENT.get()
    ordinal = run.executions[step.path]
    run.executions[step.path] += 1
    started = time.time()
    try:
        output = await step.node.run(state, _Context(run, step.path, ordinal))
    except BudgetExceededError:
        output = NodeOutput(candidates=state.candidates, stopped=STOPPED_BUDGET)
    if output.choice is not None:
        await run.client.gateway.store.write(_decision(run, step.path, ordinal, state.question, output.choice))
    candidates = state.candidates if output.candidates is None else output.candidates
    run.rows.append(
        StepRow(
            run=run.id,
            path=step.path,
            ordinal=ordinal,
            node=step.node.name,
            started=started,
            ended=time.time(),
            status=output.stopped or "done",
            candidates_in=len(state.candidates),
            candidates_out=len(candidates),
        )
    )
    run.rows.extend(
        CandidateRow(run=run.id, path=step.path, ordinal=ordinal, position=position, candidate=candidate)
        for position, candidate in enumerate(output.candidates or ())
    )
    if run.events is not None:
        data: dict[str, Json] = {"node": step.node.name, "candidates": len(candidates)}
        run.events.put_nowait(StreamEvent(kind="node", path=step.path, data=data))
    return output


def _decision(run: _Run, path: str, ordinal: int, question: str, choice: Choice) -> DecisionRow:
    """The record of a choice, which is durable before the chosen arm calls anything."""
    return DecisionRow(
        id=digest(f"{run.id}|{path}|{ordinal}"),
        router=choice.router,
        version=choice.version,
        run=run.id,
        query=digest(question),
        arm=choice.arm,
        propensity=choice.propensity,
        explored=choice.explored,
        reasons=choice.reasons,
        created=time.time(),
    )


def _spent() -> Usage:
    """What the current run has spent, nominally."""
    return total(_CURRENT.get().client.nominal.values())


class Pipeline:
    """A pipeline that is ready to answer.

    Args:
        spec: What it is.
        gateway: The models and the database that it uses; pipelines that share a gateway share open models.
    """

    def __init__(self, spec: PipelineSpec, gateway: Gateway) -> None:
        self.spec = spec
        self.gateway = gateway
        self._prompts = load_pack(spec.prompts)
        self._models: dict[str, OpenModel] = {
            name: gateway.model(model, where=spec.where("models", name)) for name, model in spec.models.items()
        }
        check_capabilities(spec, self.capabilities)
        self._compiled: CompiledGraph = compile_graph(spec, _execute, _spent)
        self._saved = False

    @classmethod
    def load(cls, source: str | Path, *, store: Store | str | None = None, gateway: Gateway | None = None) -> Pipeline:
        """Load a pipeline from a file or by a preset's name.

        Args:
            source: A YAML file's path or a preset's name.
            store: The database or its URL; None: the variable INFERLOOM_DB, else `inferloom.db` in this folder.
            gateway: Use this gateway's models and database instead.

        Raises:
            UserError: What is wrong and where, in one sentence.
        """
        spec = PipelineSpec.load(source)
        return cls(spec, gateway or default_gateway(store))

    @property
    def capabilities(self) -> dict[str, Capabilities]:
        """What each model can do."""
        return {name: model.backend.capabilities for name, model in self._models.items()}

    @property
    def graph(self) -> CompiledGraph:
        """The compiled LangGraph graph."""
        return self._compiled

    def invoke(self, question: str | Sequence[Message], **options: object) -> RunResult:
        """Answer a question from synchronous code, also inside a running event loop; options as for `ainvoke`."""
        return run_sync(self.ainvoke(question, **options))  # type: ignore[arg-type]  # the options are ainvoke's own

    async def ainvoke(
        self,
        question: str | Sequence[Message],
        *,
        stream: str | None = None,
        notes: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        budget: Budget | None = None,
        study: str | None = None,
        item: str | None = None,
        tag: str | None = None,
        oracle: Oracle | None = None,
        memory: MemoryScope | None = None,
        tools: Tools | None = None,
        events: EventSink | None = None,
        tokens_of: Collection[str] | None = None,
        run_id: str | None = None,
        account: Purse | None = None,
    ) -> RunResult:
        """Answer one question.

        Args:
            question: The question, or a conversation that ends with it.
            stream: The name under which draws are shared: the same name gives the same draws, from the bank where they
                are there. None: fresh draws.
            notes: Notes put in front of the question.
            examples: Solved examples (question, solution) shown as earlier turns.
            budget: The most this run may cost, nominally; None: the pipeline's own `budget`.
            study, item: The study that the run belongs to, and the data item that the question comes from.
            tag: Anything that helps to find the run again.
            oracle: Grades candidates against the right answer; only an evaluation has it, for nodes marked `oracle`.
            memory: Which memories the names in the pipeline mean; None: those of the default namespace, written to.
            tools: What the answer may call; it then comes back in `RunResult.tool_calls`.
            events: Where events go while the run goes on.
            tokens_of: The paths of the nodes whose tokens are told as they come; None: of all.
            run_id: The run's id, 32 hex digits; None: a new one.
            account: What the run's calls are billed to; None: the gateway's own.

        Raises:
            CapabilityError: There are tools, and a node or a model that cannot offer them.
            ModelError: A model failed for good; the run is recorded as failed.
            StorageError: The database takes no writes.
        """
        messages = (Message("user", question),) if isinstance(question, str) else tuple(question)
        if tools is not None:
            check_tools(self.spec, self.capabilities)
        fresh, run_id, stream = stream is None, run_id or uuid.uuid4().hex, stream or uuid.uuid4().hex
        client = RunClient(
            self.gateway,
            self._models,
            run=run_id,
            stream=stream,
            budget=budget or self.spec.budget,
            before=self._compiled.ancestors,
            lanes=self._compiled.lanes,
            fresh=fresh,
            account=account,
        )
        run = _Run(
            id=run_id,
            stream=stream,
            client=client,
            prompts=self._prompts,
            oracle=oracle,
            memory=memory,
            events=events,
            tokens_of=tokens_of,
        )
        row = RunRow(
            id=run_id,
            pipeline=self.spec.hash,
            stream=stream,
            question=_question(messages),
            status="running",
            started=time.time(),
            study=study,
            item=item,
            tag=tag,
        )
        return await self._recorded(run, row, messages, tuple(notes), tuple(examples), tools)

    async def _recorded(
        self,
        run: _Run,
        row: RunRow,
        messages: tuple[Message, ...],
        notes: tuple[str, ...],
        examples: tuple[tuple[str, str], ...],
        tools: Tools | None,
    ) -> RunResult:
        """Run the graph between a `running` row and the final one, whatever happens in between."""
        from dataclasses import replace

        store = self.gateway.store
        if not self._saved:
            store.submit(PipelineRow(hash=self.spec.hash, yaml=self.spec.to_yaml(), created=row.started))
            self._saved = True
        store.submit(row)
        token = _CURRENT.set(run)
        clock = time.perf_counter()
        try:
            await run.client.prepare()
            candidates, stopped = await self._compiled.run(row.question, messages, notes, examples, tools)
        except BaseException as error:
            reason = error.sentence if isinstance(error, InferloomError) else f"{type(error).__name__}: {error}"
            store.submit(*run.rows, replace(row, status="failed", error=reason, ended=time.time()))
            raise
        finally:
            _CURRENT.reset(token)
        wall = time.perf_counter() - clock
        best = _best_so_far(candidates) if stopped else candidates
        whole = self.spec.answer == "text"
        answer = (best[0].text if whole else best[0].answer) if best else None
        await store.write(*run.rows, replace(row, status="done", answer=answer, stopped=stopped, ended=time.time()))
        client = run.client
        result = RunResult(
            answer=answer,
            candidates=best,
            usage=total(client.nominal.values()),
            billed=total(client.billed.values()),
            bound=total(client.bound.values()),
            usage_by_model=dict(client.nominal),
            stopped=stopped,
            run_id=run.id,
            stream=run.stream,
            wall_seconds=wall,
        )
        if run.events is not None:
            run.events.put_nowait(StreamEvent(kind="result", path="", result=result))
        return result

    async def abatch(
        self, questions: Sequence[str | Sequence[Message]], *, concurrency: int = 8, stream: str | None = None
    ) -> list[RunResult]:
        """Answer several questions, `concurrency` at a time; results in the order of the questions.

        Each question draws from a stream of its own, so that two equal questions get independent answers.
        """
        gate = asyncio.Semaphore(concurrency)

        async def one(index: int, question: str | Sequence[Message]) -> RunResult:
            async with gate:
                return await self.ainvoke(question, stream=None if stream is None else f"{stream}/{index}")

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index, question)) for index, question in enumerate(questions)]
        return [task.result() for task in tasks]

    async def astream(self, question: str | Sequence[Message], **options: object) -> AsyncIterator[StreamEvent]:
        """Answer one question and yield what happens: tokens (previews), node updates, and last the result."""
        events: asyncio.Queue[StreamEvent] = asyncio.Queue()
        task = asyncio.ensure_future(self.ainvoke(question, events=events, **options))  # type: ignore[arg-type]  # as above
        try:
            while not (task.done() and events.empty()):
                waiting = asyncio.ensure_future(events.get())
                await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    yield waiting.result()
                else:
                    waiting.cancel()
            await task
        finally:
            task.cancel()


def _question(messages: Sequence[Message]) -> str:
    """What the user asked last, else the last turn of any."""
    last = messages[-1].content if messages else ""
    return next((turn.content for turn in reversed(messages) if turn.role == "user"), last)


def _best_so_far(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates of a stopped run: in the order that scores gave them, else the most common answer first."""
    if any(candidate.scores for candidate in candidates):
        return tuple(candidates)
    votes = votes_of(candidates)
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return tuple(candidates)
    # `most_common` keeps the order of first sight among equals.
    first = votes.index(counts.most_common(1)[0][0])
    return (candidates[first], *candidates[:first], *candidates[first + 1 :])


class _Background:
    """One event loop on a thread of its own, for synchronous callers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="inferloom", daemon=True).start()


_background: _Background | None = None
_lock = threading.Lock()


def run_sync(coroutine: Coroutine[None, None, T]) -> T:
    """Run a coroutine on the background loop and wait for it; an interrupt cancels it and waits until it has let go."""
    global _background
    with _lock:
        if _background is None:
            _background = _Background()
    ended = threading.Event()

    async def whole() -> T:
        try:
            return await coroutine
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(whole(), _background.loop)
    try:
        return future.result()
    except BaseException:
        # What was in flight is still recorded; the caller must not close the database before that.
        if future.cancel():
            ended.wait(10)
        raise


_gateways: dict[str, Gateway] = {}


def default_gateway(store: Store | str | None) -> Gateway:
    """The process's gateway for a database: opened once, shared by every pipeline that names it."""
    import os

    if isinstance(store, Store):
        key = f"{store.url}#{id(store)}"
        opened: Store | None = store
    else:
        key = store or os.environ.get("INFERLOOM_DB") or "sqlite:///inferloom.db"
        opened = None
    with _lock:
        if key not in _gateways:
            _gateways[key] = Gateway(opened or Store.open(key))
        return _gateways[key]
