"""A made world with known chances: what an evaluation must find again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inferloom.routing.outcomes import Outcomes, group_of, names_arm

CHANCES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "add": ((0.97, 0.97, 0.98), (0.90, 0.95, 0.97), (0.60, 0.90, 0.95)),
    "spell": ((0.05, 0.06, 0.07), (0.05, 0.06, 0.07), (0.05, 0.06, 0.07)),
    "multiply": ((0.40, 0.90, 0.95), (0.10, 0.60, 0.95), (0.05, 0.20, 0.90)),
    "name": ((0.90, 0.60, 0.92), (0.80, 0.40, 0.85), (0.75, 0.30, 0.80)),
}
"""By kind and level: the chance of each arm."""
COSTS = (10.0, 40.0, 200.0)


def made_world(count: int, seed: int, runs: int = 1) -> tuple[Outcomes, Outcomes]:
    """(what single runs came to, the chances themselves) of `count` questions.

    The kind shows in a question's first word, the level in its length, and the cost of an arm doubles with the level.
    """
    rng = np.random.default_rng([seed, 43])
    kinds = list(CHANCES)
    texts, tags, chances, costs = [], [], [], []
    for place in range(count):
        kind, level = kinds[place % len(kinds)], int(rng.integers(3))
        numbers = " and ".join(str(rng.integers(100, 1000)) for _ in range(2 + 2 * level))
        texts.append(f"{kind} {numbers}")
        tags.append(kind)
        chances.append(CHANCES[kind][level])
        costs.append([cost * 2**level for cost in COSTS])
    truth: NDArray[np.float64] = np.array(chances)
    arms = tuple(names_arm(name) for name in ("cheap", "middle", "dear"))

    def of(quality: NDArray[np.float64], number: int) -> Outcomes:
        return Outcomes(
            ids=tuple(map(str, range(count))),
            texts=tuple(texts),
            groups=tuple(map(group_of, texts)),
            tags=tuple(tags),
            arms=arms,
            quality=quality,
            count=np.full(quality.shape, float(number)),
            cost=np.array(costs),
            source="a made world",
        )

    return of(rng.binomial(runs, truth) / runs, runs), of(truth, 1)
