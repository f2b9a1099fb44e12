"""Outcomes of the arms on the pocket suite, several runs each: what `make bench-routing` learns from and judges by.

The arms are those on the upper hull of a study's front (every point of `search_space.yaml` on the 240 items of its dev
set, from `search_pool.py`) and one call of each model. What the search's pool has of them on the reference items is one
run each, with its luck: a router learns from that. Here every item gets `DRAWS` draws of each model, apart from those
of the pool; the nodes of an arm run `REPLICATES` times on them, each time in another order: the mean over those runs
is the quality and the cost by which a choice is judged, with next to no luck in it.

`python benchmarks/routing_pool.py` makes what is not there, in parts, into `benchmarks/.pool/`; a hundred items
take about a minute on one core.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from search_pool import FOLDER, PART, SPACE, Address, ItemBank, answer, items_of, load_pool, points_of

from inferloom.core.protocols import Backend
from inferloom.core.types import Completion
from inferloom.evaluation.graders.base import Grader, make_grader
from inferloom.evaluation.item import Item
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import Space

DRAWS = 24
"""Draws of each model on an item, of which a run takes at most 8."""
REPLICATES = 8
ITEMS = 2000
"""Of the reference: all."""


@dataclass(frozen=True)
class Replicated:
    """Runs of every arm on every item."""

    scores: NDArray[np.float32]
    """(items, arms, replicates)."""
    tokens: NDArray[np.float32]
    """(items, arms, replicates)."""


class Shuffled:
    """The item's draws of every address in another order; a draw that everyone needs once is the same for all."""

    def __init__(self, base: ItemBank, seed: str) -> None:
        self._base, self._seed = base, seed

    async def take(self, address: Address, first: int, count: int) -> list[Completion]:
        """The draws `first`, `first + 1`, ... of this order."""
        _, request = address
        if request.temperature == 0 or request.max_tokens < 100:  # a judge's grade
            return await self._base.take(address, first, count)
        order = list(range(DRAWS))
        Random(f"{self._seed}|{address[0]}").shuffle(order)
        drawn = await self._base.take(address, 0, DRAWS)
        return [drawn[order[index]] for index in range(first, first + count)]

    def number(self, address: Address) -> int:
        """The address as a number that holds for the item."""
        return self._base.number(address)


def hull_of(cost: NDArray[np.float64], quality: NDArray[np.float64]) -> list[int]:
    """The points of the upper hull from the cheapest to the best, the cheapest first."""
    order = sorted(range(len(cost)), key=lambda point: (cost[point], -quality[point]))
    kept: list[int] = []
    for point in order:
        if kept and quality[point] <= max(quality[other] for other in kept):
            continue
        while len(kept) > 1 and _slope(cost, quality, kept[-2], kept[-1]) <= _slope(cost, quality, kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(cost: NDArray[np.float64], quality: NDArray[np.float64], a: int, b: int) -> float:
    return float((quality[b] - quality[a]) / max(cost[b] - cost[a], 1e-9))


def arms_of(space: Space) -> list[int]:
    """The points that are arms: those of the hull of the front on the dev items, and one call of each model."""
    dev = load_pool(space, "dev")
    hull = hull_of(dev.tokens.mean(axis=1).astype(float), dev.scores.mean(axis=1).astype(float))
    points = points_of(space)
    single = [k for k, point in enumerate(points) if point["n"] == 1 and point["writer"] in (0, 1)]
    return sorted({*hull, *single}, key=lambda point: float(dev.tokens[point].mean()))


async def replicate(
    specs: Sequence[PipelineSpec], item: Item, backends: Mapping[str, Backend], grader: Grader
) -> tuple[list[list[float]], list[list[int]]]:
    """Every arm on one item, `REPLICATES` times: scores and tokens by (arm, replicate)."""
    stream = f"replicates/{item.id}"
    base = ItemBank(backends, stream)
    banks = [Shuffled(base, f"{stream}/{turn}") for turn in range(REPLICATES)]
    runs = [[await answer(spec, item, bank, stream, grader) for bank in banks] for spec in specs]  # type: ignore[arg-type]
    return [[run.score for run in row] for row in runs], [[run.tokens for run in row] for row in runs]


async def make_part(
    specs: Sequence[PipelineSpec],
    items: Sequence[Item],
    backends: Mapping[str, Backend],
    grader: Grader,
    progress: Progress,
    name: str,
) -> Replicated:
    task = progress.add_task(name, total=len(items))

    async def one(item: Item) -> tuple[list[list[float]], list[list[int]]]:
        made = await replicate(specs, item, backends, grader)
        progress.advance(task)
        return made

    rows = await asyncio.gather(*(one(item) for item in items))
    progress.remove_task(task)
    return Replicated(
        np.array([scores for scores, _ in rows], dtype=np.float32),
        np.array([tokens for _, tokens in rows], dtype=np.float32),
    )


def _path(start: int) -> Path:
    return FOLDER / f"routing-{DRAWS}-{REPLICATES}-{start}.npz"


def load_replicated(most: int = ITEMS) -> Replicated:
    """What was made, from the first item on.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    there = []
    for start in range(0, most, PART):
        if not _path(start).exists():
            break
        with np.load(_path(start)) as file:
            there.append(Replicated(file["scores"], file["tokens"]))
    if not there:
        raise FileNotFoundError(f"{_path(0)}: make it by `python benchmarks/routing_pool.py`")
    return Replicated(np.concatenate([part.scores for part in there]), np.concatenate([part.tokens for part in there]))


async def make_all(most: int, progress: Progress) -> None:
    """Make what is not there."""
    space = Space.load(SPACE)
    points = points_of(space)
    specs = [PipelineSpec(space.point_document(space.point(points[arm]))) for arm in arms_of(space)]
    backends = {size: open_backend(ModelSpec.parse(f"pocket:{size}")) for size in ("small", "large")}
    items = items_of("reference")
    for start in range(0, most, PART):
        if not _path(start).exists():
            part = items[start : start + PART]
            made = await make_part(specs, part, backends, make_grader("pocket"), progress, _path(start).stem)
            np.savez_compressed(_path(start), scores=made.scores, tokens=made.tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS, help="how many items of the reference")
    with Progress(console=Console(stderr=True)) as shown:
        asyncio.run(make_all(parser.parse_args().items, shown))
