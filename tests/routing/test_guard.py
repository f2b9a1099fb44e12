"""The guard for unfamiliar questions: it holds where nothing is known, and does not stand in the way elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inferloom.routing.guard import fit_guard
from inferloom.routing.model import remember
from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.policy import Policy, choose
from inferloom.routing.router import Router
from inferloom.routing.synthetic import made_world
from inferloom.routing.train import Training
from tests.routing.conftest import PLAIN

KNOWN, NEVER = "known", "add"
PRICE = 0.00025
"""At which what was learned of the other kinds is wrong for this one."""


def one_kind_apart() -> tuple[Outcomes, Outcomes, Split]:
    """(single runs, chances, a split whose test holds known questions and all those of the kind never trained on)."""
    seen, truth = made_world(1200, 3)
    dealt = seen.hold_out(NEVER, 0)
    held = dealt.train[: len(dealt.train) // 4]
    return seen, truth, Split(dealt.train[len(held) :], dealt.calibration, np.concatenate([held, dealt.test]))


@pytest.fixture(scope="module")
def halfway() -> tuple[Router, Outcomes]:
    """A router that never saw one kind, and the chances of its test questions."""
    seen, truth, split = one_kind_apart()
    return Training(seen, split, PLAIN).router(), truth.take(split.test)


def gains(router: Router, truth: Outcomes, policy: Policy) -> dict[str, float]:
    """By kind: what the router is worth beyond its default arm."""
    made = choose(
        router.predict(truth.texts), policy, router.arms, router.arrays["mean.quality"], router.arrays["mean.cost"]
    )
    worth = truth.quality - policy.lam * truth.cost
    gain = worth[np.arange(len(worth)), made.arm] - worth[:, made.default]
    never = np.array(truth.tags) == NEVER
    return {KNOWN: float(gain[~never].mean()), NEVER: float(gain[never].mean())}


@pytest.mark.parametrize("price", [PRICE, 2 * PRICE, 4 * PRICE])
def test_a_kind_never_trained_on_is_left_to_the_best_single_arm(halfway: tuple[Router, Outcomes], price: float) -> None:
    router, truth = halfway
    made = gains(router, truth, Policy(lam=price))
    assert abs(made[NEVER]) <= 0.01
    assert made[KNOWN] > 0.02


def test_the_guard_takes_little_of_the_gain_on_known_questions(halfway: tuple[Router, Outcomes]) -> None:
    router, truth = halfway
    guarded, free = (gains(router, truth, Policy(lam=PRICE, unfamiliar=on)) for on in (True, False))
    assert guarded[KNOWN] > 0.9 * free[KNOWN]
    # What it prevents is real.
    assert free[NEVER] < -0.02


def loose(flips: bool) -> tuple[NDArray[np.float32], Outcomes, NDArray[np.float32]]:
    """Eight clusters that touch, two arms; which arm is right is the same everywhere, or changes with the cluster."""
    rng = np.random.default_rng(0)
    kind = np.arange(800) % 8
    turn = 2 * np.pi * kind / 8
    x = 2.0 * np.stack([np.cos(turn), np.sin(turn)], axis=1) + 0.5 * rng.normal(size=(800, 2))
    first = (kind % 2 if flips else np.zeros(800)) == 0
    quality = np.where(first[:, None], [0.9, 0.1], [0.1, 0.9])
    seen, _ = made_world(800, 0)
    two = seen.take_arms([0, 1])
    outcomes = replace(two, quality=quality, cost=np.broadcast_to([1.0, 2.0], (800, 2)).copy())
    return x.astype(np.float32)[:600], outcomes.take(range(600)), x.astype(np.float32)[600:]


def test_the_limit_falls_where_training_shows_that_what_is_learned_does_not_carry_over() -> None:
    limits = []
    for flips in (False, True):
        x, train, held = loose(flips)
        memory = remember(x, train.quality, np.ones((1, len(x)), np.int64), 2.0)
        limits.append(float(fit_guard(memory, x, train, held, 0, 0)["guard.limit"][0]))
    assert limits[1] < 0.95 * limits[0]
