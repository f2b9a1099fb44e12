"""Running pipelines for a study: a limit on what is billed, a limit on what goes on at once, one set of streams.

Streams are named by the data, the seed and the split, never by the study: the same search under another name finds
every completion in the bank, and pipelines are compared on common random numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Literal, Unpack

from inferloom.core.errors import BudgetExceededError
from inferloom.core.types import Json
from inferloom.evaluation.data import DataSet
from inferloom.evaluation.evaluate import MOST_FAILED, Evaluation, ItemResult, evaluate
from inferloom.evaluation.item import Item
from inferloom.evaluation.splits import SplitName, Splits
from inferloom.memory.scope import MemoryScope
from inferloom.models.budget import Budget, Purse, measures
from inferloom.models.client import Gateway
from inferloom.pipelines.document import content_hash
from inferloom.pipelines.run import Pipeline, RunOptions, RunResult
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.crew import Crew, OnResult, Share
from inferloom.search.samplers import derived_seed
from inferloom.store import Store


class Runner:
    """Evaluates pipelines on the splits of a study.

    Args:
        store: Where everything is written.
        gateway: The models; its purse is replaced by the study's.
        study: The study's name.
        data: The items' grader and name.
        splits: The items.
        seed: The study's seed.
        concurrency: Items in work at once, over all evaluations.
        budget: The most that the study may bill, over all its calls.
        on_item: Called with every result.
        memory: The protocol of the trials' memories.
        began: When the study began, in Unix seconds: memories are read as they were then.
        crew: Workers who answer beside this process; None: it answers all by itself.
    """

    def __init__(
        self,
        store: Store,
        gateway: Gateway,
        *,
        study: str,
        data: DataSet,
        splits: Splits,
        seed: int,
        concurrency: int,
        budget: Budget,
        on_item: OnResult,
        memory: Literal["frozen", "online"],
        began: float,
        crew: Callable[[Runner], Crew] | None = None,
    ) -> None:
        self._store, self._study, self._data, self._splits = store, study, data, splits
        self._seed, self._on_item = seed, on_item
        self._gateway = gateway
        self._budget = budget
        self.purse = Purse(Budget())
        self.take_stock()
        self.data_hash = data_hash(data)
        self._dev = list(splits.dev)
        Random(derived_seed(seed, "order of dev")).shuffle(self._dev)
        self._told: set[tuple[int, SplitName, str]] = set()
        self._gate = asyncio.Semaphore(concurrency)
        self._memory = memory
        self._frozen = MemoryScope(protocol="frozen", moment=began)
        self._active = 0
        self._idle = asyncio.Event()
        self._crew = None if crew is None else crew(self)

    @property
    def left(self) -> Budget:
        """What the study may still bill."""
        spent = measures(self.purse.spent)
        return Budget(**{name: max(0.0, limit - spent[name]) for name, limit in self.purse.limits.items()})

    def take_stock(self) -> None:
        """Learn from the ledger what the study has billed, by whichever process."""
        usage = self._store.study_usage(self._study)
        self._spend_from(Purse(self._budget, usage.billed + usage.bound, label="max_billed "))

    def allow(self, budget: Budget) -> None:
        """Spend so much from now on and no more, whatever the study as a whole may."""
        self._spend_from(Purse(budget, label="max_billed "))

    def _spend_from(self, purse: Purse) -> None:
        self.purse = self._gateway.billed = purse

    async def aclose(self) -> None:
        """End the workers."""
        if self._crew is not None:
            await self._crew.aclose()

    def pipeline(self, spec: PipelineSpec) -> Pipeline:
        """A pipeline on the study's models.

        Raises:
            CapabilityError: A model lacks what a node needs.
        """
        return Pipeline(spec, self._gateway)

    async def evaluate(
        self, spec: PipelineSpec, split: SplitName, trial: int, *, items: int | None = None
    ) -> Evaluation:
        """A pipeline on a split, or on the first items of it; items that have their row are not run again.

        The items of dev stand in a random order that is the study's.

        Raises:
            BudgetExceededError: The study may bill no more; runs that were under way have ended and are kept.
            ModelError, StorageError: As `evaluate`.
        """
        chosen = self._whole(split)[:items]
        if self._crew is not None:
            there = {
                row.item for row in self._store.evaluations(self._study, split, trial) if row.pipeline == spec.hash
            }
            missing = tuple(item.id for item in chosen if item.id not in there)
            if missing:
                await self._crew.answer(Share(trial=trial, split=split, yaml=spec.to_yaml(), items=missing))
                self.take_stock()
        return await self._evaluate(spec, chosen, split, trial)

    async def answer(self, share: Share) -> None:
        """What a worker does: answer and record a trial's share of the items.

        However many of them a model fails on, the others are answered: the study judges that over all items.

        Raises:
            As `evaluate`.
        """
        wanted = set(share.items)
        items = [item for item in self._whole(share.split) if item.id in wanted]
        await self._evaluate(PipelineSpec.parse(share.yaml), items, share.split, share.trial, most_failed=1.0)

    def _whole(self, split: SplitName) -> Sequence[Item]:
        return self._dev if split == "dev" else self._splits[split]

    async def probe(self, spec: PipelineSpec, items: int) -> Evaluation:
        """A pipeline on the first few dev items, on the dev stream, without rows; to learn what it costs."""
        return await self._evaluate(spec, self._dev[:items], "dev", None)

    async def _evaluate(
        self,
        spec: PipelineSpec,
        items: Sequence[Item],
        split: SplitName,
        trial: int | None,
        most_failed: float = MOST_FAILED,
    ) -> Evaluation:
        return await evaluate(
            _Held(self, self.pipeline(spec)),
            items,
            grader=self._data.grader,
            store=self._store,
            stream=f"{self.data_hash}/{self._seed}/{split}",
            split=split,
            study=self._study,
            trial=trial,
            concurrency=len(items),
            on_item=None if trial is None else partial(self.tell, trial, split),
            rng=Random(derived_seed(self._seed, split, spec.hash)),
            judges=lambda judge: _Held(self, self.pipeline(judge)),
            most_failed=most_failed,
            memory=self._scope(split, trial),
            order=self._seed,
        )

    def tell(self, trial: int, split: SplitName, result: ItemResult) -> None:
        """Tell of a result once, though a race goes over the first items again."""
        if (trial, split, result.item) not in self._told:
            self._told.add((trial, split, result.item))
            self._on_item(trial, split, result)

    def _scope(self, split: SplitName, trial: int | None) -> MemoryScope:
        """What runs may do with memories; a probe learns nothing."""
        if self._memory == "frozen" or trial is None:
            return self._frozen
        return replace(self._frozen, protocol="online", fork=f"{self._study}/{trial}/{split}")

    async def hold(self, run: Callable[[], Awaitable[RunResult]]) -> RunResult:
        """One run within the study's limits.

        Once something was refused nothing new starts, and a run that was cut short counts for nothing: it waits until
        every other run has ended (so that no call in flight is cut off and lost), and then raises.
        """
        async with self._gate:
            if not self.purse.refused:
                self._active += 1
                result: RunResult | None = None
                try:
                    result = await run()
                except BudgetExceededError:
                    # A pipeline's own budget ends its run with an answer; what comes out is the study's.
                    self.purse.refused = True
                finally:
                    self._active -= 1
                    if self._active == 0:
                        self._idle.set()
                if result is not None and (result.stopped is None or not self.purse.refused):
                    return result
        while self._active:
            self._idle.clear()
            await self._idle.wait()
        limit = next(iter(self.purse.limits))
        spent = measures(self.purse.spent)[limit]
        raise BudgetExceededError(f"max_billed {limit}", self.purse.limits[limit], spent)


class _Held:
    """A pipeline that runs within the study's limits."""

    def __init__(self, runner: Runner, pipeline: Pipeline) -> None:
        self._runner, self._pipeline = runner, pipeline

    @property
    def spec(self) -> PipelineSpec:
        return self._pipeline.spec

    async def ainvoke(self, question: str, **options: Unpack[RunOptions]) -> RunResult:
        return await self._runner.hold(lambda: self._pipeline.ainvoke(question, **options))


def data_hash(data: DataSet) -> str:
    """What stands for the items and their grading, as part of stream names: 16 hex digits."""
    items: list[Json] = [
        [item.id, item.question, item.answer, list(item.notes), [list(pair) for pair in item.examples]]
        for item in data.items
    ]
    return content_hash([data.grader.name, data.grader.params.model_dump(mode="json"), items])[:16]
