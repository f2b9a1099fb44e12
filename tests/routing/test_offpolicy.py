"""What another policy would have earned: estimators that find the truth, and refuse where they must."""

from __future__ import annotations

import numpy as np
import pytest

from inferloom.core.errors import DataError
from inferloom.routing.offpolicy import Logged, Matrix, compare, effective, estimate

TRUTH = np.array([0.5, 0.7, 0.4])
"""The mean reward of each arm on every question but the last kind."""


def logged(n: int, seed: int = 0, logging: tuple[float, ...] = (0.8, 0.1, 0.1), model: float = 0.5) -> Logged:
    rng = np.random.default_rng(seed)
    chance = np.array(logging)
    arm = rng.choice(3, size=n, p=chance)
    return Logged(
        arm=arm,
        propensity=chance[arm],
        reward=(rng.random(n) < TRUTH[arm]).astype(float),
        model=np.full((n, 3), model),
        supported=np.tile(chance > 0, (n, 1)),
    )


def always(arm: int, n: int) -> Matrix:
    return np.eye(3)[np.full(n, arm)]


def test_every_estimator_finds_the_truth_with_enough_records() -> None:
    found = estimate(logged(40_000), always(1, 40_000))
    for value in (found.ips, found.snips, found.doubly_robust):
        assert value == pytest.approx(0.7, abs=0.03)
    assert found.direct == 0.5, "the direct method believes its model"
    assert found.ess == pytest.approx(4000, rel=0.1) and found.clipped == 0 and found.unsupported == 0


def test_a_good_model_makes_the_doubly_robust_estimate_steadier() -> None:
    spread: dict[str, list[float]] = {"ips": [], "dr": []}
    for seed in range(200):
        records = logged(300, seed)
        with_model = Logged(
            arm=records.arm,
            propensity=records.propensity,
            reward=records.reward,
            model=np.tile(TRUTH, (300, 1)),
            supported=records.supported,
        )
        spread["ips"].append(estimate(records, always(1, 300)).ips)
        spread["dr"].append(estimate(with_model, always(1, 300)).doubly_robust)
    assert np.std(spread["dr"]) < 0.8 * np.std(spread["ips"])
    assert np.mean(spread["dr"]) == pytest.approx(0.7, abs=0.02)


def test_clipping_is_told_and_holds_a_weight() -> None:
    found = estimate(logged(5000, logging=(0.98, 0.01, 0.01)), always(1, 5000), clip=10)
    assert found.clipped == pytest.approx(0.01, abs=0.005)
    assert found.ips < 0.2, "clipped weights pull the plain estimate down"


def test_a_better_challenger_is_found_and_a_worse_one_is_not() -> None:
    n = 12_000
    better = compare(logged(n), always(1, n), always(0, n))
    assert better.promote and better.difference is not None
    assert better.difference.low < 0.2 < better.difference.high
    worse = compare(logged(n), always(2, n), always(0, n))
    assert worse.standing == "worse" and not worse.promote


def test_equal_policies_are_rarely_called_better() -> None:
    rng = np.random.default_rng(4)
    wrong = 0
    for seed in range(60):
        records = logged(4000, seed, logging=(0.5, 0.25, 0.25))
        # Two policies that pick the same arms on average, on different questions, in a world where that is all one.
        left, right = (np.eye(3)[rng.integers(0, 2, 4000)] for _ in range(2))
        wrong += compare(records, left, right).promote
    assert wrong <= 6


def test_no_verdict_on_too_few_records() -> None:
    refused = compare(logged(1500, logging=(0.9, 0.05, 0.05)), always(1, 1500), always(0, 1500))
    assert refused.standing == "refused" and refused.ess < 200 and "a verdict needs 200" in refused.why


def test_no_verdict_on_an_arm_that_had_no_chance() -> None:
    refused = compare(logged(5000, logging=(0.7, 0.3, 0.0)), always(2, 5000), always(0, 5000))
    assert refused.standing == "refused" and "no chance" in refused.why


def test_no_verdict_where_the_two_do_the_same() -> None:
    refused = compare(logged(5000), always(0, 5000), always(0, 5000))
    assert refused.standing == "refused" and refused.differ == 0 and "the same" in refused.why


def test_records_without_chances_are_refused() -> None:
    records = logged(10)
    with pytest.raises(DataError, match="must be above 0"):
        Logged(
            arm=records.arm,
            propensity=np.zeros(10),
            reward=records.reward,
            model=records.model,
            supported=records.supported,
        )
    empty = np.zeros(0)
    with pytest.raises(DataError, match="no decision has a reward yet"):
        Logged(
            arm=empty.astype(int),
            propensity=empty,
            reward=empty,
            model=np.zeros((0, 3)),
            supported=np.zeros((0, 3), dtype=bool),
        )


def test_the_effective_size_is_that_of_equal_weights() -> None:
    assert effective(np.array([2.0, 2.0, 2.0])) == 3
    assert effective(np.array([1.0, 0.0, 0.0])) == 1
    assert effective(np.zeros(3)) == 0
