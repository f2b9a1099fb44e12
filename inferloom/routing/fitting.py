"""Small fits in numpy: logistic regression with a prior, Platt's calibration, clusters.

Sources: J. Platt, "Probabilistic outputs for support vector machines" (1999), without his smoothing of targets, since
targets here may be means of several runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = 12


def logistic(
    x: Array,
    target: Array,
    weight: Array,
    ridge: Array,
    *,
    prior: Array | None = None,
    start: Array | None = None,
    offset: Array | None = None,
    steps: int = _STEPS,
) -> Array:
    """Maximum a posteriori weights of a logistic regression, by Newton's steps.

    Args:
        x: (N, D).
        target: (N), from 0 to 1.
        weight: (N), how often each row counts.
        ridge: (D), the precision of each weight's Gaussian prior.
        prior: (D), its mean; None: 0.
        start: (D), where the steps begin; None: at the prior.
        offset: (N), log-odds that are added and not fitted.
        steps: At most so many.
    """
    mean = np.zeros(x.shape[1]) if prior is None else prior
    w = mean.copy() if start is None else start.copy()
    base = np.zeros(len(x)) if offset is None else offset
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w + base, -30, 30)))
        slope = x.T @ (weight * (p - target)) + ridge * (w - mean)
        curve = (x * (weight * np.maximum(p * (1 - p), 1e-5))[:, None]).T @ x
        curve[np.diag_indices_from(curve)] += ridge + 1e-9
        step = np.linalg.solve(curve, slope)
        # A step too far can diverge where the classes are apart.
        w -= step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-5:
            break
    return w


def platt(
    logits: Array, target: Array, weight: Array, *, pseudo: float = 60.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope and shift of the log-odds for each arm, drawn to those of all arms together.

    Args:
        logits: (N, A), predicted.
        target: (N, A), what came out; nan where it was not run.
        weight: (N, A), runs.
        pseudo: Runs that the pooled fit counts for.
    """
    seen = ~np.isnan(target)
    pooled = _line(logits[seen], target[seen], weight[seen], np.array([1.0, 0.0]), 20.0)
    each = [
        _line(logits[own, arm], target[own, arm], weight[own, arm], pooled, pseudo) if own.any() else pooled
        for arm, own in enumerate(seen.T)
    ]
    made = np.array(each, dtype=np.float32)
    return made[:, 0], made[:, 1]


def _line(logits: Array, target: Array, weight: Array, prior: Array, pseudo: float) -> Array:
    x = np.stack([logits, np.ones_like(logits)], axis=1)
    # A run tells about a quarter (the variance of a coin) of its log-odds.
    ridge = np.array([pseudo * 0.25 * max(float(np.var(logits)), 0.1), pseudo * 0.25])
    made = logistic(x, target, weight, ridge, prior=prior)
    return np.array([max(made[0], 0.05), made[1]])


def log_loss(p: NDArray[np.floating], target: Array, weight: Array) -> float:
    """The mean loss of a run over the cells that were run, in nats."""
    seen = ~np.isnan(target)
    q = np.clip(p[seen], 1e-4, 1 - 1e-4)
    t, w = target[seen], weight[seen]
    return float(-(w * (t * np.log(q) + (1 - t) * np.log(1 - q))).sum() / w.sum())


def clusters(x: NDArray[np.float32], k: int, seed: int, steps: int = 15) -> NDArray[np.float32]:
    """Centres of k-means (k, D); fewer where there are fewer different rows."""
    rng = np.random.default_rng(seed)
    distinct = np.unique(x, axis=0)
    centres = distinct[rng.choice(len(distinct), size=min(k, len(distinct)), replace=False)]
    for _ in range(steps):
        owner = nearest_centre(x, centres)
        for place in range(len(centres)):
            own = x[owner == place]
            if len(own):
                centres[place] = own.mean(axis=0)
    return centres.astype(np.float32)


def nearest_centre(x: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """(N): the place of each row's nearest centre."""
    return np.asarray(((centres**2).sum(axis=1) - 2 * x @ centres.T).argmin(axis=1), dtype=np.intp)
