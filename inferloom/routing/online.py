"""A router at work: what it predicts, corrected by what was learned since, with a little tried out.

What was learned lies beside the router's own files as `online.safetensors`; without it the router decides as it was
trained. Nothing here changes the router: it is learned again from the decisions and their scores in the database,
whatever became known late, and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError, SetupError
from inferloom.routing.bandit import Posterior, Vector, chances, draw
from inferloom.routing.explore import Explore
from inferloom.routing.history import cost_of
from inferloom.routing.outcomes import Gatherer, Outcomes
from inferloom.routing.policy import Decision, Policy, decide
from inferloom.routing.router import Prediction, Router

if TYPE_CHECKING:
    from inferloom.store.decisions import Decided

FILE = "online.safetensors"
_COLUMNS = 16
"""Features of the question that the correction may use beside the prediction."""
_PRIOR_COST = 20.0
"""Runs that an arm's predicted cost counts as, when the real ones are learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One decision while serving."""

    arm: int
    chances: Vector
    """(A): of every arm; that of `arm` is the propensity."""
    explored: bool
    decision: Decision
    """The router's own, on corrected predictions."""
    learned: int
    """Decisions that the correction rests on."""

    @property
    def words(self) -> tuple[str, ...]:
        """The reasons."""
        if not self.explored:
            return self.decision.reasons
        taken, best = self.decision.options[self.arm], self.decision.options[self.decision.index]
        return (
            f"`{taken.label}` was tried out, with a chance of {self.chances[self.arm]:.1%}; `{best.label}` was expected"
            " to be best",
            *self.decision.reasons,
        )


class Online:
    """A router with what it learned while serving."""

    def __init__(self, router: Router, posterior: Posterior | None = None, costs: Vector | None = None) -> None:
        self.router = router
        names = [arm.id for arm in router.arms]
        self.posterior = posterior or Posterior(names, width_of(router))
        self.costs = np.zeros((len(names), 2)) if costs is None else costs
        """(A, 2): sums of real and of predicted costs, which age as the posterior does."""

    @cached_property
    def cost_factor(self) -> Vector:
        """(A): by how much each arm's real costs pass the predicted ones."""
        typical = np.asarray(self.router.arrays["mean.cost"], dtype=np.float64) * _PRIOR_COST
        factor: Vector = (self.costs[:, 0] + typical) / np.maximum(self.costs[:, 1] + typical, 1e-12)
        return np.where(typical > 0, factor, 1.0)

    def describe(self, texts: Sequence[str], tags: Sequence[str | None] | None = None) -> tuple[Prediction, Vector]:
        """What the router predicts of questions, and (N, width) what the correction goes by."""
        x = self.router.featurizer.transform(texts, tags)
        prediction = self.router.predict_features(x)
        return prediction, described(self.router, x, prediction)

    def corrected(self, prediction: Prediction, about: Vector) -> tuple[Prediction, Vector]:
        """A prediction with what was learned since, and (N, A) the standard deviation of the correction."""
        pairs = [self.posterior.about(row) for row in about]
        shift = np.array([mean for mean, _ in pairs])
        quality = np.clip(prediction.quality + shift, 0.0, 1.0).astype(np.float32)
        members = np.clip(prediction.members + shift, 0.0, 1.0).astype(np.float32)
        cost = (prediction.cost * self.cost_factor).astype(np.float32)
        made = replace(prediction, quality=quality, members=members, cost=cost)
        return made, np.array([deviation for _, deviation in pairs])

    def choose(self, text: str, policy: Policy, explore: Explore | None, rng: Random, tag: str | None = None) -> Chosen:
        """The arm for a question.

        Args:
            text: The question.
            policy: How predictions are weighed.
            explore: What may be tried out; None: nothing.
            rng: The only source of chance.
            tag: The question's task, where it is known.
        """
        prediction, about = self.describe([text], None if tag is None else [tag])
        corrected, deviation = self.corrected(prediction, about)
        decision = decide(self.router, corrected, policy)[0]
        chance = np.zeros(len(self.router.arms))
        chance[decision.index] = 1.0
        arm = decision.index
        if explore is not None and tag not in explore.bypass and decision.reason != "capped":
            dice = np.random.default_rng(rng.getrandbits(64))
            cost = np.array([option.cost for option in decision.options])
            chance = chances(
                np.array([option.quality for option in decision.options]) - policy.lam * cost,
                np.hypot(deviation[0], prediction.spread[0]),
                cost,
                allowed=np.array([option.feasible for option in decision.options]),
                incumbent=decision.index,
                explore=explore,
                rng=dice,
            )
            arm = draw(chance, dice)
        return Chosen(
            arm=arm,
            chances=chance,
            explored=arm != decision.index,
            decision=decision,
            learned=round(float(self.posterior.seen.sum())),
        )

    def learn(self, records: Sequence[Decided], names: Sequence[str]) -> int:
        """Learn anew from all decisions in the order in which they were made; how many had a score.

        Args:
            records: The decisions, oldest first.
            names: What the records call the arms, in the router's order.
        """
        places = {name: place for place, name in enumerate(names)}
        self.posterior = Posterior(self.posterior.arms, width_of(self.router))
        self.costs = np.zeros_like(self.costs)
        self.__dict__.pop("cost_factor", None)
        usable = [record for record in records if record.decision.arm in places and record.question]
        if not usable:
            return 0
        prediction, about = self.describe([record.question for record in usable])
        for row, record in enumerate(usable):
            arm, number = places[record.decision.arm], self.posterior.tick()
            self.costs *= self.posterior.decay
            if record.score is not None:
                self.posterior.fold(arm, about[row], record.score - float(prediction.quality[row, arm]), number)
            if record.status == "done":
                self.costs[arm] += (
                    cost_of(record.usage, self.router.manifest.unit),
                    float(prediction.cost[row, arm]),
                )
        return sum(record.score is not None for record in usable)

    def save(self, folder: Path) -> Path:
        """Write what was learned beside the router.

        Raises:
            SetupError: It cannot be written.
        """
        from safetensors.numpy import save

        arrays = {**self.posterior.to_arrays(), "costs": self.costs}
        beside = folder / f".{FILE}.part"
        try:
            beside.write_bytes(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
            beside.replace(folder / FILE)
        except OSError as error:
            raise SetupError(f"cannot be written: {error.strerror or error}", where=str(folder)) from None
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Online:
        """A router with what was learned, where something was.

        Raises:
            DataError: One of the two is damaged, or they do not belong together.
            SetupError: A package is missing.
        """
        router = Router.load(folder)
        try:
            content = (folder / FILE).read_bytes()
        except FileNotFoundError:
            return cls(router)
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            posterior = Posterior.from_arrays([arm.id for arm in router.arms], arrays)
            if posterior.width != width_of(router):
                raise DataError("it was learned by a router of other features")
            return cls(router, posterior, arrays["costs"].astype(np.float64))
        except (SafetensorError, KeyError, DataError) as error:
            raise DataError(
                f"`{FILE}` does not belong to this router or is damaged ({error}); delete it, or learn it again",
                where=str(folder),
            ) from None


def width_of(router: Router) -> int:
    """Numbers by which a correction goes."""
    return 1 + len(router.arms) + _COLUMNS


def described(router: Router, x: NDArray[np.float32], prediction: Prediction) -> Vector:
    """(N, width): 1, what is predicted of each arm beyond its mean, and the first features."""
    mean = np.asarray(router.arrays["mean.quality"], dtype=np.float64)
    first = np.zeros((len(x), _COLUMNS))
    first[:, : min(_COLUMNS, x.shape[1])] = x[:, :_COLUMNS]
    return np.concatenate([np.ones((len(x), 1)), prediction.quality - mean, first / np.sqrt(_COLUMNS)], axis=1)


def served_outcomes(router: Router, records: Sequence[Decided], names: Sequence[str]) -> Outcomes:
    """Decisions with their scores as data to train on, beside those of evaluations; each with its propensity.

    Args:
        router: The router that decided, whose arms these are.
        records: The decisions; those without a score are left out, since missing is not zero.
        names: What the records call the arms, in the router's order.
    """
    unit = router.manifest.unit
    gatherer = Gatherer(unit=unit, source=f"decisions of {router.manifest.name}")
    for arm in router.arms:
        gatherer.add_arm(arm)
    places = {name: place for place, name in enumerate(names)}
    for record in records:
        if record.score is not None and record.question and record.decision.arm in places:
            gatherer.add(
                router.arms[places[record.decision.arm]].id,
                record.question,
                record.score,
                cost_of(record.usage, unit),
                propensity=record.decision.propensity,
            )
    return gatherer.outcomes()
