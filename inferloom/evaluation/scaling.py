"""How often k samples hold a right one: coverage (pass@k) with its intervals, its fits, and the items behind it.

Sources: the unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374);
the exponentiated power law log c(k) = a * k^b of Brown et al., "Large Language Monkeys" (arXiv 2407.21787); and
Schaeffer et al., "How Do Large Language Monkeys Get Their Power (Laws)?" (arXiv 2502.17578): every item's own failures
fall off exponentially, and the law comes from the many items with a small pass@1. So beside the law stands a fit of
that distribution (a Beta distribution, by maximum likelihood), the better ground for more samples than were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError
from inferloom.core.types import Json
from inferloom.evaluation.stats import Interval, mean_interval

_RESAMPLES = 1_000
_BINS = 10
_Array = NDArray[np.float64]


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    Raises:
        DataError: The counts do not go together.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise DataError(f"pass@{k} of {n} samples, {c} of them right, is not defined")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


@dataclass(frozen=True, slots=True)
class Counts:
    """One item's samples."""

    item: str
    n: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """log c(k) = a * k^b, with 95% intervals from a bootstrap over items where its resamples could be fitted."""

    a: float
    b: float
    a_bounds: tuple[float, float] | None
    b_bounds: tuple[float, float] | None
    worst: float
    """The largest difference to the measured coverage."""

    def __call__(self, k: float) -> float:
        """The coverage of k samples."""
        return math.exp(self.a * k**self.b)


@dataclass(frozen=True, slots=True)
class BetaFit:
    """The distribution of the items' pass@1 as Beta(alpha, beta)."""

    alpha: float
    beta: float

    def __call__(self, k: float) -> float:
        """The coverage of k samples: 1 - E[(1 - p)^k]."""
        return -math.expm1(_log_beta(self.alpha, self.beta + k) - _log_beta(self.alpha, self.beta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What the samples of one setting tell."""

    label: str
    """The model and how it was asked."""
    counts: tuple[Counts, ...]
    curve: tuple[tuple[int, Interval], ...]
    """Coverage by k: 1, 2, 4, ... and the most that every item has."""
    law: PowerLaw | None
    """None where fewer than three points lie strictly between 0 and 1."""
    beta: BetaFit
    bins: tuple[int, ...]
    """How many items have a pass@1 in each tenth from 0 to 1."""

    @property
    def samples(self) -> int:
        """Samples that every item has: the largest k of the curve."""
        return self.curve[-1][0]

    @property
    def never(self) -> int:
        """Items without a right sample."""
        return sum(1 for count in self.counts if count.right == 0)

    def to_json(self) -> dict[str, Json]:
        """The figures as plain JSON."""
        law: Json = None
        if self.law is not None:
            law = {
                "a": self.law.a,
                "b": self.law.b,
                "a_interval": None if self.law.a_bounds is None else [*self.law.a_bounds],
                "b_interval": None if self.law.b_bounds is None else [*self.law.b_bounds],
                "worst_error": self.law.worst,
            }
        return {
            "setting": self.label,
            "items": len(self.counts),
            "samples": self.samples,
            "curve": [
                {
                    "k": k,
                    **dict(coverage.to_json()),
                    "power_law": None if self.law is None else self.law(k),
                    "beta": self.beta(k),
                }
                for k, coverage in self.curve
            ],
            "power_law": law,
            "beta": {"alpha": self.beta.alpha, "beta": self.beta.beta},
            "pass_at_1": {"bins": list(self.bins), "never_right": self.never},
            "per_item": [{"item": count.item, "samples": count.n, "right": count.right} for count in self.counts],
        }


def scaling_of(label: str, counts: Sequence[Counts], *, seed: int = 0) -> Scaling:
    """The analysis of one setting's samples.

    Raises:
        DataError: There are no items, or one of them has no sample.
    """
    most = min((count.n for count in counts), default=0)
    if most < 1:
        raise DataError("there are no samples to count, or an item has none")
    ks = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    table = np.array([[pass_at_k(count.n, count.right, k) for k in ks] for count in counts])
    curve = [(k, mean_interval(list(table[:, column]), seed=seed)) for column, k in enumerate(ks)]
    bins = [0] * _BINS
    for count in counts:
        bins[min(_BINS - 1, _BINS * count.right // count.n)] += 1
    return Scaling(
        label=label,
        counts=tuple(counts),
        curve=tuple(curve),
        law=_law(ks, table, seed),
        beta=fit_beta([(count.n, count.right) for count in counts]),
        bins=tuple(bins),
    )


def fit_power_law(ks: Sequence[int], coverage: Sequence[float] | _Array) -> tuple[float, float] | None:
    """(a, b) of log c(k) = a * k^b by least squares of log(-log c) on log k, over the points with 0 < c < 1.

    None where fewer than three points do.
    """
    points = [(math.log(k), math.log(-math.log(c))) for k, c in zip(ks, coverage, strict=True) if 0 < c < 1]
    if len(points) < 3:
        return None
    x, y = np.array(points).T
    slope, constant = np.polyfit(x, y, 1)
    return -math.exp(constant), float(slope)


def _law(ks: Sequence[int], table: _Array, seed: int) -> PowerLaw | None:
    means = table.mean(axis=0)
    fitted = fit_power_law(ks, means)
    if fitted is None:
        return None
    a, b = fitted
    items = len(table)
    drawn = np.random.default_rng(seed).multinomial(items, [1 / items] * items, size=_RESAMPLES) @ table / items
    refitted = [found for row in drawn if (found := fit_power_law(ks, row)) is not None]
    bounds: list[tuple[float, float] | None] = [None, None]
    # Where many resamples have no fit, those that have one are no fair picture of all.
    if len(refitted) >= 0.95 * _RESAMPLES:
        low, high = np.quantile(np.array(refitted), [0.025, 0.975], axis=0)
        bounds = [(float(low[place]), float(high[place])) for place in range(2)]
    worst = max(abs(math.exp(a * k**b) - mean) for k, mean in zip(ks, means, strict=True))
    return PowerLaw(a=a, b=b, a_bounds=bounds[0], b_bounds=bounds[1], worst=worst)


def fit_beta(counts: Sequence[tuple[int, int]]) -> BetaFit:
    """The Beta distribution of pass@1 under which (samples, right ones) of the items are likeliest.

    Both parameters are sought from 0.001 to 1000: a grid over their logarithms, made finer around the best point.
    """
    kinds: dict[tuple[int, int], int] = {}
    for pair in counts:
        kinds[pair] = kinds.get(pair, 0) + 1

    def likelihood(alpha: float, beta: float) -> float:
        return math.fsum(
            times * (_log_beta(alpha + c, beta + n - c) - _log_beta(alpha, beta)) for (n, c), times in kinds.items()
        )

    bound = math.log(1000)
    step = bound / 6
    places = [step * place for place in range(-6, 7)]
    best = max(((x, y) for x in places for y in places), key=lambda at: likelihood(*map(math.exp, at)))
    while step > 1e-4:
        near = [(best[0] + i * step, best[1] + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        found = max((at for at in near if max(map(abs, at)) <= bound), key=lambda at: likelihood(*map(math.exp, at)))
        if likelihood(*map(math.exp, found)) > likelihood(*map(math.exp, best)):
            best = found
        else:
            step /= 2
    return BetaFit(math.exp(best[0]), math.exp(best[1]))


def _log_beta(alpha: float, beta: float) -> float:
    return math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)


def count_right(
    drawn: Mapping[str, Mapping[str, tuple[str | None, str]]], right: Callable[[str, str | None, str], bool]
) -> list[Counts]:
    """Samples and right ones of each item.

    Args:
        drawn: By item and draw, the final answer and the text.
        right: Whether (item, answer, text) is right.
    """
    return [
        Counts(item, len(samples), sum(right(item, answer, text) for answer, text in samples.values()))
        for item, samples in drawn.items()
    ]
