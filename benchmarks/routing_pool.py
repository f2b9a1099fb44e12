"""Draws of the pocket models that any arm can be made of: what `make bench-routing` learns from and judges by.

Every item of the search's reference set gets `DRAWS` answers of each model, each with its log-probability and the large
model's grade, apart from the draws of the search's pool. A run of an arm is some of these draws in some order, voted
on as `vote` does, so that many runs of many arms cost
nothing more.

The arms are those on the upper hull of a study's front (every point of `search_space.yaml` on the 240 items of its dev
set, from `search_pool.py`) and one call of each model.

`python benchmarks/routing_pool.py` makes what is not there, in parts, into `benchmarks/.pool/`; a hundred items take
about a minute on one core.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from search_pool import FOLDER, PART, ItemBank, PoolContext, items_of, load_pool, points_of

from inferloom.core.answers import votes_of
from inferloom.core.protocols import Backend
from inferloom.core.types import Completion, Message, NodeState, Request
from inferloom.evaluation.graders.base import Grader, make_grader
from inferloom.evaluation.item import Item
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import Space

DRAWS = 32
"""Of each model on an item; a run takes at most 8."""
ITEMS = 2000
WRITERS = ("small", "large")
POOL = """
models: {small: pocket:small, large: pocket:large}
prompts: pocket
steps:
  - sample: {model: [small, large], n: %d, temperature: 0.8, max_tokens: 160, logprobs: true}
  - score: {model: large, expected: true}
  - vote
"""


@dataclass(frozen=True)
class Draws:
    """The draws on items; shapes are (items, writers, draws), but for `prompt`: (items, writers)."""

    key: NDArray[np.int16]
    """Which answers are the same on an item; -1: none."""
    text: NDArray[np.int16]
    """Which texts are the same."""
    right: NDArray[np.float32]
    tokens: NDArray[np.int16]
    """Written."""
    logprob: NDArray[np.float32]
    """The mean over the tokens."""
    grade: NDArray[np.float32]
    """By the large model, from 0 to 1."""
    judging: NDArray[np.int16]
    """Tokens of grading this text."""
    prompt: NDArray[np.int16]
    """Tokens of the question, which one request for several draws pays once."""

    def __len__(self) -> int:
        return len(self.key)


@dataclass
class Recorded(PoolContext):
    """Keeps what every judging cost, in the order in which it was asked for."""

    judged: list[Completion] = field(default_factory=list)

    async def generate(self, model: str, request: Request) -> list[Completion]:
        """As a pool context does."""
        if request.n > 1:
            return await super().generate(model, request)
        place = len(self.judged)
        self.judged.append(Completion(text="", finish_reason="other"))
        made = await super().generate(model, request)
        self.judged[place] = made[0]
        return made


async def draw(spec: PipelineSpec, item: Item, backends: Mapping[str, Backend], grader: Grader) -> Draws:
    """All draws on one item, as the nodes make and grade them."""
    stream = f"routing/{item.id}"
    bank = ItemBank(backends, stream)
    context = Recorded(bank, stream, load_pack(spec.prompts))
    state = NodeState(question=item.question, messages=(Message("user", item.question),), notes=item.notes)
    for step in spec.steps[:2]:
        context.path = step.path
        state = replace(state, candidates=(await step.node.run(state, context)).candidates or ())
    candidates = state.candidates
    shape = (1, len(WRITERS), DRAWS)
    drawn = {model: made.completions for (model, request), made in bank.known() if request.max_tokens > 100}
    texts = {text: place for place, text in enumerate(dict.fromkeys(one.text for one in candidates))}
    keys = {key: place for place, key in enumerate(dict.fromkeys(votes_of(candidates))) if key is not None}
    judging = [made.prompt_tokens + made.completion_tokens for made in context.judged]
    assert len(judging) == len(texts), "every different text is judged once"

    def array(values: Sequence[float], kind: type[np.generic]) -> NDArray[np.generic]:
        return np.array(values, dtype=kind).reshape(shape)

    place = [texts[one.text] for one in candidates]
    return Draws(
        key=array([-1 if key is None else keys[key] for key in votes_of(candidates)], np.int16),
        text=array(place, np.int16),
        right=array([grader.grade(item, one.answer, one.text) for one in candidates], np.float32),
        tokens=array([made.completion_tokens for model in WRITERS for made in drawn[model]], np.int16),
        logprob=array([one.scores["logprob"] for one in candidates], np.float32),
        grade=array([one.scores["judge"] for one in candidates], np.float32),
        judging=array([judging[text] for text in place], np.int16),
        prompt=np.array([[drawn[model][0].prompt_tokens for model in WRITERS]], dtype=np.int16),
    )


def joined(parts: Sequence[Draws]) -> Draws:
    """The draws on all items of several parts."""
    return Draws(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Draws)))


def _path(start: int) -> Path:
    return FOLDER / f"draws-{DRAWS}-{start}.npz"


def load_draws(most: int = ITEMS) -> Draws:
    """What was made, from the first item on.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    parts = []
    for start in range(0, most, PART):
        if not _path(start).exists():
            break
        with np.load(_path(start)) as file:
            parts.append(Draws(*(file[one.name] for one in fields(Draws))))
    if not parts:
        raise FileNotFoundError(f"{_path(0)}: make it by `python benchmarks/routing_pool.py`")
    return joined(parts)


def hull_of(cost: NDArray[np.float64], quality: NDArray[np.float64]) -> list[int]:
    """The points of the upper hull from the cheapest to the best, the cheapest first."""
    kept: list[int] = []
    for point in sorted(range(len(cost)), key=lambda one: (cost[one], -quality[one])):
        if kept and quality[point] <= quality[kept].max():
            continue
        while len(kept) > 1 and _slope(cost, quality, *kept[-2:]) <= _slope(cost, quality, kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(cost: NDArray[np.float64], quality: NDArray[np.float64], a: int, b: int) -> float:
    return float((quality[b] - quality[a]) / max(cost[b] - cost[a], 1e-9))


def arms_of(space: Space) -> list[PipelineSpec]:
    """The arms, the cheapest first: the hull of the front on the dev items, and one call of each model."""
    dev = load_pool(space, "dev")
    cost, quality = dev.tokens.mean(axis=1).astype(float), dev.scores.mean(axis=1).astype(float)
    points = points_of(space)
    single = [place for place, point in enumerate(points) if point["n"] == 1 and point["writer"] in (0, 1)]
    chosen = sorted({*hull_of(cost, quality), *single}, key=lambda point: float(cost[point]))
    return [PipelineSpec(space.point_document(space.point(points[place]))) for place in chosen]


async def make_all(most: int, progress: Progress) -> None:
    """Make what is not there."""
    spec = PipelineSpec.parse(POOL % DRAWS)
    backends = {size: open_backend(ModelSpec.parse(f"pocket:{size}")) for size in WRITERS}
    grader, items = make_grader("pocket"), items_of("reference")[:most]
    for start in range(0, most, PART):
        if _path(start).exists():
            continue
        part = items[start : start + PART]
        task = progress.add_task(_path(start).stem, total=len(part))

        async def one(item: Item, task: int = task) -> Draws:
            made = await draw(spec, item, backends, grader)
            progress.advance(task)  # type: ignore[arg-type] # a task's id is a number
            return made

        made = joined(await asyncio.gather(*map(one, part)))
        np.savez_compressed(_path(start), **{one.name: getattr(made, one.name) for one in fields(Draws)})
        progress.remove_task(task)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS, help="how many items of the reference")
    with Progress(console=Console(stderr=True)) as shown:
        asyncio.run(make_all(parser.parse_args().items, shown))
