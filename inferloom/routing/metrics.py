"""What a router is worth: curves of quality over cost, and the figures of the literature as they are defined there.

Arrays: `quality` and `cost` are (Q, A), what each arm scores and costs on each question. A policy is a choice of arm
for each question; a *sweep* is one for every price, from where only cost counts to where only quality counts.

Definitions, and where ours depart:

- *Zero router* (RouterBench, arXiv 2403.12031): the upper hull of the fixed arms, any two of which may be mixed without
  looking at the question. The baseline to beat.
- *Curve* of a sweep: its (mean cost, mean quality) points by rising cost, joined by lines, flat outside; no hull, which
  would choose among points on the test questions.
- *AUC*: the mean height of a curve over [cost of the cheapest arm, cost of the best arm]: over the logarithm of cost
  where these are far apart (`WIDE`), else over cost. Mixtures are straight in cost in both cases.
- *Gap closed*: (AUC - AUC of the zero router) / (AUC of the oracle - AUC of the zero router).
- *Oracle*: for each question the best arm at the price; at price 0 the cheapest of the best.
- *AIQ* (RouterBench): the area under the non-decreasing hull over the costs of the arms, divided by their range.
- *PGR, APGR, CPT* (RouteLLM, arXiv 2406.18665): of two arms, by the share of calls to the strong one. RouteLLM's
  evaluation reads CPT off by interpolation as if the curve rose; `cpt` takes the first crossing, `cpt_interpolated` is
  theirs.
- *Regret* at a price: the mean of what the oracle's choice is worth beyond the policy's.
- *Brier, ECE*: of predictions; ECE over 10 bins of equal size. Of the chosen arm it tells what selection does to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.intp]
POINTS = 41
"""Prices of a sweep."""
GRID = 101
"""Points of an area."""
WIDE = 4.0
"""Ratio of the best arm's cost to the cheapest's from which areas are taken over the logarithm of cost."""
STEPS = (0.25, 1.0, 4.0)
"""Of `three_prices`; 1 weighs the cheapest and the best arm alike."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What every question scores and costs at every price, (L, Q)."""

    quality: Array
    cost: Array


def prices(quality: Array, cost: Array, points: int = POINTS) -> Array:
    """Prices from high to low, ending with 0, that reach from one end of a sweep to the other.

    They depend on the means of the arms only, so that every policy is swept over the same.
    """
    mean_cost = np.nanmean(cost, axis=0)
    spread = float(mean_cost.max() - mean_cost.min())
    if spread <= 0:
        return np.zeros(1)
    steepest = 1 / max(float(np.min(np.diff(np.unique(mean_cost)))), spread * 1e-3)
    return np.append(np.geomspace(3 * steepest, 1e-3 / spread, points - 1), 0.0)


def three_prices(mean_quality: Array, mean_cost: Array) -> tuple[float, ...]:
    """A low, a middle and a high price: multiples of the slope from the cheapest to the best arm."""
    best, cheap = int(mean_quality.argmax()), int(mean_cost.argmin())
    gain, more = float(mean_quality[best] - mean_quality[cheap]), float(mean_cost[best] - mean_cost[cheap])
    return tuple(max(gain, 1e-3) / max(more, 1e-12) * step for step in STEPS)


def sweep(choose: Callable[[float], Places], quality: Array, cost: Array, at: Array) -> Sweep:
    """A policy's choices at every price, scored."""
    rows = np.arange(len(quality))
    chosen = [choose(float(price)) for price in at]
    return Sweep(np.stack([quality[rows, arm] for arm in chosen]), np.stack([cost[rows, arm] for arm in chosen]))


def greedy(quality: Array, cost: Array) -> Callable[[float], Places]:
    """The arm with the most quality - price x cost, the cheaper of equals: the oracle, where both are the truth."""
    tie = 1e-9 * cost / max(float(np.nanmax(cost, initial=0)), 1e-12)

    def choose(price: float) -> Places:
        return np.asarray((quality - price * cost - tie).argmax(axis=1), dtype=np.intp)

    return choose


def hull(cost: Array, quality: Array) -> tuple[Array, Array]:
    """The non-decreasing upper hull of points, by rising cost."""
    order = np.lexsort((-quality, cost))
    kept: list[tuple[float, float]] = []
    for c, q in zip(cost[order].tolist(), quality[order].tolist(), strict=True):
        if kept and q <= kept[-1][1]:
            continue
        while len(kept) > 1 and _below(kept[-2], kept[-1], (c, q)):
            kept.pop()
        kept.append((c, q))
    return np.array([c for c, _ in kept]), np.array([q for _, q in kept])


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def height(at: Array, cost: Array, quality: Array) -> Array:
    """A curve's quality at costs: lines between its points by rising cost, flat outside."""
    order = np.argsort(cost, kind="stable")
    x, y = cost[order], quality[order]
    # Of points with one cost the best counts, which is the last: `interp` needs rising values.
    keep = np.append(np.diff(x) > 0, True)
    return np.asarray(np.interp(at, x[keep], np.maximum.reduceat(y, _starts(keep))))


def _starts(last: NDArray[np.bool_]) -> NDArray[np.intp]:
    ends = np.flatnonzero(last)
    return np.concatenate([[0], ends[:-1] + 1])


def area(cost: Array, quality: Array, low: float, high: float, *, log: bool = False) -> float:
    """The mean height of a curve between two costs, over cost or over its logarithm."""
    if high <= low:
        return float(height(np.array([low]), cost, quality)[0])
    at = np.geomspace(low, high, GRID) if log else np.linspace(low, high, GRID)
    heights = height(at, cost, quality)
    return float((heights[:-1] + heights[1:]).mean() / 2)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The costs between which areas are taken: of the cheapest arm and of the best."""

    low: float
    high: float
    best: float
    """The quality of the best arm."""

    @property
    def log(self) -> bool:
        """Whether areas are taken over the logarithm of cost."""
        return self.low > 0 and self.high >= WIDE * self.low

    @classmethod
    def of(cls, quality: Array, cost: Array) -> Bounds:
        """By the arms' means, (A)."""
        best = int(np.lexsort((cost, -quality))[0])
        return cls(float(cost.min()), float(cost[best]), float(quality[best]))


@dataclass(frozen=True, slots=True)
class Worth:
    """A sweep's figures."""

    auc: float
    """The mean height of its curve."""
    gap: float
    """Of the gap between zero router and oracle, the part that it closes."""
    parity: float
    """The least cost at which it is as good as the best arm, as a share of that arm's cost; nan: never."""
    equal: float
    """Its quality at the best arm's cost, less that arm's quality."""


@dataclass(frozen=True, slots=True)
class Means:
    """Mean quality and cost of every point: the arms of a set, or the prices of a sweep."""

    quality: Array
    cost: Array

    @classmethod
    def of(cls, quality: Array, cost: Array, weights: Array | None = None) -> Means:
        """Of (Q, A) for arms, of a transposed sweep (Q, L); each question counts as `weights` says, which sum to 1."""
        if weights is None:
            return cls(quality.mean(axis=0), cost.mean(axis=0))
        return cls(weights @ quality, weights @ cost)


def worth(policy: Means, oracle: Means, arms: Means) -> Worth:
    """A sweep's figures beside those of the oracle and of the fixed arms, on the same questions."""
    bounds = Bounds.of(arms.quality, arms.cost)
    zero_c, zero_q = hull(arms.cost, arms.quality)
    over = (bounds.low, bounds.high)
    zero = area(zero_c, zero_q, *over, log=bounds.log)
    own = area(policy.cost, policy.quality, *over, log=bounds.log)
    most = area(oracle.cost, oracle.quality, *over, log=bounds.log)
    gap = (own - zero) / (most - zero) if most - zero > 1e-12 else float("nan")
    equal = float(height(np.array([bounds.high]), policy.cost, policy.quality)[0]) - bounds.best
    at = cost_at(policy.cost, policy.quality, bounds.best)
    return Worth(own, gap, at / bounds.high if bounds.high > 0 else float("nan"), equal)


def cost_at(cost: Array, quality: Array, wanted: float) -> float:
    """The least cost at which a curve reaches a quality; nan where it does not."""
    order = np.argsort(cost, kind="stable")
    x, y = cost[order], quality[order]
    reached = np.flatnonzero(y >= wanted - 1e-12)
    if not len(reached):
        return float("nan")
    first = int(reached[0])
    if first == 0 or y[first] == y[first - 1]:
        return float(x[first])
    share = (wanted - y[first - 1]) / (y[first] - y[first - 1])
    return float(x[first - 1] + share * (x[first] - x[first - 1]))


def aiq(cost: Array, quality: Array, low: float, high: float) -> float:
    """RouterBench's average improvement in quality: the area under the hull of a sweep's points, over the range."""
    return area(*hull(cost, quality), low, high)


def regret(chosen: Places, quality: Array, cost: Array, price: float) -> Array:
    """What each question loses against the oracle at a price, (Q)."""
    value = quality - price * cost
    return np.asarray(value.max(axis=1) - value[np.arange(len(value)), chosen])


def brier(predicted: Array, right: Array) -> float:
    """The mean squared error of predicted chances."""
    return float(np.nanmean((predicted - right) ** 2))


def ece(predicted: Array, right: Array, bins: int = 10) -> float:
    """The mean distance of predicted from realised, over bins of equal size by prediction."""
    seen = ~np.isnan(right)
    order = np.argsort(predicted[seen], kind="stable")
    parts = np.array_split(order, min(bins, max(len(order), 1)))
    p, r = predicted[seen], right[seen]
    return float(sum(len(part) * abs(p[part].mean() - r[part].mean()) for part in parts if len(part)) / max(len(p), 1))


# Two arms, by the share of strong calls (RouteLLM).


def strong_curve(gain: Array, weak: Array, strong: Array) -> tuple[Array, Array]:
    """(shares of strong calls from 0 to 1, mean quality at each), strong where the predicted gain is highest."""
    order = np.argsort(-gain, kind="stable")
    total = weak.sum() + np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    return np.linspace(0, 1, len(gain) + 1), total / len(gain)


def pgr(quality: Array | float, weak: float, strong: float) -> Array:
    """The performance gap recovered: 0 as good as the weak arm, 1 as good as the strong one; may pass 1."""
    return np.asarray((np.asarray(quality) - weak) / (strong - weak))


def apgr(gain: Array, weak: Array, strong: Array) -> float:
    """The mean performance gap recovered over all shares of strong calls."""
    share, quality = strong_curve(gain, weak, strong)
    return float(np.trapezoid(pgr(quality, weak.mean(), strong.mean()), share))


def cpt(gain: Array, weak: Array, strong: Array, wanted: float) -> float:
    """The least share of strong calls at which the gap recovered reaches `wanted`: the first crossing."""
    share, quality = strong_curve(gain, weak, strong)
    return cost_at(share, pgr(quality, weak.mean(), strong.mean()), wanted)


def routellm(gain: Array, weak: Array, strong: Array) -> dict[str, float]:
    """RouteLLM's own figures: ten equal steps of the share of strong calls, and CPT by interpolation.

    Its evaluation takes thresholds at the deciles of the predicted chance, so shares of 0%, 10%, ... 100%; APGR is the
    mean by trapezoids over these; CPT interpolates the share as a function of accuracy as if accuracy only rose.
    """
    share, quality = strong_curve(gain, weak, strong)
    steps = np.linspace(0, 1, 11)
    recovered = pgr(np.interp(steps, share, quality), weak.mean(), strong.mean())
    told = {f"cpt{percent}": float(np.interp(percent / 100, recovered, steps)) for percent in (20, 50, 80)}
    return {"apgr": float(np.trapezoid(recovered, steps)), **told}


# Uncertainty.


def group_weights(groups: Sequence[str], resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each question stands in each resample of the groups, (resamples, Q): a paired bootstrap."""
    names, place = np.unique(np.array(groups), return_inverse=True)
    rng = np.random.default_rng([seed, 29])
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.asarray(drawn[:, place], dtype=np.int64)
