"""Single draws of both pocket models on one set of items: what learned stop rules are fitted to and replayed on.

Per item the small model answers eight times and the large one four times, with log-probabilities; the small model then
judges each of its own answers. Kept are the answer (as a number that stands for it within the item), whether it is
right, its mean log-probability, the judge's grade and the tokens. `python benchmarks/draws.py` makes what is not there,
in parts, into `benchmarks/.pool/`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from search_pool import ItemBank, PoolContext

from inferloom.core.answers import normalise
from inferloom.core.types import Message, NodeState
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec
from inferloom.nodes.base import NODES, Node
from inferloom.nodes.prompts import load_pack

FOLDER = Path(__file__).with_name(".pool")
DRAWS = {"small": 8, "large": 4}
ITEMS, SEED, PART, AT_ONCE = 1500, 51, 100, 64


@dataclass(frozen=True)
class Draws:
    """Draws of one model; all arrays are (items, draws), `grade` is NaN where nobody judged."""

    answer: NDArray[np.int32]
    """The same number for the same answer of an item, whoever gave it; -1 for none."""
    right: NDArray[np.float32]
    logprob: NDArray[np.float32]
    grade: NDArray[np.float32]
    prompt_tokens: NDArray[np.int32]
    completion_tokens: NDArray[np.int32]
    judge_tokens: NDArray[np.int32]


def draw_items() -> list[Item]:
    """The items."""
    return make_items(procedural_families(["pocket"]), count=ITEMS, levels=None, seed=SEED)


def load_draws() -> dict[str, Draws]:
    """What was drawn, by model; as many items as there are parts.

    Raises:
        FileNotFoundError: Nothing is there; `python benchmarks/draws.py` makes it.
    """
    parts = [path for start in range(0, ITEMS, PART) if (path := _part(start)).exists()]
    if not parts:
        raise FileNotFoundError("no draws yet; run `python benchmarks/draws.py`")
    loaded = [dict(np.load(path)) for path in parts]
    return {
        model: Draws(
            **{
                field.name: np.concatenate([part[f"{model}_{field.name}"] for part in loaded])
                for field in fields(Draws)
            }
        )
        for model in DRAWS
    }


def _part(start: int) -> Path:
    return FOLDER / f"draws-{SEED}-{start}.npz"


def _node(name: str, /, **params: object) -> Node:
    kind = NODES.get(name)
    return kind(kind.Params.model_validate(params))


async def _item(item: Item, bank: ItemBank) -> dict[str, list[list[float]]]:
    """Rows of `Draws`' fields, one per draw, by model."""
    grader = make_grader("pocket")
    numbers: dict[str, int] = {}
    made: dict[str, list[list[float]]] = {}
    for model, n in DRAWS.items():
        context = PoolContext(bank, item.id, load_pack("pocket"), path=model)
        state = NodeState(question=item.question, messages=(Message("user", item.question),), notes=item.notes)
        made[model] = []
        for _ in range(n):
            before = context.prompt_tokens, context.completion_tokens
            one = await _node("sample", model=model, n=1, temperature=0.8, max_tokens=160, logprobs=True).run(
                state, context
            )
            prompt, completion = context.prompt_tokens - before[0], context.completion_tokens - before[1]
            (candidate,) = one.candidates or ()
            said = None if candidate.answer is None else normalise(candidate.answer)
            number = -1 if said is None else numbers.setdefault(said, len(numbers))
            grade, judged = float("nan"), 0
            if model == "small":
                judge = NodeState(
                    question=item.question, messages=state.messages, notes=item.notes, candidates=(candidate,)
                )
                spent = context.prompt_tokens + context.completion_tokens
                graded = await _node("score", model=model, name="judge", expected=True).run(judge, context)
                grade = (graded.candidates or ())[0].scores["judge"]
                judged = context.prompt_tokens + context.completion_tokens - spent
            right = grader.grade(item, candidate.answer, candidate.text)
            made[model].append([number, right, candidate.scores["logprob"], grade, prompt, completion, judged])
    return made


async def make_part(items: list[Item], progress: Progress) -> dict[str, NDArray[np.float64]]:
    """The draws of some items, as the file keeps them."""
    backends = {size: open_backend(ModelSpec.parse(f"pocket:{size}")) for size in DRAWS}
    task = progress.add_task("draws", total=len(items))
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> dict[str, list[list[float]]]:
        async with gate:
            made = await _item(item, ItemBank(backends, f"draws/{item.id}"))
        progress.advance(task)
        return made

    rows = await asyncio.gather(*(one(item) for item in items))
    progress.remove_task(task)
    arrays = {}
    for model in DRAWS:
        values = np.array([row[model] for row in rows])
        for position, field in enumerate(fields(Draws)):
            arrays[f"{model}_{field.name}"] = values[:, :, position]
    return arrays


async def make_all(progress: Progress) -> None:
    """Make what is not there."""
    items = draw_items()
    FOLDER.mkdir(exist_ok=True)
    for start in range(0, ITEMS, PART):
        if not _part(start).exists():
            np.savez_compressed(_part(start), **(await make_part(items[start : start + PART], progress)))


if __name__ == "__main__":
    with Progress(console=Console(stderr=True)) as shown:
        asyncio.run(make_all(shown))
