"""Running a pipeline: load it, ask it, get the answer with its accounts.

A run is one question. Its id stands in the database with every call, step and candidate; its usage is the sum of its
ledger rows. LangGraph executes the graph; `execution` gives each node its context, and this module keeps the records.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from inferloom.core.errors import InferloomError
from inferloom.core.protocols import Capabilities, Oracle
from inferloom.core.tools import Tools
from inferloom.core.types import Message
from inferloom.models import telemetry
from inferloom.models.budget import Budget, Purse
from inferloom.models.client import Gateway, OpenModel, RunClient
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.background import iterate_sync, run_sync
from inferloom.pipelines.compile import CompiledGraph, compile_graph
from inferloom.pipelines.execution import CURRENT, AnswerTokens, Run, execute, live_path, result_of, spent
from inferloom.pipelines.result import EventSink, RunOptions, RunResult, StreamEvent
from inferloom.pipelines.rules import check_capabilities, check_tools
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import PipelineRow, RunRow, Store

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from inferloom.memory.scope import MemoryScope
    from inferloom.pipelines.embed import AgentGraph

__all__ = ["EventSink", "Pipeline", "RunOptions", "RunResult", "StreamEvent", "default_gateway", "run_sync"]


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
        self._compiled: CompiledGraph = compile_graph(spec, execute, spent)
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

    @cached_property
    def graph(self) -> AgentGraph:
        """The pipeline as a compiled LangGraph graph over `messages`: a graph, or a node or subgraph of another one.

        It reads the conversation in `messages` and adds its answer there. Inside another graph it uses that graph's
        checkpointer; `compile` gives it one of its own.
        """
        return self.compile()

    def compile(
        self,
        checkpointer: BaseCheckpointSaver[str] | bool | None = None,
        *,
        interrupt_before: Sequence[str] = (),
        interrupt_after: Sequence[str] = (),
    ) -> AgentGraph:
        """`graph` with a checkpointer, and with interrupts at nodes, named by their paths.

        Args:
            checkpointer: LangGraph's: a saver, None to use that of the graph around it, False for none, True to keep
                the state as a subgraph from one turn of a thread to the next.
            interrupt_before: The run stops before these nodes, until the graph is invoked again with None.
            interrupt_after: The same after these nodes.

        Raises:
            UnknownNameError: There is no such node.
        """
        from inferloom.pipelines.embed import agent_graph

        return agent_graph(self, checkpointer, interrupt_before, interrupt_after)

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
            study: The study that the run belongs to.
            item: The data item that the question comes from.
            tag: Anything that helps to find the run again.
            oracle: Grades candidates against the right answer; only an evaluation has it, for nodes marked `oracle`.
            memory: Which memories the names in the pipeline mean, and whether they are written to; None: those of the
                default namespace, written to.
            tools: What the answer may call; it then comes back in `RunResult.tool_calls`.
            events: Where events go while the run goes on.
            tokens_of: The paths of the nodes whose tokens are told as they come; None: of all.
            run_id: The run's id, 32 hex digits; None: a new one.
            account: What the run's calls are billed to, beside other runs; None: the gateway's own.

        Raises:
            CapabilityError: There are tools, and a node or a model that cannot offer them.
            ModelError: A model failed for good; the run is recorded as failed.
            StorageError: The database takes no writes.
        """
        messages = (Message("user", question),) if isinstance(question, str) else tuple(question)
        if tools is not None:
            check_tools(self.spec, self.capabilities)
        fresh, run_id, stream = stream is None, run_id or uuid.uuid4().hex, stream or uuid.uuid4().hex
        run = self.open_run(run_id, stream, budget=budget, lanes=self._compiled.lanes, fresh=fresh, account=account)
        run.oracle, run.memory, run.events, run.tokens_of = oracle, memory, events, tokens_of
        if events is not None:
            run.answering = AnswerTokens(self.live_path, events)
        last = messages[-1].content if messages else ""
        asked = next((turn.content for turn in reversed(messages) if turn.role == "user"), last)
        row = RunRow(
            id=run_id,
            pipeline=self.spec.hash,
            stream=stream,
            question=asked,
            status="running",
            started=time.time(),
            study=study,
            item=item,
            tag=tag,
        )
        with telemetry.run_span(self.spec.name, run_id, messages) as span:
            result = await self._recorded(run, row, messages, tuple(notes), tuple(examples), tools)
            telemetry.finished(span, result.answer, result.usage, result.billed, result.stopped)
            return result

    def open_run(
        self,
        run_id: str,
        stream: str,
        *,
        budget: Budget | None = None,
        lanes: Mapping[str, int],
        fresh: bool,
        account: Purse | None = None,
    ) -> Run:
        """What a run of this pipeline needs while it goes on; nothing is recorded yet.

        Args:
            run_id: The run's id.
            stream: The name under which draws are shared.
            budget: The most it may cost, nominally; None: the pipeline's own `budget`.
            lanes: For each node path, how many nodes stand before it that may ask the same thing at the same time.
            fresh: Whether the bank holds nothing of the stream.
            account: What its calls are billed to; None: the gateway's own.
        """
        client = RunClient(
            self.gateway,
            self._models,
            run=run_id,
            stream=stream,
            budget=budget or self.spec.budget,
            before=self._compiled.ancestors,
            lanes=lanes,
            fresh=fresh,
            account=account,
        )
        return Run(id=run_id, stream=stream, client=client, prompts=self._prompts)

    @cached_property
    def live_path(self) -> str | None:
        """The node whose tokens are those of the final answer; None where the answer is known at the end only."""
        return live_path(self.spec)

    def save(self) -> None:
        """Hand the pipeline's specification to the database, once."""
        if not self._saved:
            created = time.time()
            self.gateway.store.submit(PipelineRow(hash=self.spec.hash, yaml=self.spec.to_yaml(), created=created))
            self._saved = True

    async def _recorded(
        self,
        run: Run,
        row: RunRow,
        messages: tuple[Message, ...],
        notes: tuple[str, ...],
        examples: tuple[tuple[str, str], ...],
        tools: Tools | None,
    ) -> RunResult:
        """Run the graph between a `running` row and the final one, whatever happens in between."""
        store = self.gateway.store
        self.save()
        store.submit(row)
        token = CURRENT.set(run)
        clock = time.perf_counter()
        try:
            await run.client.prepare()
            candidates, stopped = await self._compiled.run(row.question, messages, notes, examples, tools)
        except BaseException as error:
            reason = error.sentence if isinstance(error, InferloomError) else f"{type(error).__name__}: {error}"
            store.submit(*run.rows, replace(row, status="failed", error=reason, ended=time.time()))
            raise
        finally:
            CURRENT.reset(token)
        result = result_of(run, self.spec, candidates, stopped, time.perf_counter() - clock)
        await store.write(
            *run.rows, replace(row, status="done", answer=result.answer, stopped=stopped, ended=time.time())
        )
        if run.answering is not None:
            run.answering.finish(result.content)
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

    def batch(
        self, questions: Sequence[str | Sequence[Message]], *, concurrency: int = 8, stream: str | None = None
    ) -> list[RunResult]:
        """`abatch` from synchronous code."""
        return run_sync(self.abatch(questions, concurrency=concurrency, stream=stream))

    def stream(self, question: str | Sequence[Message], **options: object) -> Iterator[StreamEvent]:
        """`astream` from synchronous code; leaving the loop early cancels the run."""
        return iterate_sync(self.astream(question, **options))

    async def astream(self, question: str | Sequence[Message], **options: object) -> AsyncGenerator[StreamEvent, None]:
        """Answer one question and yield what happens (`StreamEvent`), last the result; options as for `ainvoke`.

        Leaving early cancels the run and waits until it has let go.
        """
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
            await asyncio.wait({task})


_lock = threading.Lock()
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
