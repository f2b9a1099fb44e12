"""Intervals: how well a mean is known, and whether one pipeline beats another.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927);
B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals); comparison of
systems on the same items as in P. Koehn, "Statistical significance tests for machine translation evaluation" (2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError

RESAMPLES = 10_000
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` items with the bounds of its interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, float]:
        """`mean, low, high, n`."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def mean_interval(scores: Sequence[float], *, level: float = 0.95, seed: int | str = 0) -> Interval:
    """The mean of scores with its interval: Wilson (1927) where every score is 0 or 1, else the percentile bootstrap.

    Raises:
        DataError: There are no scores.
    """
    values = _values(scores)
    if not set(np.unique(values)) <= {0.0, 1.0}:
        return _bootstrap(values, level, seed)
    n = len(values)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = float(values.mean())
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    spread = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # At 0 and at 1 the bound is the share itself; arithmetic would miss it by a rounding error.
    return Interval(
        share, 0.0 if share == 0 else max(0.0, centre - spread), 1.0 if share == 1 else min(1.0, centre + spread), n
    )


def paired_difference(
    a: Sequence[float], b: Sequence[float], seed: int | str = 0, *, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """The mean of `a - b` over the same items in the same order, with its paired-bootstrap interval.

    Items are resampled, each with both its scores (Efron and Tibshirani 1993; Koehn 2004), so what makes an item hard
    for both cancels out. The result depends on the scores and the seed, not on the order of the items. With few items
    that differ (under about ten) percentile intervals are too narrow.

    Raises:
        DataError: The two differ in length, or are empty.
    """
    if len(a) != len(b):
        raise DataError(f"paired scores must come from the same items: {len(a)} against {len(b)}")
    return _bootstrap(_values(a) - _values(b), level, seed, resamples)


def _bootstrap(values: NDArray[np.float64], level: float, seed: int | str, resamples: int = RESAMPLES) -> Interval:
    """The percentile interval of the mean.

    A resample is drawn as how often each different value occurs, which is the same distribution as drawing item by item
    and far less work where scores are 0 or 1.
    """
    n, mean = len(values), float(values.mean())
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) == 1:
        return Interval(mean, mean, mean, n)
    # A text seeds through its bytes: Python's own hash of a string differs from process to process.
    entropy = seed if isinstance(seed, int) else int.from_bytes(seed.encode(), "big")
    rng = np.random.default_rng(abs(entropy))
    rows = max(1, _CHUNK // len(levels))
    means = np.concatenate(
        [
            rng.multinomial(n, counts / n, size=min(rows, resamples - start)) @ levels / n
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


def _values(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise DataError("there are no scores to take a mean of")
    if not np.isfinite(values).all():
        raise DataError("a score is not a finite number")
    return values
