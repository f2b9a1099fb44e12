"""How far a question is from those of training, and from where on nothing is known of it.

Distance is measured as the training questions lie: their features are divided by their covariance within clusters, so
that an odd mark or an unusual word counts although lengths and numbers vary widely. The limit is the 99th percentile of
the calibration questions' distances, or less where training itself shows that this is too far: each cluster of training
questions in turn is routed by light predictors that never saw it, and the limit falls, to the 95th percentile at the
least, until none of them is shown to be more than a point worse off than with the best single arm. No test question has
a part in it.

The whitening within clusters follows K. Lee et al., "A simple unified framework for detecting out-of-distribution
samples" (2018), with clusters for classes and the nearest questions for the centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferloom.routing.features import Matrix
from inferloom.routing.fitting import clusters, nearest_centre
from inferloom.routing.metrics import three_prices
from inferloom.routing.model import STEPS, Arrays, Neighbours, remember
from inferloom.routing.outcomes import Outcomes
from inferloom.routing.policy import Policy

NEAREST = 5
"""Questions whose mean distance counts."""
CLUSTERS = 16
"""Within which the covariance is taken."""
LEAST_VARIANCE = 0.02
"""Added to every feature's, in squared deviations: what never varied in training is not infinitely far."""
LEFT_OUT = 8
"""Clusters of training questions that are left out in turn."""
FAMILIAR = (0.95, 0.99)
"""Of the calibration questions, that are near enough: at least and at most."""
LOSS = 0.01
"""Of worth, that a cluster left out may lose against the best single arm, beyond two standard errors."""
MOST_ROWS = 2000
"""Training questions from which the limit is learned."""
_NEIGHBOURS, _PULL, _RIDGE = 20, 5.0, 30.0
"""Of the light predictors."""
_BLOCK = 512


class Guard:
    """Distances to the remembered training questions."""

    def __init__(self, arrays: Arrays) -> None:
        self.metric = arrays["guard.metric"]
        self.limit = float(arrays["guard.limit"][0])
        width = len(self.metric)
        self.rows = np.asarray((arrays["near.x"][:, :width] / STEPS) @ self.metric, np.float32)
        self.squares = np.einsum("rw,rw->r", self.rows, self.rows)

    def distance(self, x: Matrix) -> Matrix:
        """(N): the mean distance to the nearest, as a multiple of the limit."""
        own = np.asarray(x[:, : len(self.metric)] @ self.metric, np.float32)
        return np.asarray(_to_nearest(own, self.rows, self.squares) / self.limit, np.float32)


def fit_guard(arrays: Arrays, x: Matrix, train: Outcomes, held_x: Matrix, tags: int, seed: int) -> dict[str, Matrix]:
    """The arrays of `Guard`.

    Args:
        arrays: Those of the remembered questions.
        x: Features of the training questions, (N, W).
        train: Their outcomes.
        held_x: Features of the calibration questions.
        tags: The last so many features do not count: a question without a tag is not far from those with one.
        seed: Of the clusters.
    """
    width = x.shape[1] - tags
    metric = whitening(x[:, :width], seed)
    plain = Guard({**arrays, "guard.metric": metric, "guard.limit": np.ones(1, np.float32)})
    least, most = np.quantile(plain.distance(held_x), FAMILIAR)
    share = _learned(x[:, :width], train, seed)
    limit = max(float(least), share * float(most), 1e-3)
    return {"guard.metric": metric, "guard.limit": np.array([limit], np.float32)}


def whitening(x: Matrix, seed: int) -> Matrix:
    """(W, W): what features are multiplied by so that their covariance within clusters becomes the unit."""
    centres = clusters(x, CLUSTERS, seed)
    apart = x - centres[nearest_centre(x, centres)]
    values, axes = np.linalg.eigh(apart.T @ apart / max(len(x), 1) + LEAST_VARIANCE * np.eye(x.shape[1]))
    return np.asarray(axes / np.sqrt(values), np.float32)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Questions of one cluster, routed by what the others teach."""

    distance: NDArray[np.floating]
    """(N): to the others, as a multiple of what is far among these."""
    gain: NDArray[np.float64]
    """(N, prices): worth of the arm taken less that of the best single arm; nan where one of them was not run."""

    def loss(self, share: float) -> float:
        """The largest at any price, less two standard errors, where farther questions get the best single arm."""
        kept = np.where((self.distance <= share)[:, None], self.gain, 0.0)
        kept = kept[~np.isnan(self.gain).any(axis=1)]
        if len(kept) < 2:
            return 0.0
        return float((-kept.mean(axis=0) - 2 * kept.std(axis=0, ddof=1) / np.sqrt(len(kept))).max())


def _learned(x: Matrix, train: Outcomes, seed: int) -> float:
    """The largest share of what is far, at most 1, at which no cluster left out loses more than `LOSS`."""
    rows = np.arange(len(x))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng([seed, 23]).choice(len(rows), MOST_ROWS, replace=False))
    x, train = x[rows], train.take(rows)
    owner = nearest_centre(x, clusters(x, LEFT_OUT, seed))
    outs = [owner == place for place in np.unique(owner)]
    # What is left must still know every arm.
    parts = [left_out(x, train, out, seed) for out in outs if train.observed[~out].any(axis=0).all()]
    for share in np.linspace(1.0, 0.0, 41):
        if all(part.loss(share) <= LOSS for part in parts):
            return float(share)
    return 0.0


def left_out(x: Matrix, train: Outcomes, out: NDArray[np.bool_], seed: int) -> LeftOut:
    """Route the questions `out` by what the others teach."""
    rest, own, others = x[~out], x[out], train.take(np.flatnonzero(~out))
    metric = whitening(rest, seed)
    there, here = np.asarray(rest @ metric, np.float32), np.asarray(own @ metric, np.float32)
    squares = np.einsum("rw,rw->r", there, there)
    far = float(np.quantile(_to_nearest(there, there, squares, itself=True), FAMILIAR[1]))
    quality, cost = np.nanmean(others.quality, axis=0), np.nan_to_num(np.nanmean(others.cost, axis=0))
    expected = _expected(rest, others, quality, own)
    held = train.take(np.flatnonzero(out))
    place = np.arange(len(own))
    gains = []
    for price in three_prices(quality, cost):
        best = int((quality - price * cost).argmax())
        utility = expected.mean(axis=0) - price * cost
        taken = utility.argmax(axis=1)
        error = (expected - expected[:, :, [best]]).std(axis=0, ddof=1)[place, taken]
        short = utility[place, taken] - utility[:, best] <= Policy().margin * error
        taken = np.where(short, best, taken)
        value = held.quality - price * held.cost
        gains.append(value[place, taken] - value[:, best])
    return LeftOut(_to_nearest(here, there, squares) / max(far, 1e-6), np.stack(gains, axis=1))


def _expected(rest: Matrix, others: Outcomes, quality: NDArray[np.floating], own: Matrix) -> NDArray[np.floating]:
    """By the nearest questions and by a ridge regression, (2, N, A)."""
    near = Neighbours(
        remember(rest, others.quality, np.ones((1, len(rest)), np.int64), _PULL), _NEIGHBOURS, rest.shape[1]
    )
    target = np.where(others.observed, others.quality, quality) - quality
    curve = rest.T @ rest + _RIDGE * np.eye(rest.shape[1])
    line = quality + own @ np.linalg.solve(curve, rest.T @ target)
    return np.stack([near.chances(near.distances(own))[0], np.clip(line, 0, 1)])


def _to_nearest(own: Matrix, rows: Matrix, squares: Matrix, *, itself: bool = False) -> Matrix:
    """(N): the mean distance to the nearest rows; without the nearest, where that is the question itself."""
    first = int(itself)
    count = min(NEAREST + first, len(rows))
    made = np.empty(len(own), np.float32)
    for start in range(0, len(own), _BLOCK):
        part = own[start : start + _BLOCK]
        apart = np.einsum("nw,nw->n", part, part)[:, None] - 2 * part @ rows.T + squares
        near = np.sort(np.partition(apart, count - 1, axis=1)[:, :count], axis=1)[:, first:]
        made[start : start + _BLOCK] = np.sqrt(np.maximum(near, 0)).mean(axis=1)
    return made
