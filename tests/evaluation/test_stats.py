"""Intervals hold what they promise on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferloom.core.errors import DataError
from inferloom.evaluation import mean_interval, paired_difference

binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=80)
graded = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(scores=binary | graded)
def test_a_mean_lies_within_its_interval(scores: list[float]) -> None:
    interval = mean_interval(scores)
    assert interval.n == len(scores)
    assert 0 <= interval.low <= interval.mean + 1e-12
    assert interval.mean - 1e-12 <= interval.high <= 1 + 1e-12


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
@example(pairs=[(0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)])
def test_a_difference_turned_round_changes_its_sign(pairs: list[tuple[float, float]]) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    there, back = paired_difference(a, b, 1, resamples=2000), paired_difference(b, a, 1, resamples=2000)
    assert there.mean == pytest.approx(-back.mean)
    assert there.low <= there.mean + 1e-12
    assert there.high >= there.mean - 1e-12
    # The two are drawn separately, so that their bounds agree up to the noise of resampling. The mean of few items has
    # few values, and noise moves a bound to the next of them, one item's difference away.
    apart = [one - other for one, other in pairs]
    one_item = (max(apart) - min(apart)) / len(pairs)
    assert there.low == pytest.approx(-back.high, abs=0.1 + one_item)


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
    for right, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        interval = mean_interval([1.0] * right + [0.0] * (n - right))
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_results_follow_from_scores_and_seed_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(50).tolist(), rng.random(50).tolist()
    order = rng.permutation(50)
    again = paired_difference([a[i] for i in order], [b[i] for i in order], "study/7")
    assert again.low == paired_difference(a, b, "study/7").low
    assert paired_difference(a, b, 1) != paired_difference(a, b, 2)


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300) < 0.5
    a = np.where(hard, 0.0, 1.0)
    b = np.where(rng.random(300) < 0.05, 0.0, a)
    interval = paired_difference(a.tolist(), b.tolist())
    assert interval.excludes_zero
    assert interval.high - interval.low < 0.06


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_wilson_covers_the_truth_95_times_in_100(share: float) -> None:
    rng = np.random.default_rng(17)
    draws = (rng.random((1500, 120)) < share).astype(float)
    intervals = [mean_interval(row.tolist()) for row in draws]
    covered = np.mean([interval.low <= share <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.975


def test_paired_differences_cover_the_truth() -> None:
    rng = np.random.default_rng(23)
    covered = []
    for seed in range(400):
        ease = rng.random(150)
        a, b = (rng.random(150) < ease).astype(float), (rng.random(150) < ease * 0.8).astype(float)
        interval = paired_difference(a.tolist(), b.tolist(), seed, resamples=1000)
        covered.append(interval.low <= 0.1 <= interval.high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_scores_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="no scores"):
        mean_interval([])
    with pytest.raises(DataError, match="3 against 2"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(DataError, match="finite"):
        mean_interval([float("nan")])
