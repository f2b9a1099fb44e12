"""The samplers by name, all of them through Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Any

from inferloom.core.errors import SetupError
from inferloom.search.samplers import POPULATION, SAMPLERS, Setting, ordered, recalled
from inferloom.search.template import Choice, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_LOOKED_AT = 60
"""Points that are drawn to find a small one with a wanted model."""


@SAMPLERS.register("random")
def random_sampler(setting: Setting) -> BaseSampler:
    """Every hole evenly at random."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=setting.seed)


@SAMPLERS.register("tpe")
def tpe_sampler(setting: Setting) -> BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011); trials of one batch repel each other."""
    from optuna.samplers import TPESampler

    with _unwarned():
        return TPESampler(
            seed=setting.seed, n_startup_trials=setting.startup, constraints_func=_excess if setting.limited else None
        )


@SAMPLERS.register("nsga2")
def genetic_sampler(setting: Setting) -> BaseSampler:
    """NSGA-II (Deb et al., IEEE TEC 2002), generations of 8; for two objectives and many trials."""
    from optuna.samplers import NSGAIISampler

    with _unwarned():
        return NSGAIISampler(
            seed=setting.seed, population_size=POPULATION, constraints_func=_excess if setting.limited else None
        )


@SAMPLERS.register("gp")
def gaussian_sampler(setting: Setting) -> BaseSampler:
    """A Gaussian process with expected improvement; for few dear trials. Needs scipy and torch.

    Raises:
        SetupError: One of them is missing.
    """
    missing = [name for name in ("scipy", "torch") if find_spec(name) is None]
    if missing:
        raise SetupError(f"the sampler `gp` needs the package `{missing[0]}`; run `pip install 'inferloom[gp]'`")
    from optuna.samplers import GPSampler

    with _unwarned():
        return GPSampler(
            seed=setting.seed,
            n_startup_trials=setting.startup,
            warn_independent_sampling=False,
            constraints_func=_excess if setting.limited else None,
        )


@SAMPLERS.register("exhaustive")
def exhaustive_sampler(setting: Setting) -> BaseSampler:
    """Every point once, in an order of chance; for small spaces."""
    from optuna.samplers import BruteForceSampler

    with _unwarned():
        return BruteForceSampler(seed=setting.seed, avoid_premature_stop=True)


def _excess(trial: FrozenTrial) -> Sequence[float]:
    """By how much a finished trial passes each limit, as the study noted it."""
    noted: Sequence[float] = trial.system_attrs["constraints"]
    return noted


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without Optuna's word that something is experimental, which concerns who calls it by its Python name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@SAMPLERS.register("greedy")
def greedy_sampler(setting: Setting) -> BaseSampler:
    """Coordinate-wise: the best trial so far with another value in one hole, after a random start."""

    def plan(study: Study, trial: FrozenTrial) -> Values | None:
        best = _best(setting, study)
        if best is None or trial.number < min(setting.startup, 4):
            return None
        rng = Random(setting.seed)
        names = rng.sample(sorted(best), len(best))
        ways = (setting.space.neighbours(best, name) for name in names)
        return next((rng.choice(found) for found in ways if found), None)

    return _planned(setting, plan, random_sampler(setting))


@SAMPLERS.register("archon")
def archon_sampler(setting: Setting) -> BaseSampler:
    """As Archon's search is described (arXiv 2409.15254): models alone, a random start, a Gaussian process.

    Departures: a model alone is the smallest point found that has it in a hole; the Gaussian process is Optuna's.
    """
    space = setting.space
    document = space.document.data
    models = document.get("models") if isinstance(document, dict) else None
    known = set(models) if isinstance(models, dict) else set()
    alone = [
        (hole.name, option)
        for hole in space.holes.values()
        if isinstance(hole, Choice)
        for option in hole.options
        if isinstance(option, str) and option in known
    ]

    def plan(study: Study, trial: FrozenTrial) -> Values | None:
        if trial.number >= len(alone):
            return None
        name, model = alone[trial.number]
        rng = Random(setting.seed)
        having = [values for values in (space.sample(rng) for _ in range(_LOOKED_AT)) if values.get(name) == model]
        return min(having, key=_size, default=None)

    return _planned(setting, plan, gaussian_sampler(setting))


def _size(values: Values) -> tuple[float, int]:
    """How much a point does, roughly: its numbers and its holes."""
    numbers = [float(value) for value in values.values() if isinstance(value, int) and not isinstance(value, bool)]
    return sum(numbers), len(values)


def _best(setting: Setting, study: Study) -> Values | None:
    """The values of the trial with the highest quality; the first of equals."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = max(done, key=lambda trial: (trial.values[0], -trial.number), default=None)
    return None if best is None else recalled(setting.space, best.params)


def _planned(
    setting: Setting, plan: Callable[[Study, FrozenTrial], Values | None], otherwise: BaseSampler
) -> BaseSampler:
    """A sampler that plays a planned point, and leaves to another what is not planned."""
    from optuna.samplers import BaseSampler

    class Planned(BaseSampler):
        def __init__(self) -> None:
            self._values: Values | None = None

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            self._values = plan(study, trial)
            otherwise.before_trial(study, trial)

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            return {} if self._values else otherwise.infer_relative_search_space(study, trial)

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:  # Optuna's own type
            return {} if self._values else otherwise.sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
        ) -> Any:  # Optuna's own type
            if self._values and param_name in self._values:
                value, options = self._values[param_name], ordered(setting.space.holes[param_name])
                return value if options is None else options.index(value)
            return otherwise.sample_independent(study, trial, param_name, param_distribution)

    return Planned()
