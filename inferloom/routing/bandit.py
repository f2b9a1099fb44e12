"""Learning from the rewards of served questions: a Bayesian linear model per arm on top of a trained router.

Each arm has a linear model of how far its reward is from what the router predicted, on a few numbers about the question
(what is predicted of every arm, and the first of the router's features). Its sufficient statistics add up, each
observation with the weight `decay ** age`, where the age counts decisions since the one that is rewarded. So a reward
that comes late is folded in exactly as if it had come at once, in any order, and one that never comes changes nothing:
missing is not zero.

Arms are drawn by Thompson sampling (W. R. Thompson, Biometrika 25 (1933); S. Agrawal and N. Goyal, arXiv 1209.3352),
within limits: see `Explore`. The chance of each arm is worked out before one is drawn, from 256 samples of the
posterior, and the arm is then drawn by those very chances, so that the propensity which is logged is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError
from inferloom.routing.explore import Explore

Vector: TypeAlias = NDArray[np.float64]
_SAMPLES = 256
_FAR = 2.0
"""Standard deviations of the upper bound that must beat the incumbent for an arm to be tried."""


class Posterior:
    """What was learned of each arm's reward beyond the router's prediction.

    Args:
        arms: The arms by name.
        width: Numbers that describe a question.
        prior: The standard deviation of what an arm gains or loses against the prediction, before anything is seen.
        noise: The standard deviation of one reward around its mean.
        decay: The weight of an observation, per decision since.
    """

    def __init__(
        self, arms: Sequence[str], width: int, *, prior: float = 0.15, noise: float = 0.45, decay: float = 0.9995
    ) -> None:
        self.arms = tuple(arms)
        self.width, self.prior, self.noise, self.decay = width, prior, noise, decay
        self.clock = 0
        """Decisions so far."""
        self.seen = np.zeros(len(arms))
        """Observations per arm, by weight."""
        self._a = np.zeros((len(arms), width, width))
        self._b = np.zeros((len(arms), width))
        self._solved: list[tuple[Vector, Vector] | None] = [None] * len(arms)

    def tick(self, decisions: int = 1) -> int:
        """Count decisions and let all that was seen age; the number of the last one, to fold its reward in by."""
        self.clock += decisions
        weight = self.decay**decisions
        self._a *= weight
        self._b *= weight
        self.seen *= weight
        self._solved = [None] * len(self.arms)
        return self.clock

    def fold(self, arm: int, x: Vector, surprise: float, decided: int) -> None:
        """Take in a reward.

        Args:
            arm: The place of the arm that was taken.
            x: (width): the question.
            surprise: The reward less what the router had predicted.
            decided: The number of the decision, as `tick` gave it.

        Raises:
            DataError: The decision has not been made yet, or the reward is no finite number.
        """
        if decided > self.clock:
            raise DataError(f"decision {decided} is not made yet; the last one is {self.clock}")
        if not np.isfinite(surprise):
            raise DataError(f"a reward must be a finite number, not {surprise}")
        weight = self.decay ** (self.clock - decided)
        self._a[arm] += weight * np.outer(x, x)
        self._b[arm] += weight * surprise * x
        self.seen[arm] += weight
        self._solved[arm] = None

    def about(self, x: Vector) -> tuple[Vector, Vector]:
        """(arms), (arms): mean and standard deviation of what each arm gains against its prediction on a question."""
        means, deviations = np.empty(len(self.arms)), np.empty(len(self.arms))
        for arm in range(len(self.arms)):
            mean, spread = self._solution(arm)
            means[arm] = x @ mean
            deviations[arm] = np.sqrt(max(float(x @ spread @ x), 0.0))
        return means, deviations

    def _solution(self, arm: int) -> tuple[Vector, Vector]:
        """Mean and covariance of an arm's weights."""
        known = self._solved[arm]
        if known is None:
            noise = self.noise**2
            precision = self._a[arm] / noise + np.eye(self.width) / self.prior**2
            covariance = np.linalg.inv(precision)
            known = self._solved[arm] = (covariance @ self._b[arm] / noise, covariance)
        return known

    def with_arm(self, name: str, like: int | None = None, *, inherit: float = 0.0) -> Posterior:
        """The same with one more arm.

        Args:
            name: The new arm.
            like: The arm that it comes from, such as the same pipeline before its prompt was changed.
            inherit: The weight of what was seen of that one: below 1 the new arm is less certain than the old.

        Raises:
            DataError: There is an arm of this name.
        """
        if name in self.arms:
            raise DataError(f"there is an arm `{name}` already")
        made = Posterior([*self.arms, name], self.width, prior=self.prior, noise=self.noise, decay=self.decay)
        made.clock = self.clock
        weight = 0.0 if like is None else inherit
        for new, old in ((made._a, self._a), (made._b, self._b), (made.seen, self.seen)):
            new[:-1] = old
            new[-1] = weight * old[like or 0]
        return made

    def to_arrays(self) -> dict[str, Vector]:
        """Everything, as arrays."""
        told = np.array([self.clock, self.prior, self.noise, self.decay])
        return {"told": told, "a": self._a.copy(), "b": self._b.copy(), "seen": self.seen.copy()}

    @classmethod
    def from_arrays(cls, arms: Sequence[str], arrays: Mapping[str, Vector]) -> Posterior:
        """What `to_arrays` made.

        Raises:
            DataError: It belongs to other arms, or is damaged.
        """
        try:
            a, b, told = arrays["a"], arrays["b"], arrays["told"]
            made = cls(arms, b.shape[1], prior=float(told[1]), noise=float(told[2]), decay=float(told[3]))
            if a.shape != made._a.shape or b.shape != made._b.shape:
                raise ValueError(f"it has {len(b)} arms, the router {len(arms)}")
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(f"what was learned online does not fit the router: {error}") from None
        made.clock, made._a, made._b, made.seen = int(told[0]), a.copy(), b.copy(), arrays["seen"].copy()
        return made


def chances(
    value: Vector,
    deviation: Vector,
    cost: Vector,
    *,
    allowed: NDArray[np.bool_],
    incumbent: int,
    explore: Explore,
    rng: np.random.Generator,
) -> Vector:
    """(arms): the chance of each arm, summing to 1.

    Args:
        value: (arms): the expected reward less the price of the expected cost.
        deviation: (arms): how well the reward is known.
        cost: (arms): the expected cost.
        allowed: (arms): which may be taken at all.
        incumbent: The arm that is taken where nothing is tried out.
        explore: The limits.
        rng: The only source of chance.
    """
    sure = np.zeros(len(value))
    sure[incumbent] = 1.0
    tried = allowed & (value + _FAR * deviation > value[incumbent])
    tried[incumbent] = True
    samples = rng.normal(value, deviation, size=(_SAMPLES, len(value)))
    samples[:, ~tried] = -np.inf
    wins = np.bincount(samples.argmax(axis=1), minlength=len(value)) / _SAMPLES
    alike = np.where(allowed, 1.0, 0.0) / max(int(allowed.sum()), 1)
    away = 1.0 - wins[incumbent]
    # The part of the share that is spent on Thompson's arms, and the part on any.
    thompson = min(1.0, (explore.share - explore.random) / away) if away > 0 else 0.0
    mixed = explore.random * alike + (1 - explore.random) * (thompson * wins + (1 - thompson) * sure)
    dearer = np.maximum(cost - cost[incumbent], 0.0)
    extra, most = float(mixed @ dearer), explore.extra * float(cost[incumbent])
    if extra > most:
        mixed = sure + (mixed - sure) * (most / extra)
    mixed[(mixed < explore.floor) & (sure == 0)] = 0.0
    mixed[incumbent] = 0.0
    mixed[incumbent] = 1.0 - mixed.sum()
    return mixed


def draw(chance: Vector, rng: np.random.Generator) -> int:
    """An arm by its chance."""
    reached = int(np.searchsorted(chance.cumsum(), rng.random(), side="right"))
    # A sum that rounds to a little less than 1 must not lead past the last arm that has a chance.
    return min(reached, int(np.flatnonzero(chance)[-1]))
