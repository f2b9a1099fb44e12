"""What a router knows of an arm before it sees a question, and how a new arm joins.

The features of an arm: its log-odds of a right answer on the mean, its cost, its success on each cluster of questions
against what its mean would say (UniRoute, arXiv 2502.08773), drawn to 0 where few runs tell of it, and of its pipeline
the number of calls and hashed names of models and nodes.

A new arm needs the results of 100 to 300 questions and no training: its features give it a place in the network, and a
small fit on these questions, drawn to that place, corrects it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inferloom.core.digest import digest
from inferloom.routing.fitting import nearest_centre
from inferloom.routing.model import logit
from inferloom.routing.outcomes import ArmInfo

Matrix = NDArray[np.float32]
Array = NDArray[np.float64]
CLUSTERS = 16
HASHED = 8
PSEUDO = 10.0
"""Runs that the mean counts for in a cluster."""


def base_log_odds(quality: Array, count: Array) -> Matrix:
    """(A): log-odds of a right answer, as after two more runs, one of them right."""
    seen = ~np.isnan(quality)
    runs = np.where(seen, count, 0).sum(axis=0)
    right = (np.nan_to_num(quality) * np.where(seen, count, 0)).sum(axis=0)
    return logit((right + 1) / (runs + 2))


def arm_features(
    arms: Sequence[ArmInfo], x: Matrix, quality: Array, count: Array, cost: Array, centres: Matrix, scale: float
) -> Matrix:
    """(A, F).

    Args:
        arms: The arms.
        x: (N, W): features of the questions that they were run on.
        quality: (N, A), nan where not run.
        count: (N, A).
        cost: (A): of each arm on the mean.
        centres: (K, W): of the clusters of questions.
        scale: The cost that counts as 1.
    """
    base = base_log_odds(quality, count)
    owner = nearest_centre(x, centres)
    seen = np.where(np.isnan(quality), 0, np.minimum(count, 8))
    right = np.nan_to_num(quality) * seen
    mean = (right.sum(axis=0) + 1) / (seen.sum(axis=0) + 2)
    probes = np.zeros((len(arms), CLUSTERS), dtype=np.float32)
    for place in range(len(centres)):
        own = owner == place
        share = (right[own].sum(axis=0) + PSEUDO * mean) / (seen[own].sum(axis=0) + PSEUDO)
        probes[:, place] = logit(share) - logit(mean)
    told = np.array(
        [
            [
                base[place],
                np.log(max(float(cost[place]), 1e-12) / scale) / 2 if scale > 0 and cost[place] > 0 else -3.0,
                np.log1p(float(arm.features.get("most_calls", 0))) / 2,
            ]
            for place, arm in enumerate(arms)
        ],
        dtype=np.float32,
    )
    return np.concatenate([told, probes, np.array([_hashed(arm) for arm in arms], dtype=np.float32)], axis=1)


def _hashed(arm: ArmInfo) -> list[float]:
    marks = [0.0] * HASHED
    for word in f"{arm.features.get('models', '')} {arm.features.get('nodes', '')}".split():
        number = int(digest(word, 4), 16)
        marks[number % HASHED] += 0.5 if number & (1 << 20) else -0.5
    return marks
