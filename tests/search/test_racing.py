"""Races: equal trials are seldom stopped, bad ones soon, and what is decided depends on scores alone."""

from __future__ import annotations

import numpy as np
import pytest

from inferloom.search.racing import ALPHA, Standing, beaten_by, chance_if_equal, estimate, looks

STUDIES = 400


def race(scores: np.ndarray, rivals: np.ndarray) -> int:
    """After how many items the first is stopped; all of them where it is not."""
    stages = looks(len(scores))
    for look in stages[:-1]:
        others = [Standing(list(rival)) for rival in rivals]
        if beaten_by(Standing(list(scores[:look])), others, len(stages) - 1) is not None:
            return look
    return len(scores)


def draw(rng: np.random.Generator, qualities: list[float], items: int, kind: str) -> np.ndarray:
    """Scores of pipelines that share what makes an item hard."""
    hard = rng.normal(size=items)
    own = rng.normal(size=(len(qualities), items))
    level = np.array([np.sqrt(2) * np.quantile(rng.normal(size=4000), 1 - quality) for quality in qualities])
    if kind == "binary":
        return (hard + own > level[:, None]).astype(float)
    return 1 / (1 + np.exp(level[:, None] - hard - own))


@pytest.mark.parametrize("kind", ["binary", "graded"])
@pytest.mark.parametrize("rivals", [1, 12])
def test_of_equal_trials_few_are_stopped(kind: str, rivals: int) -> None:
    rng = np.random.default_rng(3)
    stopped = 0
    for _ in range(STUDIES):
        scores = draw(rng, [0.7] * (1 + rivals), 96, kind)
        stopped += race(scores[0], scores[1:]) < 96
    # Three standard errors above the level.
    assert stopped / STUDIES <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / STUDIES) ** 0.5


def test_a_bad_trial_is_stopped_soon() -> None:
    rng = np.random.default_rng(4)
    ends = [race(*(lambda s: (s[0], s[1:]))(draw(rng, [0.3, 0.8, 0.75], 240, "binary"))) for _ in range(50)]
    assert np.mean(ends) < 240 / 3


def test_who_costs_more_beats_nobody() -> None:
    good, bad = [1.0] * 40, [0.0] * 40
    cheap, dear = Standing(bad, [[1.0] * 40]), Standing(good, [[2.0] * 40])
    assert beaten_by(cheap, [dear], 3) is None
    assert beaten_by(cheap, [dear, Standing(good, [[1.0] * 40])], 3) == 1


def test_chances_are_exact_for_zeros_and_ones() -> None:
    assert chance_if_equal([0, 0, 0, 1], [1, 1, 1, 1]) == 1 / 8
    assert chance_if_equal([1, 0], [0, 1]) == 3 / 4
    assert chance_if_equal([0.2] * 12, [0.7] * 12) < 0.01
    assert chance_if_equal([0.5] * 9, [0.5] * 9) == 1.0


def test_looks_are_few_and_end_with_all() -> None:
    assert looks(240) == [30, 60, 120, 240]
    assert looks(72) == [12, 18, 36, 72]
    assert looks(10) == [10]


def test_a_stopped_trial_is_told_nearer_to_its_rival_than_it_looks() -> None:
    rival = Standing([1.0] * 12 + [0.0] * 4)
    trial = Standing([0.0] * 12)
    told = estimate(trial, rival, [])
    assert -0.25 < told < rival.quality
    # The less other pipelines differ, the less is believed.
    noisy = Standing([0.0, 1.0] * 6)
    near, far = ([0.5, 0.501, 0.502], [0.1, 0.5, 0.9])
    assert estimate(noisy, rival, near) > estimate(noisy, rival, far)
