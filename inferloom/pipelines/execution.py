"""What happens inside a run: the context that each node is given, and the rows and events that it leaves.

The run in work stands in a context variable, so that LangGraph's state stays JSON-plain.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from inferloom.core.answers import votes_of
from inferloom.core.digest import digest
from inferloom.core.errors import BudgetExceededError
from inferloom.core.memory import Memory
from inferloom.core.protocols import Oracle, Prompts, Sandbox
from inferloom.core.types import Candidate, Choice, Completion, Json, NodeOutput, NodeState, Request, Usage, total
from inferloom.models import telemetry
from inferloom.models.client import RunClient
from inferloom.pipelines.live_text import LiveText
from inferloom.pipelines.result import EventSink, RunResult, StreamEvent
from inferloom.pipelines.spec import PipelineSpec, StepSpec
from inferloom.store import CandidateRow, DecisionRow, Row, StepRow

if TYPE_CHECKING:
    from inferloom.memory.scope import MemoryScope

STOPPED_BUDGET = "budget"


class AnswerTokens:
    """The final answer's text, told as it comes where one call writes it (`live_path`), else at the end.

    Reasoning is held back: only what `RunResult.content` will hold is told.

    Args:
        path: The node whose call writes the answer; None: nobody knows before the end.
        events: Where the pieces go.
    """

    def __init__(self, path: str | None, events: EventSink) -> None:
        self.path = path
        self._events = events
        self._text = LiveText()

    def preview(self, text: str) -> None:
        """A piece of the completion has come."""
        self._tell(self._text.hear(text))

    def restart(self) -> None:
        """What has come so far is void: the call failed and is made again."""
        self._text.restart()

    def finish(self, content: str) -> None:
        """The run has ended with this answer."""
        rest = self._text.finish(content)
        if rest is None:
            self._events.put_nowait(StreamEvent(kind="answer", path="", data={"text": content, "anew": True}))
        else:
            self._tell(rest)

    def _tell(self, piece: str) -> None:
        if piece:
            self._events.put_nowait(StreamEvent(kind="answer", path=self.path or "", data={"text": piece}))


def live_path(spec: PipelineSpec) -> str | None:
    """The path of the last step where its tokens are those of the final answer; else None.

    Where candidates are compared, none of them is the answer before it is chosen.
    """
    end = spec.graph.end
    node = spec.step(end).node
    before = [spec.step(path) for path in spec.graph.ancestors[end]]
    alone = "candidates" in node.requires or not any("candidates" in step.node.provides for step in before)
    sure = spec.graph.executions(end) == 1 and end in spec.graph.always
    return end if node.live and alone and sure else None


@dataclass(slots=True)
class Run:
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
    """The nodes whose tokens are told as they come; None: of all."""
    answering: AnswerTokens | None = None
    """Tells the final answer's tokens to whoever listens."""
    executions: Counter[str] = field(default_factory=Counter)


CURRENT: ContextVar[Run] = ContextVar("inferloom_run")


class _Context:
    """What a node sees of its run."""

    __slots__ = ("_ordinal", "_rng", "_run", "path", "prompts")

    def __init__(self, run: Run, path: str, ordinal: int) -> None:
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
        answering = run.answering if run.answering is not None and run.answering.path == path else None

        def preview(position: int, text: str) -> None:
            events.put_nowait(StreamEvent(kind="token", path=path, data={"index": position, "text": text}))
            if answering is not None:
                answering.preview(text)

        def void(position: int) -> None:
            events.put_nowait(StreamEvent(kind="restart", path=path, data={"index": position}))
            if answering is not None:
                answering.restart()

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
        store = run.client.gateway.store
        return scope.memory(book_of(store), name, f"{run.stream}|{self.path}|{self._ordinal}", run.id)

    def rows(self, path: str) -> Sequence[Mapping[str, Json]]:
        from inferloom.core.rows import read_rows

        return read_rows(path)

    def emit(self, event: str, data: Mapping[str, Json]) -> None:
        if self._run.events is not None:
            self._run.events.put_nowait(StreamEvent(kind=event, path=self.path, data=data))


async def execute(step: StepSpec, state: NodeState) -> NodeOutput:
    """Run one node and record it; a budget that ends inside a node ends the run with the best so far."""
    run = CURRENT.get()
    ordinal = run.executions[step.path]
    run.executions[step.path] += 1
    started = time.time()
    try:
        with telemetry.node_span(step.path, step.node.name):
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


def _decision(run: Run, path: str, ordinal: int, question: str, choice: Choice) -> DecisionRow:
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


def spent() -> Usage:
    """What the current run has spent, nominally."""
    return total(CURRENT.get().client.nominal.values())


def result_of(
    run: Run,
    spec: PipelineSpec,
    candidates: Sequence[Candidate],
    stopped: str | None,
    wall_seconds: float,
) -> RunResult:
    """The result of a run that has come to its end; `candidates` are those of the last node."""
    best = _best_so_far(candidates) if stopped else tuple(candidates)
    answer = (best[0].text if spec.answer == "text" else best[0].answer) if best else None
    client = run.client
    return RunResult(
        answer=answer,
        candidates=best,
        usage=total(client.nominal.values()),
        billed=total(client.billed.values()),
        bound=total(client.bound.values()),
        usage_by_model=dict(client.nominal),
        stopped=stopped,
        run_id=run.id,
        stream=run.stream,
        wall_seconds=wall_seconds,
    )


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
