"""What a router knows of an arm before it sees a question, and how a new arm joins.

The features of an arm: its log-odds of a right answer on the mean, its cost, its success on each cluster of questions
against what its mean would say (UniRoute, arXiv 2502.08773), drawn to 0 where few runs tell of it, and of its pipeline
the number of calls and hashed names of models and nodes.

A new arm needs the results of 100 to 300 questions and no training: its features give it a place in the network, and a
small fit on these questions, drawn to that place, corrects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from inferloom.core.digest import digest
from inferloom.core.errors import DataError
from inferloom.routing.fitting import logistic, nearest_centre
from inferloom.routing.model import hidden, logit, network_logits, remember
from inferloom.routing.outcomes import LEAST_CELLS, ArmInfo, Outcomes
from inferloom.routing.router import Router

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


def with_arm(router: Router, probes: Outcomes, arm: str) -> Router:
    """The router with one more arm, from results of that arm on some questions.

    Args:
        router: The router.
        probes: Results of the new arm; those of other arms are not looked at. 100 to 300 questions are enough.
        arm: The new arm's id or label in `probes`.

    Raises:
        DataError: It has too few results, another unit of cost, or is one of the router's arms already.
        UnknownNameError: `probes` has no such arm.
        SetupError: The router's embedder is missing.
    """
    column = probes.arm(arm)
    info, where = probes.arms[column], probes.source or None
    if probes.unit != router.manifest.unit:
        raise DataError(f"costs are in {probes.unit}, those of the router in {router.manifest.unit}", where=where)
    if info.id in {one.id for one in router.arms}:
        raise DataError(f"the router has the arm `{info.label}` already; train it again instead", where=where)
    own = probes.take(np.flatnonzero(probes.observed[:, column]))
    if len(own) < LEAST_CELLS:
        raise DataError(f"the arm `{info.label}` was run on {len(own)} questions; must be {LEAST_CELLS}", where=where)
    quality, count, cost = own.quality[:, column], own.count[:, column], own.cost[:, column]
    x = router.featurizer.transform(own.texts, own.tags)
    arrays = dict(router.arrays)
    mean_cost = float(cost.mean())
    arrays["mean.quality"] = _more(arrays["mean.quality"], np.average(quality, weights=count))
    arrays["mean.cost"] = _more(arrays["mean.cost"], mean_cost)
    arrays["cost.scale"] = _more(arrays["cost.scale"], mean_cost)
    for name in ("platt.a", "platt.b", "spread"):
        arrays[name] = _more(arrays[name], float(np.mean(arrays[name])))
    _remember_more(arrays, x, quality)
    _line_more(arrays, x, quality, count)
    if "net.w1" in arrays:
        _network_more(arrays, info, x, quality, count, cost)
    arms = (*router.manifest.arms, info)
    return Router(replace(router.manifest, arms=arms), arrays)


def _more(values: Matrix, value: float) -> Matrix:
    return np.append(values, np.float32(value)).astype(np.float32)


def _remember_more(arrays: dict[str, Matrix], x: Matrix, quality: Array) -> None:
    """The new arm's questions join the remembered ones, which it has no results on, and the other way round."""
    rows, arms = arrays["near.q"].shape
    fresh = remember(x, quality[:, None], np.ones((len(arrays["near.n"]), len(x)), np.int64), 0.0)
    table = np.full((rows + len(x), arms + 1), 255, dtype=np.uint8)
    table[:rows, :arms], table[rows:, arms] = arrays["near.q"], fresh["near.q"][:, 0]
    arrays["near.q"] = cast("Matrix", table)
    arrays["near.x"] = np.concatenate([arrays["near.x"], fresh["near.x"]])
    arrays["near.n"] = np.concatenate([arrays["near.n"], fresh["near.n"]], axis=1)
    arrays["near.mean"] = _more(arrays["near.mean"], float(quality.mean()))


def _line_more(arrays: dict[str, Matrix], x: Matrix, quality: Array, count: Array) -> None:
    """A linear model of the new arm alone, drawn to what the other arms have in common."""
    prior = np.append(arrays["line.w"].mean(axis=(0, 2)), 0.0).astype(float)
    prior[-1] = float(base_log_odds(quality[:, None], count[:, None])[0])
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(float)
    made = logistic(rows, quality, np.minimum(count, 8), np.append(np.full(x.shape[1], 30.0), 0.1), prior=prior)
    members = len(arrays["line.w"])
    column = np.broadcast_to(made[:-1, None].astype(np.float32), (members, x.shape[1], 1))
    arrays["line.w"] = np.concatenate([arrays["line.w"], column], axis=2)
    arrays["line.b"] = np.concatenate([arrays["line.b"], np.full((members, 1), made[-1], np.float32)], axis=1)


def _network_more(
    arrays: dict[str, Matrix], info: ArmInfo, x: Matrix, quality: Array, count: Array, cost: Array
) -> None:
    """The place that the features give the new arm, and a small fit from there."""
    scale = float(arrays["arms.scale"][0])
    z = arm_features(
        [info], x, quality[:, None], count[:, None], np.array([cost.mean()]), arrays["arms.centres"], scale
    )
    base = base_log_odds(quality[:, None], count[:, None])
    v = z @ arrays["net.z"]
    b = base + (z @ arrays["net.shift"][:, :, None])[:, :, 0]
    q = v @ arrays["net.mix"]
    u = hidden(arrays, x)
    # What the network says of the new arm where it stands now; the fit moves `v` and `b` from there.
    started = {**arrays, "net.v": v, "net.b": b, "net.q": q}
    logits = network_logits(started, u)[:, :, 0]
    units = u.shape[2]
    penalty = np.append(np.full(units, 10.0), 2.0)
    relative = np.clip(np.log(np.maximum(cost, 1e-12) / max(float(cost.mean()), 1e-12)), -4, 4)
    c = np.zeros((len(u), 1, units), np.float32)
    for member in range(len(u)):
        rows = np.concatenate([u[member], np.ones((len(x), 1))], axis=1).astype(float)
        moved = logistic(rows, quality, np.minimum(count, 8), penalty, offset=logits[member].astype(float))
        v[member, 0] += moved[:-1]
        b[member, 0] += moved[-1]
        ridge = u[member].T @ u[member] + 10.0 * np.eye(units)
        c[member, 0] = np.linalg.solve(ridge, u[member].T @ relative)
    told = {"v": v, "b": b, "q": q, "c": c, "d": np.zeros((len(u), 1), np.float32)}
    for name, value in told.items():
        arrays[f"net.{name}"] = np.concatenate([arrays[f"net.{name}"], value.astype(np.float32)], axis=1)
