"""Running a pipeline over items: scores, costs, and a row in the database for each item as soon as it is done."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from inferloom.core.errors import DataError, ModelError, SetupError, UnsupportedCodeError
from inferloom.core.protocols import Oracle
from inferloom.core.types import Candidate, Usage, total
from inferloom.evaluation.asking import Answers, Bench, Grading, Hashed
from inferloom.evaluation.graders import Grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.stats import Interval, mean_interval
from inferloom.store import EvaluationRow, Store

if TYPE_CHECKING:
    from inferloom.memory.scope import MemoryScope
    from inferloom.pipelines.run import RunResult
    from inferloom.pipelines.spec import PipelineSpec

FAILED = "error: "
"""How `stopped` begins for an item on which a model failed; the error's sentence follows."""
MOST_FAILED = 0.2
"""The largest share of items on which a model may fail before an evaluation ends."""
UNGRADED = "ungraded: "
"""How `stopped` begins for an item whose answer is neither right nor wrong; the reason follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One item, answered and graded."""

    item: str
    """The item's id."""
    score: float
    answer: str | None
    nominal: Usage
    """What the run costs in production; zero where a model failed."""
    billed: Usage = field(default_factory=Usage)
    """What was spent this time; zero where the row was there from before."""
    stopped: str | None = None
    """Why the run ended early: `budget`, or `error: ...` where a model failed; None for a whole run.

    `ungraded: ...` where the answer is there and could not be graded.
    """
    run: str = ""
    seconds: float = 0.0
    """Wall seconds of the run; zero where the row was there from before."""
    resumed: bool = False
    """Whether the row was there from before."""
    position: int | None = None
    """Its place in the stream of an online evaluation, from 0."""

    @property
    def failed(self) -> bool:
        """Whether a model failed on it."""
        return self.stopped is not None and self.stopped.startswith(FAILED)

    @property
    def ungraded(self) -> bool:
        """Whether its answer could not be graded; the score of 0 then says nothing about it."""
        return self.stopped is not None and self.stopped.startswith(UNGRADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A pipeline's results over items, in the order of the items."""

    results: tuple[ItemResult, ...]
    mean: Interval
    """The mean score with its 95% interval."""
    wall_seconds: float
    """Wall seconds of this evaluation, from first to last item."""
    oracle: bool = False
    """Whether a node looked at the right answers: the mean is a bound, never compared with the rest."""
    grading: Grading = field(default_factory=Grading)
    """What a grader that asks a model cost, which is no part of the pipeline's usage."""

    @property
    def scores(self) -> tuple[float, ...]:
        """One score per item, to be paired with another evaluation of the same items."""
        return tuple(result.score for result in self.results)

    @property
    def nominal(self) -> tuple[Usage, ...]:
        """Nominal usage per item."""
        return tuple(result.nominal for result in self.results)

    @property
    def usage(self) -> Usage:
        """Nominal usage of all items together."""
        return total(self.nominal)

    @property
    def billed(self) -> Usage:
        """What was spent by this evaluation this time."""
        return total(result.billed for result in self.results)

    @property
    def failures(self) -> tuple[ItemResult, ...]:
        """The items on which a model failed; each scores 0."""
        return tuple(result for result in self.results if result.failed)

    @property
    def halves(self) -> tuple[Interval, Interval] | None:
        """The mean scores of the first and the last half of an online evaluation's stream; None for others."""
        line = sorted((result.position, result.score) for result in self.results if result.position is not None)
        if len(line) < 2:
            return None
        scores = [score for _, score in line]
        middle = len(scores) // 2
        return mean_interval(scores[:middle], seed=0), mean_interval(scores[middle:], seed=0)

    @property
    def ungraded(self) -> tuple[ItemResult, ...]:
        """The items whose answers could not be graded.

        Each keeps its place with a score of 0, in the mean too, so that evaluations of the same items stay paired. The
        mean may thus be too low by up to the share of these items.
        """
        return tuple(result for result in self.results if result.ungraded)


async def evaluate(
    pipeline: Answers,
    items: Sequence[Item],
    *,
    grader: Grader,
    store: Store,
    stream: str,
    split: str,
    study: str | None = None,
    trial: int | None = None,
    concurrency: int = 32,
    on_item: Callable[[ItemResult], None] | None = None,
    rng: Random | None = None,
    most_failed: float = MOST_FAILED,
    judges: Callable[[PipelineSpec], Answers] | None = None,
    memory: MemoryScope | None = None,
    order: int | None = None,
) -> Evaluation:
    """Run a pipeline over items and grade what it answers.

    With a study and a trial every item's result is a row in the database, written as soon as it is there; items that
    have their row from this pipeline already are not run again. Failed and ungraded items are: what was received for
    them is in the bank and costs nothing.

    Args:
        pipeline: What answers.
        items: What is asked; ids differ.
        grader: What judges the answers.
        store: Where rows go.
        stream: The name under which draws are shared; each item draws from `stream/ITEM`.
        split: The split that the items are from.
        study: The study that this belongs to; None: no rows are written or read.
        trial: The trial's number within the study.
        concurrency: How many items are in work at once.
        on_item: Called with each result as it comes, in no fixed order; those from before come first.
        rng: Seeds the bootstrap of the mean's interval, where scores are not all 0 or 1.
        most_failed: The largest share of items that may fail, by a model of the pipeline or of the grader; with more
            the evaluation ends. Items that could not be graded are no failures.
        judges: Makes the pipelines through which a grader asks its model; needed by such graders only.
        memory: How the pipeline's memories are used. None, or the protocol `frozen`: they are read as they were when
            the evaluation began, and never written. `online`: a fork of each is read and written, one item after the
            other.
        order: Seeds the order in which an online evaluation asks its items; None: as they stand.

    Raises:
        DataError: There are no items.
        SetupError: The grader asks a model, and there are no `judges`, it is the pipeline's own model, or a node of
            the pipeline looks at the right answers.
        ModelError: More than `most_failed` of the items failed (it is the last one's error), or the first one failed
            for a reason that only the user can mend.
        StorageError: The database takes no writes.
    """
    if not items:
        raise DataError("there are no items to evaluate on", where=split)
    began = time.perf_counter()
    place = None if study is None or trial is None else (study, trial)
    grading = Grading()
    grader = _ready(grader, judges, pipeline.spec, study, grading)
    line = _Line.of(items, memory, order, stream=stream, split=split)
    work = _Work(pipeline, grader, store, stream, split, place, study, on_item, most_failed * len(items), line)
    done = {} if place is None else _rows_there(store, *place, split, pipeline.spec.hash)
    for item in items:
        if item.id in done:
            work.take(done[item.id])
    await work.run_all([item for item in line.items if item.id not in done], 1 if line.online else concurrency)
    results = tuple(work.results[item.id] for item in items)
    seed = 0 if rng is None else rng.getrandbits(32)
    return Evaluation(
        results=results,
        mean=mean_interval([result.score for result in results], seed=seed),
        wall_seconds=time.perf_counter() - began,
        grading=grading,
        oracle=pipeline.spec.uses_oracle,
    )


def _ready(
    grader: Grader,
    judges: Callable[[PipelineSpec], Answers] | None,
    arm: Hashed,
    study: str | None,
    grading: Grading,
) -> Grader:
    """The grader with what it needs to ask its model, where it asks one."""
    if not grader.asks_models:
        return grader
    if arm.uses_oracle:
        raise SetupError(
            f"the grader `{grader.name}` asks a model, so a pipeline with a step that looks at the right answers "
            "cannot be evaluated by it; take a grader that asks none"
        )
    if judges is None:
        raise SetupError(f"the grader `{grader.name}` asks a model; `evaluate` needs `judges` for it")
    return grader.attached(Bench(judges, arm, study, grading))


def _rows_there(store: Store, study: str, trial: int, split: str, pipeline: str) -> dict[str, ItemResult]:
    """Results of an earlier evaluation by item, save those of another pipeline, failed and ungraded ones."""
    rows = store.evaluations(study, split=split, trial=trial)
    results = {
        row.item: ItemResult(
            item=row.item,
            score=row.score,
            answer=row.answer,
            nominal=row.nominal,
            stopped=row.stopped,
            run=row.run,
            resumed=True,
        )
        for row in rows
        if row.pipeline == pipeline
    }
    return {item: result for item, result in results.items() if not (result.failed or result.ungraded)}


@dataclass(frozen=True, slots=True)
class _Line:
    """The order in which items are asked, and what each may do with memories."""

    items: Sequence[Item]
    scope: MemoryScope
    record: str
    positions: Mapping[str, int]

    @classmethod
    def of(cls, items: Sequence[Item], memory: MemoryScope | None, order: int | None, **names: str) -> _Line:
        from inferloom.memory.scope import MemoryScope

        scope, ordered = memory or MemoryScope(protocol="frozen"), list(items)
        if order is not None and scope.protocol == "online":
            Random(order).shuffle(ordered)
        record = json.dumps({**names, "order": order, "items": len(items)})
        return cls(ordered, scope, record, {item.id: position for position, item in enumerate(ordered)})

    @property
    def online(self) -> bool:
        """Whether an item may read what those before it taught."""
        return self.scope.protocol == "online"

    def scope_of(self, item: Item) -> MemoryScope:
        """What an item may do with memories."""
        return self.scope.at(self.positions[item.id], self.record) if self.online else self.scope


class _Work:
    """One evaluation while it goes on."""

    def __init__(
        self,
        pipeline: Answers,
        grader: Grader,
        store: Store,
        stream: str,
        split: str,
        place: tuple[str, int] | None,
        study: str | None,
        on_item: Callable[[ItemResult], None] | None,
        failures_allowed: float,
        line: _Line,
    ) -> None:
        self._pipeline, self._grader, self._store = pipeline, grader, store
        self._stream, self._split, self._place, self._study = stream, split, place, study
        self._on_item = on_item
        self._failures_allowed = failures_allowed
        self._line = line
        self._failures = 0
        self._ended = False
        self.results: dict[str, ItemResult] = {}

    def take(self, result: ItemResult) -> None:
        if self._line.online:
            result = replace(result, position=self._line.positions[result.item])
        self.results[result.item] = result
        if self._on_item is not None:
            self._on_item(result)

    async def run_all(self, items: Sequence[Item], concurrency: int) -> None:
        """Run items, so many at once; the first error ends all."""
        gate = asyncio.Semaphore(concurrency)

        async def one(item: Item) -> None:
            async with gate:
                # The group cancels its tasks only at the next turn of the loop; nothing more may be asked before that.
                if self._ended:
                    return
                try:
                    await self.run(item)
                except BaseException:
                    self._ended = True
                    raise

        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item))
        except BaseExceptionGroup as errors:
            # The first error ended the others; it alone says what happened.
            raise errors.exceptions[0] from None

    async def run(self, item: Item) -> None:
        """Ask, grade and record one item."""
        answered: RunResult | None = None
        score, failure = 0.0, None
        try:
            answered = await self._pipeline.ainvoke(
                item.question,
                stream=f"{self._stream}/{item.id}",
                notes=item.notes,
                examples=item.examples,
                study=self._study,
                item=item.id,
                tag=self._split,
                oracle=self._oracle(item) if self._pipeline.spec.uses_oracle else None,
                memory=self._line.scope_of(item),
            )
            score = await self._grader.agrade(item, answered.answer, answered.text)
        except UnsupportedCodeError as error:
            failure = UNGRADED + error.sentence
        except ModelError as error:
            self._failures += 1
            nothing_works = error.exit_code == 2 and all(result.failed for result in self.results.values())
            if nothing_works or self._failures > self._failures_allowed:
                raise
            failure = FAILED + error.sentence
        if answered is None:
            result = ItemResult(item=item.id, score=score, answer=None, nominal=Usage(), stopped=failure)
        else:
            result = ItemResult(
                item=item.id,
                score=score,
                answer=answered.answer,
                nominal=answered.usage,
                billed=answered.billed,
                stopped=failure or answered.stopped,
                run=answered.run_id,
                seconds=answered.wall_seconds,
            )
        if self._place is not None:
            await self._store.write(self._row(result))
        self.take(result)

    def _oracle(self, item: Item) -> Oracle:
        """What nodes marked `oracle` may ask about this item."""

        def grade(candidate: Candidate) -> float:
            try:
                return self._grader.grade(item, candidate.answer, candidate.text)
            except UnsupportedCodeError:
                return 0.0  # another candidate may still be found right

        return grade

    def _row(self, result: ItemResult) -> EvaluationRow:
        study, trial = self._place or ("", 0)
        return EvaluationRow(
            study=study,
            trial=trial,
            split=self._split,
            item=result.item,
            pipeline=self._pipeline.spec.hash,
            run=result.run,
            score=result.score,
            answer=result.answer,
            nominal=result.nominal,
            stopped=result.stopped,
            created=time.time(),
        )
