"""The parts of a router's prediction, in numpy: a network, the nearest questions, a linear model.

Each part exists `M` times, once per bootstrap sample of the training questions, and gives (M, N, A): for every member,
question and arm the chance of a right answer. What they have in common is `arrays`, named `net.*`, `near.*`, `line.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Arrays: TypeAlias = Mapping[str, NDArray[np.float32]]
"""By name; `near.x`, `near.q` and `near.n` hold whole numbers of eight bits."""
EDGE = 1e-4
"""Chances stay this far from 0 and 1."""
STEPS = 127 / 4.0
"""Steps of a feature in the memory of `near`: eight bits for -4 to 4."""


def sigmoid(x: NDArray[np.floating]) -> Array:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), dtype=np.float32)


def logit(p: NDArray[np.floating]) -> Array:
    """Its inverse, away from 0 and 1."""
    q = np.clip(p, EDGE, 1 - EDGE)
    return np.asarray(np.log(q / (1 - q)), dtype=np.float32)


def gelu(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """The activation in the form with tanh, as training has it."""
    return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))))


def hidden(arrays: Arrays, x: Array) -> Array:
    """The network's view of questions, (M, N, U)."""
    inner = gelu(np.matmul(x[None], arrays["net.w1"]) + arrays["net.b1"][:, None])
    return np.asarray(gelu(np.matmul(inner, arrays["net.w2"]) + arrays["net.b2"][:, None]), dtype=np.float32)


def network_logits(arrays: Arrays, u: Array) -> Array:
    """Log-odds of a right answer, (M, N, A)."""
    straight = np.matmul(u, arrays["net.v"].transpose(0, 2, 1)) + arrays["net.b"][:, None]
    mixed = np.matmul(u, arrays["net.p"])[:, :, None] + arrays["net.q"][:, None]
    bent = np.matmul(gelu(mixed), arrays["net.r"][:, None, :, None])[..., 0]
    return np.asarray(straight + bent, dtype=np.float32)


def network_log_cost(arrays: Arrays, u: Array) -> Array:
    """The logarithm of cost as a multiple of the arm's mean, averaged over members, (N, A)."""
    each = np.matmul(u, arrays["net.c"].transpose(0, 2, 1)) + arrays["net.d"][:, None]
    return np.asarray(each.mean(axis=0), dtype=np.float32)


def linear_logits(arrays: Arrays, x: Array) -> Array:
    """Log-odds by the linear model, (M, N, A)."""
    return np.asarray(np.matmul(x[None], arrays["line.w"]) + arrays["line.b"][:, None], dtype=np.float32)


class Neighbours:
    """The nearest training questions and how every arm did on them.

    `near.x` (R, W) in eight bits, `near.q` (R, A) in eight bits with 255 for a cell that was not run, `near.n` (M, R):
    how often a row is in a member's sample. A mean over neighbours is drawn to the arm's mean by `near.pull` rows.
    """

    def __init__(self, arrays: Arrays, k: int, columns: int) -> None:
        self.k = k
        self.columns = columns
        """How many of the features count; the first."""
        self.x = np.asarray(arrays["near.x"][:, :columns] / STEPS, dtype=np.float32)
        self.squares = np.einsum("rw,rw->r", self.x, self.x)
        quality = np.asarray(arrays["near.q"], dtype=np.float32)
        self.observed = quality < 255
        self.quality = np.where(self.observed, quality / 254, 0).astype(np.float32)
        self.times = np.asarray(arrays["near.n"], dtype=np.float32)
        self.mean = np.asarray(arrays["near.mean"], dtype=np.float32)
        self.pull = float(arrays["near.pull"][0])
        # Arms that were run on the same questions have the same neighbours.
        patterns, self.pattern = np.unique(self.observed, axis=1, return_inverse=True)
        self.rows = [np.flatnonzero(patterns[:, place]) for place in range(patterns.shape[1])]

    def distances(self, x: Array) -> Array:
        """Squared distances to every remembered question, (N, R)."""
        own = x[:, : self.columns]
        made = np.einsum("nw,nw->n", own, own)[:, None] - 2 * own @ self.x.T + self.squares
        return np.asarray(np.maximum(made, 0), dtype=np.float32)

    def chances(self, distances: Array) -> Array:
        """The mean over the nearest, (M, N, A)."""
        members, count = len(self.times), len(distances)
        made = np.empty((members, count, len(self.mean)), dtype=np.float32)
        for place, rows in enumerate(self.rows):
            arms = np.flatnonzero(self.pattern == place)
            k = min(self.k, len(rows))
            near = rows[np.argpartition(distances[:, rows], k - 1, axis=1)[:, :k]] if k else np.zeros((count, 0), int)
            times = self.times[:, near]
            sums = np.einsum("mnk,nka->mna", times, self.quality[:, arms][near])
            weight = times.sum(axis=2)[:, :, None]
            made[:, :, arms] = (sums + self.pull * self.mean[arms]) / (weight + self.pull)
        return made


def remember(
    x: Array, quality: NDArray[np.floating], times: NDArray[np.integer], pull: float
) -> dict[str, NDArray[np.float32]]:
    """The arrays of `Neighbours` from features (R, W), quality with nan (R, A), and times in samples (M, R)."""
    whole = np.where(np.isnan(quality), 255, np.round(np.nan_to_num(quality) * 254)).astype(np.uint8)
    made: dict[str, NDArray[np.generic]] = {
        "near.x": np.clip(np.round(x * STEPS), -127, 127).astype(np.int8),
        "near.q": whole,
        "near.n": np.minimum(times, 255).astype(np.uint8),
        "near.mean": np.nan_to_num(np.nanmean(quality, axis=0)).astype(np.float32),
        "near.pull": np.array([pull], dtype=np.float32),
    }
    return cast("dict[str, NDArray[np.float32]]", made)
