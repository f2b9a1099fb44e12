"""From predictions to a choice: quality - price x cost, under hard limits, with a safe default.

The price ("lambda" in the literature) is in quality per unit of cost: 0.001 with tokens as the unit means that a
thousand tokens are worth one right answer. It is given, or found on calibration questions: `with_budget` for a mean
cost, `with_floor` for a quality.

Three guards stand between a prediction and a choice. An arm whose expected cost passes `max_cost`, or that `allowed`
does not name, is never taken. An unfamiliar question goes to the default arm. And the best single arm at this price
is left only for a predicted gain of more than `margin` standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import SpecError
from inferloom.core.types import Json
from inferloom.routing.outcomes import arm_index

if TYPE_CHECKING:
    from inferloom.routing.outcomes import ArmInfo, Outcomes
    from inferloom.routing.router import Prediction, Router

Reason = Literal["best", "margin", "unfamiliar", "capped"]
"""Why an arm was taken: it is the best; the best was not better enough; nothing is known; limits left only this."""
REASONS: tuple[Reason, ...] = ("best", "margin", "unfamiliar", "capped")
_STEPS = 60
"""Of a bisection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How predictions are weighed."""

    lam: float = 0.0
    """The price of a unit of cost, in quality; 0: quality alone, the cheaper of equals."""
    margin: float = 0.5
    """Standard errors of gain below which the default arm stays."""
    max_cost: float | None = None
    """The most that an arm may be expected to cost on a question."""
    allowed: tuple[str, ...] = ()
    """Ids of the arms that may be taken; empty: all."""
    default: str | None = None
    """The id of the arm for unfamiliar questions; None: the best single arm at this price."""
    unfamiliar: bool = True
    """Whether unfamiliar questions go to the default arm."""
    floor: float | None = None
    """Where set, the cheapest arm whose predicted quality reaches it is taken, and the price only breaks ties."""
    cost_factor: Mapping[str, float] = field(default_factory=dict)
    """By arm id: what its cost is multiplied by, after a change of prices."""

    def to_json(self) -> dict[str, Json]:
        """The policy as plain JSON."""
        return cast("dict[str, Json]", asdict(self) | {"allowed": list(self.allowed)})

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Policy:
        """What `to_json` made.

        Raises:
            SpecError: It has other fields.
        """
        try:
            made = cls(**data)  # type: ignore[arg-type] # a wrong name is a TypeError, caught here
            return replace(made, allowed=tuple(made.allowed))
        except TypeError as error:
            raise SpecError(f"the policy is wrong: {error}", where="policy") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One arm in a decision."""

    arm: str
    label: str
    quality: float
    spread: float
    cost: float
    utility: float
    feasible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The choice for one question."""

    arm: str
    """The id."""
    index: int
    """Its place among the router's arms."""
    reason: Reason
    reasons: tuple[str, ...]
    """In words."""
    options: tuple[Option, ...]
    """Every arm, in the router's order."""
    lam: float
    default: str
    """The id of the arm that is taken where nothing speaks against it."""
    unfamiliar: bool
    distance: float

    @property
    def default_used(self) -> bool:
        """Whether a guard chose the default arm, not the prediction."""
        return self.reason in ("margin", "unfamiliar")


@dataclass(frozen=True, slots=True)
class Choices:
    """The choice for many questions."""

    arm: NDArray[np.intp]
    """(N): places among the arms."""
    reason: NDArray[np.intp]
    """(N): places in `REASONS`."""
    utility: NDArray[np.float64]
    """(N, A): -inf where an arm may not be taken."""
    default: int


def choose(
    prediction: Prediction,
    policy: Policy,
    arms: Sequence[ArmInfo],
    mean_quality: NDArray[np.floating],
    mean_cost: NDArray[np.floating],
) -> Choices:
    """The arm for each question.

    Args:
        prediction: What is expected.
        policy: How it is weighed.
        arms: The arms, in the order of the prediction's columns.
        mean_quality: (A): of each arm, over the training questions; says which single arm is the best.
        mean_cost: (A): the same of cost.

    Raises:
        SpecError: The policy names an unknown arm, or leaves none.
    """
    factor = np.array([policy.cost_factor.get(arm.id, 1.0) for arm in arms])
    allowed = allowed_arms(policy, arms)
    cost = prediction.cost.astype(np.float64) * factor
    feasible = np.broadcast_to(allowed, cost.shape).copy()
    if policy.max_cost is not None:
        feasible &= cost <= policy.max_cost
        # Where nothing is cheap enough, the cheapest: a limit is never passed by more than it must be.
        nothing = ~feasible.any(axis=1)
        cheapest = np.where(allowed, cost, np.inf).argmin(axis=1)
        feasible[nothing, cheapest[nothing]] = True
    tie = 1e-9 * cost / max(float(cost.max(initial=0)), 1e-12)
    value = np.where(feasible, prediction.quality - policy.lam * cost - tie, -np.inf)
    default = default_arm(policy, arms, mean_quality, mean_cost * factor, allowed)
    rows = np.arange(len(cost))
    if policy.floor is not None:
        enough = feasible & (prediction.quality >= policy.floor)
        best = np.where(enough.any(axis=1), np.where(enough, cost, np.inf).argmin(axis=1), value.argmax(axis=1))
    else:
        best = value.argmax(axis=1)
    arm, reason = best.copy(), np.zeros(len(cost), dtype=np.intp)
    open_ = feasible[rows, default]
    if policy.margin > 0 and policy.floor is None:
        gain = prediction.members - prediction.members[:, :, [default]]
        error = gain.std(axis=0, ddof=1) if len(gain) > 1 else np.sqrt(2) * prediction.spread
        short = value[rows, best] - value[rows, default] <= policy.margin * error[rows, best]
        stays = open_ & short & (best != default)
        arm[stays], reason[stays] = default, REASONS.index("margin")
    if policy.unfamiliar:
        away = open_ & prediction.unfamiliar
        arm[away], reason[away] = default, REASONS.index("unfamiliar")
    capped = ~open_ | (feasible.sum(axis=1) == 1)
    reason[capped] = REASONS.index("capped")
    return Choices(arm, reason, value, default)


def allowed_arms(policy: Policy, arms: Sequence[ArmInfo]) -> NDArray[np.bool_]:
    """(A): which arms the policy may take.

    Raises:
        SpecError: It names an arm that does not exist.
    """
    names = [*policy.allowed, *([policy.default] if policy.default else []), *policy.cost_factor]
    for name in names:
        arm_index(arms, name, where="policy")
    if not policy.allowed:
        return np.ones(len(arms), dtype=bool)
    return np.array([arm.id in policy.allowed for arm in arms])


def default_arm(
    policy: Policy,
    arms: Sequence[ArmInfo],
    mean_quality: NDArray[np.floating],
    mean_cost: NDArray[np.floating],
    allowed: NDArray[np.bool_],
) -> int:
    """The arm that is taken where nothing is known: the named one, else the best on the mean at this price."""
    if policy.default is not None:
        return arm_index(arms, policy.default, where="policy")
    within = allowed & (mean_cost <= policy.max_cost if policy.max_cost is not None else True)
    usable = within if within.any() else allowed
    return int(np.where(usable, mean_quality - policy.lam * mean_cost, -np.inf).argmax())


def decide(router: Router, prediction: Prediction, policy: Policy) -> list[Decision]:
    """The choice for each question, with the reasons."""
    made = choose(prediction, policy, router.arms, router.arrays["mean.quality"], router.arrays["mean.cost"])
    return [_told(router, prediction, policy, made, row) for row in range(len(prediction))]


def _told(router: Router, prediction: Prediction, policy: Policy, made: Choices, row: int) -> Decision:
    arms, chosen = router.arms, int(made.arm[row])
    options = tuple(
        Option(
            arm=arm.id,
            label=arm.label,
            quality=float(prediction.quality[row, place]),
            spread=float(prediction.spread[row, place]),
            cost=float(prediction.cost[row, place]) * policy.cost_factor.get(arm.id, 1.0),
            utility=float(made.utility[row, place]),
            feasible=bool(np.isfinite(made.utility[row, place])),
        )
        for place, arm in enumerate(arms)
    )
    reason = REASONS[made.reason[row]]
    return Decision(
        arm=arms[chosen].id,
        index=chosen,
        reason=reason,
        reasons=tuple(_words(options, made, chosen, reason, policy, router.manifest.unit, prediction, row)),
        options=options,
        lam=policy.lam,
        default=arms[made.default].id,
        unfamiliar=bool(prediction.unfamiliar[row]),
        distance=float(prediction.distance[row]),
    )


def _words(
    options: Sequence[Option],
    made: Choices,
    chosen: int,
    reason: Reason,
    policy: Policy,
    unit: str,
    prediction: Prediction,
    row: int,
) -> list[str]:
    taken, default = options[chosen], options[made.default]
    best = options[int(made.utility[row].argmax())]
    told = [
        f"`{taken.label}` is expected to be right in {taken.quality:.0%} of such questions (give or take"
        f" {taken.spread:.0%}) for {taken.cost:,.4g} {unit}"
    ]
    if reason == "unfamiliar":
        told.append(
            f"no training question is near (distance {prediction.distance[row]:.2f} of what counts as near), so the"
            " default arm answers"
        )
    elif reason == "margin":
        told.append(
            f"`{best.label}` is predicted to be better by {best.utility - default.utility:.3f}, which is less than"
            f" {policy.margin:g} standard errors of that prediction, so the default arm stays"
        )
    elif reason == "capped":
        told.append("the limits left no other choice, or not the default arm")
    elif chosen == made.default:
        told.append("it is the best arm on the mean, and the prediction for this question agrees")
    else:
        told.append(
            f"against the default `{default.label}` it gains {taken.quality - default.quality:+.3f} quality and"
            f" {taken.cost - default.cost:+,.4g} {unit}"
        )
    if policy.lam:
        told.append(f"a unit of cost ({unit}) is weighed as {policy.lam:.3g} of quality")
    return told


def with_budget(router: Router, prediction: Prediction, policy: Policy, budget: float) -> Policy:
    """The policy with the lowest price at which the mean expected cost on these questions is within a budget.

    Args:
        router: Whose prediction it is.
        prediction: For calibration questions, which stand for those to come.
        policy: All but the price.
        budget: The mean cost of a question, in the router's unit.

    Raises:
        SpecError: Even the cheapest choices cost more.
    """
    rows = np.arange(len(prediction))
    factor = np.array([policy.cost_factor.get(arm.id, 1.0) for arm in router.arms])

    def mean_cost(lam: float) -> float:
        made = choose(
            prediction,
            replace(policy, lam=lam),
            router.arms,
            router.arrays["mean.quality"],
            router.arrays["mean.cost"],
        )
        return float((prediction.cost * factor)[rows, made.arm].mean())

    if mean_cost(0.0) <= budget:
        return replace(policy, lam=0.0)
    low, high = 0.0, 1 / max(float(prediction.cost[prediction.cost > 0].min(initial=1e-9)), 1e-9)
    if mean_cost(high) > budget:
        raise SpecError(
            f"a mean of {budget:g} {router.manifest.unit} cannot be kept; the least is {mean_cost(high):,.4g}",
            where="policy: budget",
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if mean_cost(middle) <= budget else (middle, high)
    return replace(policy, lam=high)


def with_floor(router: Router, prediction: Prediction, outcomes: Outcomes, policy: Policy, floor: float) -> Policy:
    """The policy that keeps a mean quality at the least cost, as far as calibration questions can show it.

    A threshold on the predicted quality is taken, the lowest whose choices have a mean quality on the calibration
    questions with the lower end of its 95% interval at the floor or above.

    Raises:
        SpecError: No threshold keeps the floor.
    """
    from inferloom.evaluation.stats import mean_interval

    rows = np.arange(len(prediction))
    best = 0.0
    for threshold in np.arange(0.02, 1.0, 0.02):
        tried = replace(policy, floor=float(threshold))
        made = choose(prediction, tried, router.arms, router.arrays["mean.quality"], router.arrays["mean.cost"])
        scores = outcomes.quality[rows, made.arm]
        seen = scores[~np.isnan(scores)]
        low = mean_interval(seen.tolist()).low if len(seen) else 0.0
        if low >= floor:
            return tried
        best = max(best, low)
    raise SpecError(
        f"a mean quality of {floor:.2f} cannot be shown on {len(prediction)} calibration questions; the most is"
        f" {best:.2f} (lower end of the 95% interval)",
        where="policy: floor",
    )
