"""What another policy would have earned, from the records of the one that ran.

Direct method, inverse propensity scoring, its self-normalised form and the doubly robust estimate (M. Dudik, J.
Langford, L. Li, arXiv 1103.4601; A. Swaminathan and T. Joachims, NeurIPS 2015), with weights clipped at `CLIP` and the
effective sample size of L. Kish (1965). A policy is compared with another on the same records, so that what makes a
question hard for both cancels out. No verdict is given where the records cannot carry one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError
from inferloom.core.types import Json
from inferloom.evaluation.stats import Interval, paired_difference

Matrix: TypeAlias = NDArray[np.float64]
CLIP = 20.0
"""The most that one record may weigh. Clipping pulls an estimate towards what the model says."""
LEAST_ESS = 200.0
"""Effective records that a verdict needs."""
Standing = Literal["better", "no difference", "worse", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Records of a policy that ran, of those decisions whose reward is known."""

    arm: NDArray[np.intp]
    """(N): what was taken."""
    propensity: Matrix
    """(N): the chance that it had."""
    reward: Matrix
    """(N): quality less the price of the cost."""
    model: Matrix
    """(N, A): the reward that a model expects of every arm; zeros where there is no model."""
    supported: NDArray[np.bool_]
    """(N, A): which arms had any chance."""

    def __post_init__(self) -> None:
        n = len(self.arm)
        if n == 0:
            raise DataError("no decision has a reward yet, so nothing can be compared")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            wrong = self.propensity[~((self.propensity > 0) & (self.propensity <= 1))][0]
            raise DataError(f"a propensity is {wrong:g}; it must be above 0 and at most 1")
        if any(len(part) != n for part in (self.propensity, self.reward, self.model, self.supported)):
            raise DataError("the records differ in length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """The mean reward of a policy by each estimator."""

    direct: float
    """By the model alone."""
    ips: float
    snips: float
    doubly_robust: float
    ess: float
    """Effective sample size of the weights before clipping."""
    clipped: float
    """The share of records whose weight was clipped."""
    unsupported: float
    """The share of the policy's choices that the one that ran could never have made."""

    def to_json(self) -> dict[str, Json]:
        """The estimates as plain JSON; what is not defined is null."""
        return {name: value if value == value else None for name, value in asdict(self).items()}


def estimate(logged: Logged, policy: Matrix, clip: float = CLIP) -> Estimates:
    """What a policy would have earned.

    Args:
        logged: The records.
        policy: (N, A): the chance of each arm under the policy.
        clip: The most that one record may weigh.
    """
    rows = np.arange(len(logged.arm))
    weight = policy[rows, logged.arm] / logged.propensity
    used = np.minimum(weight, clip)
    total = float(used.sum())
    direct = (policy * logged.model).sum(axis=1)
    return Estimates(
        direct=float(direct.mean()),
        ips=float((used * logged.reward).mean()),
        snips=float((used * logged.reward).sum() / total) if total else float("nan"),
        doubly_robust=float(_doubly_robust(logged, policy, clip).mean()),
        ess=effective(weight),
        clipped=float((weight > clip).mean()),
        unsupported=float((policy * ~logged.supported).sum(axis=1).mean()),
    )


def effective(weight: Matrix) -> float:
    """How many equally weighted records are worth as much as these."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _doubly_robust(logged: Logged, policy: Matrix, clip: float) -> Matrix:
    """(N): the terms whose mean is the estimate."""
    rows = np.arange(len(logged.arm))
    weight = np.minimum(policy[rows, logged.arm] / logged.propensity, clip)
    surprise = logged.reward - logged.model[rows, logged.arm]
    terms: Matrix = (policy * logged.model).sum(axis=1) + weight * surprise
    return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a challenger is better than the champion."""

    standing: Standing
    difference: Interval | None
    """Challenger less champion, doubly robust, with its paired interval; None where refused."""
    ess: float
    """Of the challenger's weights on the records in which the two differ."""
    differ: int
    """Records in which the two would do different things."""
    why: str

    @property
    def promote(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.standing == "better"

    def to_json(self) -> dict[str, Json]:
        """The verdict as plain JSON."""
        told: dict[str, Json] = {"standing": self.standing, "ess": self.ess, "differ": self.differ, "why": self.why}
        return told | {"difference": None if self.difference is None else dict(self.difference.to_json())}


def compare(
    logged: Logged, challenger: Matrix, champion: Matrix, *, clip: float = CLIP, least: float = LEAST_ESS, seed: int = 0
) -> Verdict:
    """Whether a challenger would have earned more than the champion, on the same records.

    Args:
        logged: The records, of the champion or of any other policy.
        challenger: (N, A): its chances.
        champion: (N, A): those of the other.
        clip: The most that one record may weigh.
        least: Effective records that a verdict needs.
        seed: Of the interval's resampling.
    """
    differs = np.abs(challenger - champion).max(axis=1) > 1e-9
    count = int(differs.sum())
    rows = np.arange(len(logged.arm))
    ess = effective(challenger[rows, logged.arm] / logged.propensity)

    def refused(why: str) -> Verdict:
        return Verdict(standing="refused", difference=None, ess=ess, differ=count, why=why)

    if not count:
        return refused("the two would have done the same on every record")
    blind = float(((challenger > 0) & ~logged.supported).any(axis=1).mean())
    if blind > 0:
        return refused(
            f"in {blind:.1%} of the records the challenger takes an arm that had no chance there, so nothing is known"
            " of it; serve with `explore` for a while"
        )
    if ess < least:
        return refused(f"the records are worth {ess:.0f} of the challenger's own; a verdict needs {least:.0f}")
    terms = [_doubly_robust(logged, policy, clip) for policy in (challenger, champion)]
    interval = paired_difference(terms[0].tolist(), terms[1].tolist(), seed)
    standing: Standing = "better" if interval.low > 0 else "worse" if interval.high < 0 else "no difference"
    told = f"{interval.mean:+.4f} reward per question (95% {interval.low:+.4f} to {interval.high:+.4f})"
    return Verdict(standing=standing, difference=interval, ess=ess, differ=count, why=told)
