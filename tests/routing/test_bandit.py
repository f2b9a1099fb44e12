"""Learning while serving: late rewards, what is tried out, and that the logged chances are true."""

from __future__ import annotations

import numpy as np
import pytest

from inferloom.core.errors import DataError, SpecError
from inferloom.routing.bandit import Posterior, chances, draw
from inferloom.routing.explore import Explore

ARMS = ["a", "b", "c"]


def test_a_late_reward_counts_exactly_as_one_in_time() -> None:
    rng = np.random.default_rng(1)
    rewards = [(int(rng.integers(3)), rng.normal(size=4), float(rng.random()), step + 1) for step in range(60)]
    in_time, late = Posterior(ARMS, 4, decay=0.97), Posterior(ARMS, 4, decay=0.97)
    for arm, x, reward, decided in rewards:
        assert in_time.tick() == decided
        in_time.fold(arm, x, reward, decided)
    late.tick(60)
    for arm, x, reward, decided in reversed(rewards):
        late.fold(arm, x, reward, decided)
    about = rng.normal(size=4)
    for one, other in zip(in_time.about(about), late.about(about), strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert in_time.seen == pytest.approx(late.seen)


def test_a_reward_that_never_comes_changes_nothing_but_age() -> None:
    posterior = Posterior(ARMS, 2, prior=0.3)
    before = posterior.about(np.array([1.0, 0.5]))
    posterior.tick(500)
    assert posterior.about(np.array([1.0, 0.5]))[0] == pytest.approx(before[0])
    assert not posterior.seen.any()


def test_the_mean_comes_to_what_is_true_and_follows_a_change() -> None:
    rng = np.random.default_rng(2)
    posterior = Posterior(["a"], 2, decay=0.99)
    for gain in (0.2, -0.3):
        for _ in range(800):
            x = np.array([1.0, rng.normal() * 0.3])
            decided = posterior.tick()
            posterior.fold(0, x, gain + 0.4 * x[1] + rng.normal() * 0.3, decided)
        mean, deviation = posterior.about(np.array([1.0, 0.0]))
        assert mean[0] == pytest.approx(gain, abs=4 * deviation[0])
        assert deviation[0] < 0.06


def test_what_was_learned_survives_its_arrays() -> None:
    posterior = Posterior(ARMS, 3)
    posterior.fold(1, np.array([1.0, 2.0, 0.5]), 0.4, posterior.tick())
    again = Posterior.from_arrays(ARMS, posterior.to_arrays())
    x = np.array([1.0, 1.0, 1.0])
    assert again.about(x)[0].tolist() == posterior.about(x)[0].tolist() and again.clock == 1
    with pytest.raises(DataError, match="does not fit the router"):
        Posterior.from_arrays(ARMS[:2], posterior.to_arrays())
    with pytest.raises(DataError, match="is not made yet"):
        posterior.fold(0, x, 0.1, 5)
    with pytest.raises(DataError, match="finite"):
        posterior.fold(0, x, float("nan"), 1)


def test_a_changed_arm_begins_where_the_old_one_stands_but_less_sure() -> None:
    posterior = Posterior(ARMS, 2)
    x = np.array([1.0, 0.0])
    for _ in range(300):
        posterior.fold(2, x, 0.2, posterior.tick())
    made = posterior.with_arm("c, new prompt", like=2, inherit=0.05)
    mean, deviation = made.about(x)
    assert mean[:3].tolist() == posterior.about(x)[0].tolist()
    assert 0.05 < mean[3] <= mean[2] and deviation[3] > 1.5 * deviation[2]
    with pytest.raises(DataError, match="already"):
        made.with_arm("a")


def _chances(explore: Explore, cost: list[float], seed: int = 0) -> np.ndarray:
    value = np.array([0.60, 0.58, 0.59])
    return chances(
        value,
        np.array([0.1, 0.1, 0.1]),
        np.array(cost),
        allowed=np.ones(3, dtype=bool),
        incumbent=0,
        explore=explore,
        rng=np.random.default_rng(seed),
    )


def test_trying_out_is_capped_by_share_and_by_money() -> None:
    cheap = _chances(Explore(share=0.05, extra=10), [1, 1, 1])
    assert cheap.sum() == pytest.approx(1) and 0.03 < 1 - cheap[0] <= 0.05 + 1e-9
    dear = _chances(Explore(share=0.05, extra=0.01), [1, 30, 30])
    assert dear @ np.array([0, 29, 29]) <= 0.01 + 1e-9
    assert 1 - dear[0] < 0.001
    free = _chances(Explore(share=1.0, extra=10, random=0.0), [1, 1, 1])
    assert free[0] < 0.6, "Thompson's own shares where nothing caps them"


def test_no_chance_lies_below_the_floor() -> None:
    for seed in range(50):
        found = _chances(Explore(share=0.02, extra=0.02, floor=0.004), [1, 2, 9], seed)
        assert all(one == 0 or one >= 0.004 for one in found)


def test_an_arm_that_may_not_be_taken_has_no_chance() -> None:
    found = chances(
        np.array([0.5, 0.9, 0.5]),
        np.ones(3),
        np.ones(3),
        allowed=np.array([True, False, True]),
        incumbent=0,
        explore=Explore(share=1.0, random=0.5, extra=10),
        rng=np.random.default_rng(0),
    )
    assert found[1] == 0 and found[2] > 0.2


def test_arms_are_drawn_by_the_chances_that_are_logged() -> None:
    rng = np.random.default_rng(3)
    chance = np.array([0.9, 0.0, 0.1])
    counts = np.bincount([draw(chance, rng) for _ in range(5000)], minlength=3)
    assert counts[1] == 0 and abs(counts[2] / 5000 - 0.1) < 0.02


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"share": 1.5}, "`share` is 1.5"), ({"floor": -1}, "`floor` is -1"), ({"random": 0.2}, "a part of `share`")],
)
def test_limits_out_of_range_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        Explore(**wrong)  # type: ignore[arg-type] # that is the point
