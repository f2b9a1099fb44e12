"""Which points to try next: Optuna's own samplers, held to one rule.

A batch is a function of the study's seed and of the batches finished before it, and of nothing else. So every batch
starts from a fresh Optuna study in memory, filled with the finished trials in the order of their numbers, and each
trial is asked by a fresh sampler seeded by (study seed, trial number, draw). Optuna's storage in the database is a
projection of our tables, for its dashboard and for `optuna.load_study`; see `projection.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from inferloom.core.registry import Registry
from inferloom.pipelines.document import content_hash
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.aim import Aim
from inferloom.search.constraints import Scalar
from inferloom.search.space import Space
from inferloom.search.template import Choice, FloatRange, Hole, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True)
class Setting:
    """What a sampler is made for."""

    space: Space
    seed: int
    startup: int
    """Trials drawn at random before it starts to model."""
    limited: bool = False
    """Whether trials are told by how much they pass limits."""


SamplerFactory: TypeAlias = "Callable[[Setting], BaseSampler]"
SAMPLERS: Registry[SamplerFactory] = Registry("sampler", "inferloom.search.strategies")

SMALL = 2_000
"""A space with at most this many ways to fill its holes is listed, so that its last new points are found."""
POPULATION = 8
"""Trials of a generation of the genetic sampler."""
DRAWS = 12
"""Times that a trial is asked again while its point is invalid or was tried before."""
FEW_DRAWS = 2
"""The same for samplers that take a second for each."""
_SLOW = ("gp", "archon")


@dataclass(frozen=True, slots=True)
class Told:
    """A finished trial as the sampler sees it."""

    values: Mapping[str, Scalar]
    objectives: tuple[float, ...]
    excess: tuple[float, ...] = ()
    """By how much it passes each limit; 0 or less where it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A trial to run: a valid point of the space."""

    number: int
    values: Values
    key: str
    """The hash of the point's data: two trials with one key are the same pipeline."""


class Proposer:
    """Asks for batches.

    Args:
        space: Where the points come from.
        sampler: A name of `SAMPLERS`.
        seed: The study's seed.
        aim: The objectives and limits.
        startup: Trials drawn at random before the sampler starts to model.

    Raises:
        UnknownNameError: There is no such sampler.
    """

    def __init__(self, space: Space, sampler: str, seed: int, aim: Aim, startup: int) -> None:
        self._space = space
        self._factory = SAMPLERS.get(sampler)
        self._sampler = sampler
        self._seed = seed
        self._aim = aim
        self._startup = startup

    def batch(self, first: int, size: int, finished: Sequence[Told], planned: Sequence[Values] = ()) -> list[Asked]:
        """The trials `first`, `first + 1`, ... of the next batch.

        Points that no trial had yet are preferred. A small space of which every point was tried gives a short or an
        empty batch.

        Args:
            first: The number of the batch's first trial.
            size: How many trials.
            finished: Every trial before `first`, in order.
            planned: Valid points to begin with, in place of what the sampler would ask.

        Raises:
            SpecError: The space has no valid point.
        """
        study = self._study(finished)
        tried = {self._key(told.values) for told in finished}
        batch: list[Asked] = []
        for number in range(first, first + size):
            if self._points and tried.issuperset(self._points):
                break
            place = number - first
            if place < len(planned) and self._fits(planned[place]):
                values = planned[place]
                self._enqueue(study, values)
            else:
                values = self._ask(study, number, tried)
            key = self._key(values)
            tried.add(key)
            batch.append(Asked(number=number, values=values, key=key))
        return batch

    @cached_property
    def _points(self) -> dict[str, Values]:
        """The valid points of a small space by key; empty for a large one."""
        return {self._key(values): values for values in self._space.valid_points(SMALL) or [] if self._fits(values)}

    def _fits(self, values: Values) -> bool:
        """Whether a valid point can keep the limits."""
        return self._aim.fits(lambda: PipelineSpec(self._space.point_document(self._space.point(values))))

    def _key(self, values: Mapping[str, Scalar]) -> str:
        return content_hash(self._space.point(values))

    def _study(self, finished: Sequence[Told]) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=self._aim.directions)
        study.add_trials([remembered(self._space, told, number) for number, told in enumerate(finished)])
        return study

    def _ask(self, study: Study, number: int, tried: set[str]) -> Values:
        """One trial's point: the first valid and new draw, else a new one of a small space, else any valid one."""
        from optuna.trial import TrialState

        known: Values | None = None
        for draw in range(FEW_DRAWS if self._sampler in _SLOW else DRAWS):
            seed = derived_seed(self._seed, number, draw)
            study.sampler = self._factory(Setting(self._space, seed, self._startup, bool(self._aim.limits)))
            trial = study.ask()
            _, values = self._space.fill(partial(_suggest, trial))
            if self._space.is_valid(values) and self._fits(values):
                if self._key(values) not in tried:
                    return values
                known = known or values
            # A failed trial is invisible to the samplers; one left running would repel later trials of the batch.
            study.tell(trial, state=TrialState.FAIL)
        return self._fallback(study, number, tried, known)

    def _fallback(self, study: Study, number: int, tried: set[str], known: Values | None) -> Values:
        rng = Random(derived_seed(self._seed, number, DRAWS))
        fresh = [values for key, values in self._points.items() if key not in tried]
        values = rng.choice(fresh) if fresh else known or self._space.sample(rng)
        self._enqueue(study, values)
        return values

    def _enqueue(self, study: Study, values: Values) -> None:
        """Have Optuna believe that it asked for a point."""
        study.enqueue_trial(
            {
                name: value if (options := ordered(self._space.holes[name])) is None else options.index(value)
                for name, value in values.items()
            }
        )
        self._space.fill(partial(_suggest, study.ask()))


def derived_seed(*parts: object) -> int:
    """A 32-bit seed that is a function of its parts."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def distribution(hole: Hole) -> BaseDistribution:
    """What Optuna calls the values of a hole."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(hole, Choice):
        return CategoricalDistribution(hole.options)
    if isinstance(hole, FloatRange):
        return FloatDistribution(hole.low, hole.high, log=hole.log, step=hole.step)
    return IntDistribution(hole.low, hole.high, log=hole.log, step=hole.step)


def ordered(hole: Hole) -> list[Scalar] | None:
    """The options of a choice among three numbers or more, the least first; None for other holes.

    A sampler is told their places: as categories it would not know that 8 is between 6 and 12.
    """
    if not isinstance(hole, Choice) or len(hole.options) < 3:
        return None
    numbers = [float(one) for one in hole.options if isinstance(one, int | float) and not isinstance(one, bool)]
    return sorted(hole.options, key=lambda one: float(one or 0)) if len(numbers) == len(hole.options) else None


def remembered(space: Space, told: Told, number: int) -> FrozenTrial:
    """A finished trial as the samplers are told of it."""
    from optuna.distributions import IntDistribution
    from optuna.trial import create_trial

    params: dict[str, Scalar] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, value in told.values.items():
        hole = space.holes[name]
        options = ordered(hole)
        params[name] = value if options is None else options.index(value)
        distributions[name] = distribution(hole) if options is None else IntDistribution(0, len(options) - 1)
    # The genetic sampler notes the generation that a trial belongs to.
    noted: dict[str, object] = {"NSGAIISampler:generation": number // POPULATION}
    if told.excess:
        noted["constraints"] = told.excess
    return create_trial(params=params, distributions=distributions, values=list(told.objectives), system_attrs=noted)


def recalled(space: Space, params: Mapping[str, Scalar]) -> Values:
    """The values that the parameters of a remembered trial stand for."""
    values: Values = {}
    for name, param in params.items():
        options = ordered(space.holes[name])
        values[name] = options[int(param)] if options is not None and isinstance(param, int | float) else param
    return values


def frozen_trial(space: Space, told: Told) -> FrozenTrial:
    """A finished trial in Optuna's form."""
    from optuna.trial import create_trial

    return create_trial(
        params=dict(told.values),
        distributions={name: distribution(space.holes[name]) for name in told.values},
        values=list(told.objectives),
    )


def _suggest(trial: object, hole: Hole) -> Scalar:
    from optuna.trial import Trial

    assert isinstance(trial, Trial)
    options = ordered(hole)
    if options is not None:
        return options[trial.suggest_int(hole.name, 0, len(options) - 1)]
    if isinstance(hole, Choice):
        return trial.suggest_categorical(hole.name, hole.options)
    if isinstance(hole, FloatRange):
        return trial.suggest_float(hole.name, hole.low, hole.high, log=hole.log, step=hole.step)
    return trial.suggest_int(hole.name, hole.low, hole.high, log=hole.log, step=hole.step)
