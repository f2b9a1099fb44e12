"""Policies: prices, limits, margins, and reasons that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.policy import Policy, choose, decide, with_budget, with_floor
from inferloom.routing.router import Prediction, Router

EASY, HOPELESS, HARD = "add 312 and 555", "spell 312 and 555", "multiply 312 and 555 and 777 and 123 and 900 and 221"


def test_price_moves_questions_to_the_arms_they_deserve(router: Router) -> None:
    policy = Policy(lam=0.002)
    assert router.decide(EASY, policy).index == 0
    assert router.decide(HOPELESS, policy).index == 0
    assert router.decide(HARD, replace(policy, lam=0.0005)).index == 2
    assert router.decide(HARD, replace(policy, lam=1.0)).index == 0


def test_a_decision_shows_every_arm_and_its_arithmetic(router: Router) -> None:
    made = router.decide(HARD, Policy(lam=0.0005, margin=0, unfamiliar=False))
    assert [option.label for option in made.options] == ["cheap", "middle", "dear"]
    for option in made.options:
        assert option.utility == pytest.approx(option.quality - 0.0005 * option.cost, abs=1e-6)
    assert made.index == int(np.argmax([option.utility for option in made.options]))
    assert any("expected to be right" in text for text in made.reasons)
    assert made.arm == router.arms[made.index].id


def test_hard_limits_are_never_passed(router: Router, seen: Outcomes) -> None:
    prediction = router.predict(seen.texts[:200])
    for made in decide(router, prediction, Policy(max_cost=60)):
        assert made.options[made.index].cost <= 60
    named = Policy(allowed=(router.arms[1].id,))
    assert {made.index for made in decide(router, prediction, named)} == {1}
    # Where nothing is cheap enough, the cheapest is taken, and the reason says that limits decided.
    tight = decide(router, prediction, Policy(max_cost=0.001))
    assert {made.index for made in tight} == {0}
    assert {made.reason for made in tight} == {"capped"}


def test_an_unfamiliar_question_goes_to_the_default_arm(router: Router) -> None:
    strange = "¿" * 300 + "\n" * 50 + "[[[{{{" * 60
    made = router.decide(strange, Policy(lam=0.002))
    assert (made.unfamiliar, made.reason, made.default_used) == (True, "unfamiliar", True)
    assert made.arm == made.default
    assert router.decide(strange, Policy(lam=0.002, default=router.arms[2].id)).index == 2
    assert router.decide(strange, Policy(lam=0.002, unfamiliar=False)).reason != "unfamiliar"


def _certain(gains: list[float]) -> Prediction:
    """Two arms; the second is better by a gain that five members give differently."""
    members = np.array([[[0.5, 0.5 + gain]] for gain in gains], dtype=np.float32)
    return Prediction(
        quality=members.mean(axis=0),
        spread=members.std(axis=0),
        cost=np.zeros((1, 2), np.float32),
        unfamiliar=np.array([False]),
        distance=np.zeros(1, np.float32),
        members=members,
    )


@pytest.mark.parametrize(
    ("gains", "margin", "taken"),
    [
        ([0.1] * 5, 0.5, 1),
        ([0.1] * 5, 50.0, 1),
        ([0.5, -0.3, 0.4, -0.35, 0.1], 0.5, 0),
        ([0.5, -0.3, 0.4, -0.35, 0.1], 0.0, 1),
    ],
)
def test_the_default_arm_is_left_only_for_a_gain_beyond_its_error(
    router: Router, gains: list[float], margin: float, taken: int
) -> None:
    made = choose(_certain(gains), Policy(margin=margin), router.arms[:2], np.array([0.6, 0.5]), np.array([1.0, 1.0]))
    assert made.default == 0
    assert made.arm.tolist() == [taken]


def test_a_budget_is_kept_by_the_lowest_price_that_keeps_it(router: Router, seen: Outcomes, split: Split) -> None:
    held = seen.take(split.calibration)
    prediction = router.predict(held.texts)
    rows = np.arange(len(held))

    def spent(policy: Policy) -> float:
        made = choose(prediction, policy, router.arms, router.arrays["mean.quality"], router.arrays["mean.cost"])
        return float(prediction.cost[rows, made.arm].mean())

    policy = with_budget(router, prediction, Policy(), 80.0)
    assert spent(policy) <= 80
    assert policy.lam > 0
    assert spent(replace(policy, lam=policy.lam * 0.9)) > 80 or spent(policy) > 70
    assert with_budget(router, prediction, Policy(), 1e6).lam == 0
    with pytest.raises(SpecError, match="cannot be kept; the least is"):
        with_budget(router, prediction, Policy(), 0.5)


def test_a_floor_is_kept_on_new_questions_or_refused(router: Router, seen: Outcomes, split: Split) -> None:
    held, test = seen.take(split.calibration), seen.take(split.test)
    policy = with_floor(router, router.predict(held.texts), held, Policy(unfamiliar=False), 0.45)
    made = choose(
        router.predict(test.texts), policy, router.arms, router.arrays["mean.quality"], router.arrays["mean.cost"]
    )
    rows = np.arange(len(test))
    assert test.quality[rows, made.arm].mean() >= 0.45
    assert test.cost[rows, made.arm].mean() < test.cost[:, 2].mean()
    with pytest.raises(SpecError, match=r"a mean quality of 0\.99 cannot be shown"):
        with_floor(router, router.predict(held.texts), held, Policy(), 0.99)


def test_a_change_of_prices_needs_no_training(router: Router) -> None:
    policy = Policy(lam=0.0005, unfamiliar=False)
    assert router.decide(HARD, policy).index == 2
    dearer = replace(policy, cost_factor={router.arms[2].id: 50.0})
    made = router.decide(HARD, dearer)
    assert made.index != 2
    assert made.options[2].cost == pytest.approx(50 * router.decide(HARD, policy).options[2].cost)


def test_a_policy_with_an_unknown_arm_or_field_is_refused(router: Router) -> None:
    with pytest.raises(UnknownNameError, match="unknown arm"):
        router.decide(EASY, Policy(default="nobody"))
    with pytest.raises(SpecError, match="the policy is wrong"):
        Policy.from_json({"lambda": 1})
    policy = Policy(lam=0.1, allowed=("x",), max_cost=3, cost_factor={"x": 2.0})
    assert Policy.from_json(policy.to_json()) == policy
