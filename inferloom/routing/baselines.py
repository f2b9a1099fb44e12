"""What a router must beat: choices that anyone could make, each as arms for test questions at a price.

A contender that predicts nothing about a question (a fixed arm, the best single arm for the price) is chosen on the
training part, never on the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferloom.routing.metrics import greedy
from inferloom.routing.outcomes import Outcomes
from inferloom.routing.policy import Policy, choose, default_arm
from inferloom.routing.router import Prediction, Router

Array = NDArray[np.float64]
Places = NDArray[np.intp]
BEST_SINGLE = "best single arm"
LENGTHS = 5
"""Parts by length of the length heuristic."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that chooses."""

    name: str
    choose: Callable[[float], Places]
    """A price to the arm for each test question."""
    prediction: Prediction | None = None
    """What it expects, where it expects something."""


def of_router(name: str, router: Router, prediction: Prediction, *, guarded: bool) -> Contender:
    """A router's choices; with its guards (margin, unfamiliar questions) or by its predictions alone."""
    policy = Policy() if guarded else Policy(margin=0.0, unfamiliar=False)

    def pick(price: float) -> Places:
        made = choose(
            prediction,
            replace(policy, lam=price),
            router.arms,
            router.arrays["mean.quality"],
            router.arrays["mean.cost"],
        )
        return made.arm

    return Contender(name, pick, prediction)


def best_single(train: Outcomes, test: int) -> Contender:
    """At every price the fixed arm that is worth most on the training questions."""
    # In the precision of a router's own means, so that a tie of two arms falls the same way in both.
    quality = np.nanmean(train.quality, axis=0).astype(np.float32)
    cost = np.nanmean(train.cost, axis=0).astype(np.float32).astype(float)
    allowed = np.ones(len(train.arms), dtype=bool)

    def pick(price: float) -> Places:
        return np.full(test, default_arm(Policy(lam=price), train.arms, quality, cost, allowed), dtype=np.intp)

    return Contender(BEST_SINGLE, pick)


def at_random(arms: int, test: int, seed: int) -> Contender:
    """Any arm with the same chance."""
    drawn = np.random.default_rng([seed, 31]).integers(0, arms, size=test)
    return Contender("random", lambda price: drawn.astype(np.intp))


def by_table(name: str, train: Outcomes, keys: NDArray[np.str_], test_keys: NDArray[np.str_]) -> Contender:
    """The means of the training questions with the same key, drawn to the arms' means by ten questions."""
    every_q, every_c = np.nanmean(train.quality, axis=0), np.nanmean(train.cost, axis=0)
    shape = (len(test_keys), len(train.arms))
    quality, cost = np.broadcast_to(every_q, shape).copy(), np.broadcast_to(every_c, shape).copy()
    for key in np.unique(keys):
        own = keys == key
        seen = train.observed[own]
        runs = seen.sum(axis=0)
        for told, table, mean in ((train.quality, quality, every_q), (train.cost, cost, every_c)):
            sums = np.where(seen, np.nan_to_num(told[own]), 0).sum(axis=0)
            table[test_keys == key] = (sums + 10 * mean) / (runs + 10)
    return Contender(name, greedy(quality, cost))


def by_tag(train: Outcomes, test: Outcomes) -> Contender:
    """The mean of the question's task, whose tag a live question seldom has."""
    return by_table(
        "task mean (knows the task)",
        train,
        np.array([tag or "" for tag in train.tags]),
        np.array([tag or "" for tag in test.tags]),
    )


def by_length(train: Outcomes, test: Outcomes) -> Contender:
    """The mean of the questions of about the same length."""
    lengths = np.array([len(text) for text in train.texts])
    bounds = np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1)[1:-1])
    own = np.searchsorted(bounds, lengths).astype(str)
    return by_table(
        "length heuristic",
        train,
        own,
        np.searchsorted(bounds, [len(text) for text in test.texts]).astype(str),
    )
