"""Every point of a space answered on a pool of completions that is made once: what `make bench-search` replays.

The nodes of a point run as in a pipeline; a small bank in memory serves them, with the addresses of the real one:
request, sampling parameters, index. So the pool knows of every point and item the score, the tokens, and which draws it
takes, and a virtual meter can charge any order of trials, with a bank or without.

`python benchmarks/search_pool.py` makes what is not there, in parts, into `benchmarks/.pool/`: about an hour on two
cores, most of it for the 2,000 items of the reference.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from inferloom.core.memory import Memory
from inferloom.core.protocols import Backend, Oracle, Prompts, Sandbox
from inferloom.core.types import Completion, Json, Message, NodeState, Request
from inferloom.evaluation.graders.base import Grader, make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.document import content_hash
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import Space
from inferloom.search.template import Values

Address = tuple[str, Request]
"""A model and a request for one completion."""
AT_ONCE = 96
"""Items in work together."""
SPACE = Path(__file__).with_name("search_space.yaml")
FOLDER = Path(__file__).with_name(".pool")
PART = 100
"""Items in one file."""
KINDS: dict[str, tuple[int, int]] = {"dev": (240, 31), "reference": (2000, 32)}
"""What is answered: how many items, and their seed."""


@dataclass(slots=True)
class Drawn:
    """What an address has given so far on one item, in the order of its indexes."""

    number: int
    """The address's place among those of the item."""
    completions: list[Completion] = field(default_factory=list)
    wanted: asyncio.Lock = field(default_factory=asyncio.Lock)


class ItemBank:
    """All draws on one item, for all points."""

    def __init__(self, backends: Mapping[str, Backend], stream: str) -> None:
        self._backends, self._stream = backends, stream
        self._drawn: dict[Address, Drawn] = {}

    async def take(self, address: Address, first: int, count: int) -> list[Completion]:
        """The draws `first`, `first + 1`, ... of an address, made where they are not there."""
        drawn = self._drawn.get(address) or self._drawn.setdefault(address, Drawn(len(self._drawn)))
        async with drawn.wanted:
            missing = range(len(drawn.completions), first + count)
            if missing:
                model, request = address
                seeds = [_seed(self._stream, model, request, index) for index in missing]
                drawn.completions += await self._backends[model].generate(request, seeds)
        return drawn.completions[first : first + count]

    def number(self, address: Address) -> int:
        """The address as a number that holds for the item."""
        return self._drawn[address].number

    def known(self) -> Iterable[tuple[Address, Drawn]]:
        """Every address with what it has given."""
        return self._drawn.items()


def _seed(stream: str, model: str, request: Request, index: int) -> int:
    text = f"{stream}|{model}|{request}|{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class PoolContext:
    """What a node sees: draws from the item's bank, each index used once in a run."""

    bank: ItemBank
    stream: str
    prompts: Prompts
    path: str = ""
    used: Counter[Address] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    oracle: Oracle | None = None

    @property
    def rng(self) -> Random:
        """Seeded by stream and path."""
        return Random(f"{self.stream}|{self.path}")

    async def generate(self, model: str, request: Request) -> list[Completion]:
        """The next unused draws of an address."""
        address = (model, replace(request, n=1))
        first = self.used[address]
        self.used[address] += request.n
        completions = await self.bank.take(address, first, request.n)
        self.prompt_tokens += completions[0].prompt_tokens or 0
        self.completion_tokens += sum(completion.completion_tokens for completion in completions)
        return completions

    @property
    def sandbox(self) -> Sandbox:
        """None here."""
        raise NotImplementedError

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """None here."""
        raise NotImplementedError

    def memory(self, name: str) -> Memory:
        """None here."""
        raise NotImplementedError

    def rows(self, path: str) -> Sequence[Mapping[str, Json]]:
        """None here."""
        raise NotImplementedError

    def emit(self, event: str, data: Mapping[str, Json]) -> None:
        """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A point's run on one item."""

    score: float
    tokens: int
    draws: tuple[tuple[int, int], ...]
    """(address, how many draws of it) by the item's numbers of addresses."""


async def answer(spec: PipelineSpec, item: Item, bank: ItemBank, stream: str, grader: Grader) -> Answered:
    """Run a point's nodes, one after the other, on one item."""
    context = PoolContext(bank, stream, load_pack(spec.prompts))
    state = NodeState(question=item.question, messages=(Message("user", item.question),), notes=item.notes)
    for step in spec.steps:
        context.path = step.path
        output = await step.node.run(state, context)
        if output.candidates is not None:
            state = replace(state, candidates=output.candidates)
    best = state.candidates[0]
    draws = tuple((bank.number(address), count) for address, count in context.used.items())
    return Answered(
        grader.grade(item, best.answer, best.text), context.prompt_tokens + context.completion_tokens, draws
    )


@dataclass(frozen=True)
class Pool:
    """Every point on every item."""

    scores: NDArray[np.float32]
    """(points, items)."""
    tokens: NDArray[np.float32]
    """(points, items)."""
    draws: Sequence[Sequence[tuple[tuple[int, int], ...]]]
    """[item][point]: which draws the run takes."""

    def save(self, path: Path) -> None:
        """Keep it in a file."""
        flat = [
            (item, point, address, count)
            for item, points in enumerate(self.draws)
            for point, draws in enumerate(points)
            for address, count in draws
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, scores=self.scores, tokens=self.tokens, draws=np.array(flat, dtype=np.int32))

    @classmethod
    def load(cls, path: Path) -> Pool:
        """What `save` kept."""
        with np.load(path) as file:
            scores, tokens, flat = file["scores"], file["tokens"], file["draws"]
        draws: list[list[list[tuple[int, int]]]] = [[[] for _ in range(len(scores))] for _ in range(scores.shape[1])]
        for item, point, address, count in flat.tolist():
            draws[item][point].append((address, count))
        return cls(scores, tokens, [[tuple(one) for one in points] for points in draws])


async def make_pool(
    specs: Sequence[PipelineSpec],
    items: Sequence[Item],
    backends: Mapping[str, Backend],
    grader: Grader,
    stream: str,
    progress: Progress,
) -> Pool:
    """Answer every item with every point."""
    task = progress.add_task(stream, total=len(items))
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> list[Answered]:
        async with gate:
            own = f"{stream}/{item.id}"
            bank = ItemBank(backends, own)
            answered = await asyncio.gather(*(answer(spec, item, bank, own, grader) for spec in specs))
        progress.advance(task)
        return answered

    rows = await asyncio.gather(*(one(item) for item in items))
    progress.remove_task(task)
    return Pool(
        np.array([[one.score for one in row] for row in rows], dtype=np.float32).T,
        np.array([[one.tokens for one in row] for row in rows], dtype=np.float32).T,
        [[one.draws for one in row] for row in rows],
    )


def points_of(space: Space) -> list[Values]:
    """Every valid point, in order."""
    points = space.valid_points()
    assert points is not None, "the space is listed"
    return points


def load_pool(space: Space, kind: str) -> Pool:
    """What was made of one kind, as one pool.

    Raises:
        FileNotFoundError: Not all of it is there.
    """
    parts = [Pool.load(path) for _, path in _parts(space, kind)]
    return Pool(
        np.concatenate([part.scores for part in parts], axis=1),
        np.concatenate([part.tokens for part in parts], axis=1),
        [points for part in parts for points in part.draws],
    )


def items_of(kind: str) -> list[Item]:
    """The items of one kind."""
    count, seed = KINDS[kind]
    return make_items(procedural_families(["pocket"]), count=count, levels=None, seed=seed)


def _parts(space: Space, kind: str) -> list[tuple[slice, Path]]:
    """The parts of one kind: which items, in which file."""
    count, seed = KINDS[kind]
    mark = content_hash(space.document.data)[:8]
    starts = range(0, count, PART)
    return [(slice(start, start + PART), FOLDER / f"{kind}-{mark}-{seed}-{start}.npz") for start in starts]


async def make_all(progress: Progress) -> None:
    """Make what is not there."""
    space = Space.load(SPACE)
    specs = [PipelineSpec(space.point_document(space.point(values))) for values in points_of(space)]
    backends = {size: open_backend(ModelSpec.parse(f"pocket:{size}")) for size in ("small", "large")}
    for kind in KINDS:
        items = items_of(kind)
        for part, path in _parts(space, kind):
            if not path.exists():
                made = await make_pool(specs, items[part], backends, make_grader("pocket"), path.stem, progress)
                made.save(path)


if __name__ == "__main__":
    with Progress(console=Console(stderr=True)) as shown:
        asyncio.run(make_all(shown))
