"""Which holes of a space decide whether a trial is among the best."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from inferloom.search.samplers import Told, remembered
from inferloom.search.space import Space

FEWEST = 20
"""Trials below which nothing is said: the best of so few are the best by luck."""
_BEST = 5
"""Trials that the best ones must be at least."""


def importance(space: Space, finished: Sequence[Told]) -> dict[str, float]:
    """The share of each hole in what sets the best tenth of the trials apart from all, by quality; largest first.

    PED-ANOVA (Watanabe et al., arXiv 2304.10255) in its form for holes that only some points have (arXiv 2601.20800),
    as Optuna computes it. It describes the trials that were tried; a sampler that has converged tries few others.

    Args:
        space: The space.
        finished: The different trials with their scores.

    Returns:
        Shares that sum to 1 by the names of the holes; empty for fewer than 20 trials, and where all scored the same.
    """
    if len(finished) < FEWEST or len({told.objectives[0] for told in finished}) == 1:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [remembered(space, Told(told.values, told.objectives[:1]), place) for place, told in enumerate(finished)]
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, _BEST / len(finished)))
    with warnings.catch_warnings():
        # Optuna calls the evaluator experimental.
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
