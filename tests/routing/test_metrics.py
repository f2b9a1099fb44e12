"""Metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from inferloom.routing.metrics import (
    Means,
    aiq,
    apgr,
    area,
    brier,
    cost_at,
    cpt,
    ece,
    greedy,
    group_weights,
    height,
    hull,
    regret,
    routellm,
    worth,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_the_hull_leaves_out_what_a_mixture_beats() -> None:
    # (2, 0.3) lies below the line from (1, 0.2) to (3, 0.8); (4, 0.7) is dearer and worse than (3, 0.8).
    cost, quality = hull(array(1, 2, 3, 4), array(0.2, 0.3, 0.8, 0.7))
    assert cost.tolist() == [1, 3]
    assert quality.tolist() == [0.2, 0.8]


def test_a_curve_is_straight_between_points_and_flat_outside() -> None:
    assert height(array(0, 1, 2, 9), array(1, 3), array(0.2, 0.8)).tolist() == pytest.approx([0.2, 0.2, 0.5, 0.8])
    assert area(array(1, 3), array(0.2, 0.8), 1, 3) == pytest.approx(0.5)
    # Over the logarithm the cheap half counts more, and a mixture stays straight in cost: (e-1)/e for y = x on [1, e].
    assert area(array(1, np.e), array(0, 1), 1, np.e, log=True) == pytest.approx((np.e - 1 - 1) / (np.e - 1), abs=1e-4)


def test_gap_parity_and_equal_cost() -> None:
    arms = Means(array(0.4, 0.8), array(0, 1))
    oracle = Means(array(0.6, 1.0), array(0, 1))
    # Zero router 0.6, oracle 0.8; half of the gap is 0.7.
    made = worth(Means(array(0.5, 0.9), array(0, 1)), oracle, arms)
    assert made.auc == pytest.approx(0.7)
    assert made.gap == pytest.approx(0.5)
    assert made.parity == pytest.approx(0.75)
    assert made.equal == pytest.approx(0.1)
    zero = worth(arms, oracle, arms)
    assert (zero.gap, zero.parity, zero.equal) == pytest.approx((0, 1, 0))


def test_a_quality_that_is_never_reached_has_no_cost() -> None:
    assert np.isnan(cost_at(array(0, 1), array(0.1, 0.5), 0.6))


def test_the_oracle_takes_the_cheapest_of_the_best() -> None:
    quality, cost = array(1, 1, 0).reshape(1, 3), array(5, 2, 1).reshape(1, 3)
    assert greedy(quality, cost)(0.0).tolist() == [1]
    assert greedy(quality, cost)(2.0).tolist() == [2]
    assert regret(np.array([0]), quality, cost, 0.1).tolist() == pytest.approx([0.3])


def test_aiq_is_the_area_under_the_hull_of_a_sweep() -> None:
    assert aiq(array(0, 0.5, 1), array(0.0, 0.2, 1.0), 0, 1) == pytest.approx(0.5)


def test_apgr_of_the_best_order_passes_one_and_of_none_is_a_half() -> None:
    weak, strong = array(1, 0, 0, 1), array(0, 1, 1, 1)
    # Gains are -1, 1, 1, 0: in the best order PGR is 0, 1, 2, 2, 1 at shares 0 to 1.
    assert apgr(strong - weak, weak, strong) == pytest.approx((0.5 + 1.5 + 2 + 1.5) / 4)
    rng = np.random.default_rng(0)
    weak, strong = rng.random(4000), rng.random(4000) + 0.5
    assert apgr(rng.random(4000), weak, strong) == pytest.approx(0.5, abs=0.03)


def test_cpt_is_the_first_crossing_and_routellms_own_interpolates() -> None:
    weak, strong = array(1, 0, 0, 1), array(0, 1, 1, 1)
    gain = strong - weak
    # PGR rises from 0 to 1 over the first quarter of calls.
    assert cpt(gain, weak, strong, 0.5) == pytest.approx(0.125)
    assert set(routellm(gain, weak, strong)) == {"apgr", "cpt20", "cpt50", "cpt80"}


def test_calibration_errors() -> None:
    predicted, right = np.full(100, 0.7), np.repeat([1.0, 0.0], [60, 40])
    rng = np.random.default_rng(0)
    right = rng.permutation(right)
    assert brier(predicted, right) == pytest.approx(0.6 * 0.09 + 0.4 * 0.49)
    assert ece(predicted, right, bins=1) == pytest.approx(0.1)
    assert ece(np.repeat([0.1, 0.9], 50), np.repeat([0.1, 0.9], 50), bins=2) == pytest.approx(0)


def test_groups_are_resampled_whole() -> None:
    drawn = group_weights(["a", "b", "a", "c"], 50, 0)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(drawn, axis=0)) > 1
