"""Workers of a study: who answers items beside one another, in other processes or on other machines.

The study itself stays in one process: it draws the trials, decides the races and writes the book. What it hands out is
cut by *items*. All trials' work on one item goes to one worker, because trials share the draws of an item: two workers
on one item would ask a model for the same completion twice. So the cut changes no result, and no call is made twice.

A worker's results are rows in the database. Once all that was handed out is back, the study evaluates as it does
without workers, and finds those rows. What a worker left undone (it was refused money, a model failed) is done there,
by the rules that hold there; a crew may leave out anything and change nothing but the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Protocol

from inferloom.core.errors import InferloomError
from inferloom.evaluation.evaluate import ItemResult
from inferloom.evaluation.splits import SplitName
from inferloom.models.budget import Budget

MOST_DEATHS = 5
"""Workers that may die one after the other on the same items before any of these is answered."""
_CHUNKS = 4
"""Chunks that each worker gets of a wave, so that none waits long for the slowest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Items that one trial has to answer."""

    trial: int
    split: SplitName
    yaml: str
    """The trial's pipeline."""
    items: tuple[str, ...]
    """Ids, in the order in which they are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one worker does at a time: the same few items for every trial that wants them."""

    shares: tuple[Share, ...]
    budget: Budget
    """The most that it may bill."""


class WorkerDiedError(InferloomError):
    """A worker ended before it was through."""

    kind = "worker_died"


OnResult = Callable[[int, SplitName, ItemResult], None]


class Hand(Protocol):
    """A worker, as the crew sees it."""

    async def work(self, chunk: Chunk, on_result: OnResult) -> None:
        """Answer a chunk; every result is a row in the database when this returns.

        Raises:
            WorkerDiedError: The worker is gone; another hand may take the chunk.
            InferloomError: The worker cannot work, for a reason that holds for all of them.
        """
        ...

    async def aclose(self) -> None:
        """Let the worker end what it does and wait for it."""
        ...


@dataclass(slots=True)
class _Wave:
    """What is handed out together."""

    shares: list[Share] = field(default_factory=list)
    done: asyncio.Future[None] | None = None


class Crew:
    """Hands out what a study's evaluations ask for, wave by wave.

    Args:
        make: Makes a hand.
        workers: How many of them work at once.
        at_once: Items that one worker answers at once.
        left: What the study may still bill.
        on_result: Called with every result as it comes.
    """

    def __init__(
        self,
        make: Callable[[], Hand],
        *,
        workers: int,
        at_once: int,
        left: Callable[[], Budget],
        on_result: OnResult,
    ) -> None:
        self._make, self._workers, self._at_once = make, workers, at_once
        self._left, self._on_result = left, on_result
        self._hands: list[Hand] = []
        self._next = _Wave()
        self._running: asyncio.Task[None] | None = None

    async def answer(self, share: Share) -> None:
        """Have a share answered, together with those that are asked for at the same time.

        Raises:
            InferloomError: The workers cannot work.
        """
        wave = self._next
        wave.shares.append(share)
        if wave.done is None:
            wave.done = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # Each evaluation waits for the whole wave: none may begin anything on an item that a worker has in hand.
        await asyncio.shield(wave.done)

    async def aclose(self) -> None:
        """End every worker, and wait until it has let go of the database."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await asyncio.gather(*(hand.aclose() for hand in self._hands))
        self._hands.clear()

    async def _run(self) -> None:
        """Wave after wave until nobody asks for more."""
        while self._next.shares:
            wave, self._next = self._next, _Wave()
            assert wave.done is not None
            error: BaseException | None = None
            try:
                await self._do(wave.shares)
            except BaseException as raised:
                error = raised
                if not isinstance(raised, Exception):
                    raise
            finally:
                if not wave.done.done():
                    if error is None:
                        wave.done.set_result(None)
                    else:
                        wave.done.set_exception(error)
                        # Whoever asked may be gone by now.
                        wave.done.exception()
        self._running = None

    async def _do(self, shares: Sequence[Share]) -> None:
        """One wave: every worker takes the next chunk as soon as it is through with one."""
        chunks = deque(cut(shares, self._workers, self._at_once, self._left()))
        wanted = min(self._workers, len(chunks))
        while len(self._hands) < wanted:
            self._hands.append(self._make())
        try:
            async with asyncio.TaskGroup() as group:
                for place in range(wanted):
                    group.create_task(self._tend(place, chunks))
        except BaseExceptionGroup as errors:
            # The first error ended the others; it alone says what happened.
            raise errors.exceptions[0] from None

    async def _tend(self, place: int, chunks: deque[Chunk]) -> None:
        while chunks:
            await self._see_through(place, chunks.popleft())

    async def _see_through(self, place: int, chunk: Chunk) -> None:
        """A chunk, by as many workers as it takes."""
        deaths = 0

        def came(trial: int, split: SplitName, result: ItemResult) -> None:
            nonlocal deaths
            deaths = 0
            self._on_result(trial, split, result)

        while True:
            try:
                await self._hands[place].work(chunk, came)
            except WorkerDiedError as error:
                await self._hands[place].aclose()
                self._hands[place] = self._make()
                deaths += 1
                if deaths >= MOST_DEATHS:
                    raise WorkerDiedError(
                        f"{MOST_DEATHS} workers died one after the other on the same items ({error.message})",
                        where=error.where,
                    ) from None
                if chunk.budget.limits():
                    # What the dead one spent of its allowance is not known; the study itself does the rest.
                    return
            else:
                return


def cut(shares: Sequence[Share], workers: int, at_once: int, left: Budget) -> list[Chunk]:
    """Shares as chunks by item, each with its part of what may be billed.

    The items of a chunk keep every worker busy with about twice what it answers at once, where there are enough.
    """
    trials_of: dict[tuple[SplitName, str], list[int]] = {}
    for position, share in enumerate(shares):
        for item in share.items:
            trials_of.setdefault((share.split, item), []).append(position)
    items = list(trials_of)
    per_item = sum(map(len, trials_of.values())) / len(items)
    size = max(ceil(len(items) / (_CHUNKS * workers)), ceil(2 * at_once / per_item))
    size = max(1, min(size, ceil(len(items) / workers)))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    budget = Budget(**{name: amount / len(parts) for name, amount in left.limits().items()})
    return [
        Chunk(
            shares=tuple(
                replace(share, items=own)
                for position, share in enumerate(shares)
                if (own := tuple(item for split, item in part if position in trials_of[split, item]))
            ),
            budget=budget,
        )
        for part in parts
    ]
