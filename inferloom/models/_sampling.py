"""Choosing the next token of every row of a batch, each row with its own noise.

The noise of a row depends on its seed and on the place of the token, never on the row's neighbours, so a batch of 64
says what a batch of 1 says. It is Gumbel noise (the largest of logit / temperature + noise is a draw from the softmax),
made by a counter-based generator: SplitMix64 over (seed, place, token).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]


def _mix(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), element by element; overwrites its argument."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def gumbel(seeds: Sequence[int], places: Sequence[int], width: int) -> Floats:
    """Standard Gumbel noise of shape (len(seeds), width); row i depends on seeds[i] and places[i] only."""
    streams = _mix(np.array([seed & _MASK for seed in seeds], dtype=np.uint64))
    streams ^= np.array([((place + 1) * _GOLDEN) & _MASK for place in places], dtype=np.uint64)
    streams = _mix(streams)
    steps = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    words = _mix(streams[:, None] + steps[None, :])
    # Never 0 or 1, so both logarithms are finite.
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: Floats = -np.log(-np.log(uniform))
    return noise


def keep_top_p(scaled: Floats, top_p: Floats) -> Floats:
    """Logits (rows, tokens) with all but the likeliest tokens that together reach `top_p` (rows,) at minus infinity."""
    order = np.argsort(-scaled, axis=1, kind="stable")
    ordered = np.take_along_axis(scaled, order, axis=1)
    weights = np.exp(ordered - ordered[:, :1])
    weights /= weights.sum(axis=1, keepdims=True)
    stays = np.cumsum(weights, axis=1) - weights < top_p[:, None]
    stays[:, 0] = True
    kept = np.empty_like(scaled)
    np.put_along_axis(kept, order, np.where(stays, ordered, -np.inf), axis=1)
    return kept


def choose(
    logits: NDArray[np.float32],
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    seeds: Sequence[int],
    places: Sequence[int],
) -> list[int]:
    """One token for each row of `logits` (rows, tokens); temperature 0 takes the likeliest."""
    heat = np.array(temperatures, dtype=np.float64)
    chosen = np.argmax(logits, axis=1)
    warm = np.flatnonzero(heat > 0)
    if warm.size:
        scaled = logits[warm].astype(np.float64) / heat[warm, None]
        nucleus = np.array(top_ps, dtype=np.float64)[warm]
        cut = np.flatnonzero(nucleus < 1)
        if cut.size:
            scaled[cut] = keep_top_p(scaled[cut], nucleus[cut])
        scaled += gumbel([seeds[int(i)] for i in warm], [places[int(i)] for i in warm], logits.shape[1])
        chosen[warm] = np.argmax(scaled, axis=1)
    return [int(token) for token in chosen]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Log-probabilities of one row of logits, at temperature 1."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    result: Floats = wide - np.log(np.exp(wide).sum())
    return result


def likeliest(logprobs: Floats, count: int) -> list[int]:
    """The `count` likeliest tokens of a row, the likeliest first, equal ones by number."""
    count = min(count, len(logprobs))
    if count <= 0:
        return []
    bar = np.partition(logprobs, len(logprobs) - count)[len(logprobs) - count]
    near = np.flatnonzero(logprobs >= bar)
    order = near[np.argsort(-logprobs[near], kind="stable")]
    return [int(token) for token in order[:count]]
