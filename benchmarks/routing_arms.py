"""Arms of the pocket suite run on kept draws: `routing_pool.py` makes the draws, this votes on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from routing_pool import WRITERS, Draws

from inferloom.evaluation.item import Item
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.routing.history import arm_id, pipeline_features
from inferloom.routing.outcomes import ArmInfo, Outcomes, group_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """An arm as far as it matters to draws."""

    writers: tuple[int, ...]
    n: int
    judged: bool

    @classmethod
    def of(cls, spec: PipelineSpec) -> Recipe:
        """Of a pipeline `sample`, perhaps `score`, then `vote`."""
        sample = spec.steps[0].node.params.model_dump()
        models = [sample["model"]] if isinstance(sample["model"], str) else list(sample["model"])
        names = [step.node.name for step in spec.steps]
        assert names in (["sample", "vote"], ["sample", "score", "vote"]), names
        return cls(tuple(WRITERS.index(model) for model in models), int(sample["n"]), len(names) == 3)


def run(recipe: Recipe, draws: Draws, order: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """One run on every item: (scores, tokens), each (items).

    Args:
        recipe: The arm.
        draws: The draws.
        order: (items, writers, draws): which draw is the first, the second and so on.
    """
    rows = np.arange(len(draws))[:, None]

    def of(values: NDArray[np.generic]) -> NDArray[np.generic]:
        parts = [values[rows, writer, order[:, writer, : recipe.n]] for writer in recipe.writers]
        return np.concatenate(parts, axis=1)

    key, text = of(draws.key), of(draws.text)
    weight = (of(draws.grade) if recipe.judged else np.ones(key.shape)).astype(float)
    same = (key[:, :, None] == key[:, None, :]) & (key >= 0)[:, :, None]
    total = np.where(key >= 0, (same * weight[:, None, :]).sum(axis=2), -1.0)
    # The first of equal totals, as `vote` has it; rounding hides what a sum's order does.
    winner = np.round(total, 9).argmax(axis=1)
    tokens = of(draws.tokens).astype(float).sum(axis=1) + draws.prompt[:, list(recipe.writers)].sum(axis=1)
    if recipe.judged:
        earlier = np.tril(text[:, :, None] == text[:, None, :], k=-1).any(axis=2)
        tokens += np.where(earlier, 0, of(draws.judging)).sum(axis=1)
    return of(draws.right)[rows[:, 0], winner].astype(float), tokens


def outcomes(
    specs: Sequence[PipelineSpec], items: Sequence[Item], draws: Draws, among: slice, runs: int, seed: int
) -> Outcomes:
    """The means over `runs` runs of every arm on every item, each on draws of the slice in another order."""
    items = items[: len(draws)]
    rng = np.random.default_rng([seed, 41])
    places = np.arange(draws.key.shape[2])[among]
    shape_ = (len(items), len(WRITERS), len(places))
    quality, cost = np.zeros((2, len(items), len(specs)))
    for _ in range(runs):
        order = places[np.argsort(rng.random(shape_), axis=2)]
        for arm, spec in enumerate(specs):
            scored, tokens = run(Recipe.of(spec), draws, order)
            quality[:, arm] += scored / runs
            cost[:, arm] += tokens / runs
    questions = [item.question for item in items]
    return Outcomes(
        ids=tuple(item.id for item in items),
        texts=tuple(questions),
        groups=tuple(map(group_of, questions)),
        tags=tuple(str(item.meta["family"]) for item in items),
        arms=tuple(ArmInfo(id=arm_id(s.hash, {}), label=shape(s), features=pipeline_features(s)) for s in specs),
        quality=quality,
        count=np.full(quality.shape, float(runs)),
        cost=cost,
        source="the pocket suite",
    )
