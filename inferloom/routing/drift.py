"""Watching a router at work: have the questions, the arms or the costs changed since it was trained?

Each monitor looks at a window of records beside what it should look like, and says what it measured, where it would
raise an alarm and whether it does. Population stability index and maximum mean discrepancy (A. Gretton et al., JMLR 13
(2012)) look at questions, a two-sided CUSUM (E. S. Page, Biometrika 41 (1954)) at calibration, the rest at costs,
errors and shares. The alarms are calls to look, not verdicts: several monitors on every window will err at times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from inferloom.core.types import Json
from inferloom.evaluation.stats import mean_interval

Matrix: TypeAlias = NDArray[np.float64]
PSI_ALARM = 0.25
"""The customary bound: below 0.1 nothing changed, above 0.25 much did."""
CUSUM_SLACK, CUSUM_ALARM = 0.5, 8.0
"""In standard deviations. Set so that on sound records of a thousand decisions the alarm is rarer than one in fifty."""
COLLAPSE = 0.95
"""The share of one arm from which the router hardly chooses any more."""
_LEAST = 30
"""Records below which a monitor says nothing."""
_MMD_ROWS, _PERMUTATIONS = 400, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a monitor measured."""

    monitor: str
    about: str
    """The arm that it is about, or empty."""
    value: float
    limit: float
    """From where on it is an alarm; which side, `told` says."""
    alarm: bool
    told: str

    def to_json(self) -> dict[str, Json]:
        """The reading as plain JSON."""
        return cast("dict[str, Json]", asdict(self))


def psi(reference: Matrix, now: Matrix, bins: int = 10) -> float:
    """The population stability index of one number: 0 for the same distribution.

    The expected value on n records of an unchanged distribution is about (bins - 1) * (1 / n + 1 / reference).
    """
    edges = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    counts = [np.bincount(np.searchsorted(edges, part), minlength=bins) for part in (reference, now)]
    shares = [(count + 0.5) / (count.sum() + 0.5 * bins) for count in counts]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def questions(reference: Matrix, now: Matrix, seed: int = 0) -> list[Reading]:
    """Whether questions have changed, from their embeddings, (n, width) each."""
    if min(len(reference), len(now)) < _LEAST:
        return []
    # Along the directions in which the reference varies most.
    centre = reference.mean(axis=0)
    _, _, axes = np.linalg.svd(reference - centre, full_matrices=False)
    along = [(part - centre) @ axes[:8].T for part in (reference, now)]
    worst = max(psi(along[0][:, axis], along[1][:, axis]) for axis in range(along[0].shape[1]))
    # What chance alone gives at this size comes on top of the customary bound.
    limit = PSI_ALARM + 9 * (1 / len(reference) + 1 / len(now))
    distance, chance = mmd(along[0], along[1], seed)
    return [
        Reading(
            monitor="psi",
            about="",
            value=worst,
            limit=limit,
            alarm=worst > limit,
            told=f"the questions moved by a stability index of {worst:.2f} at most (alarm above {limit:.2f})",
        ),
        Reading(
            monitor="mmd",
            about="",
            value=chance,
            limit=0.01,
            alarm=chance < 0.01,
            told=f"questions as different as these ({distance:.3f}) come by chance in {chance:.1%} (alarm below 1%)",
        ),
    ]


def mmd(reference: Matrix, now: Matrix, seed: int = 0) -> tuple[float, float]:
    """The maximum mean discrepancy under a Gaussian kernel, and how often a shuffle of both gives as much."""
    rng = np.random.default_rng(seed)
    parts = [part[rng.permutation(len(part))[:_MMD_ROWS]] for part in (reference, now)]
    both = np.concatenate(parts)
    squares = ((both[:, None, :] - both[None, :, :]) ** 2).sum(axis=2)
    kernel = np.exp(
        -squares / max(float(np.median(squares[squares > 0], keepdims=False)) if squares.any() else 1, 1e-12)
    )
    first = len(parts[0])

    def distance(order: NDArray[np.intp]) -> float:
        left, right = order[:first], order[first:]
        inside = kernel[np.ix_(left, left)].mean() + kernel[np.ix_(right, right)].mean()
        return float(inside - 2 * kernel[np.ix_(left, right)].mean())

    seen = distance(np.arange(len(both)))
    shuffled = [distance(rng.permutation(len(both))) for _ in range(_PERMUTATIONS)]
    return seen, (1 + sum(value >= seen for value in shuffled)) / (1 + _PERMUTATIONS)


def calibration(predicted: Matrix, reward: Matrix, about: str = "") -> list[Reading]:
    """Whether rewards keep to what was predicted, in the order of time: a two-sided CUSUM."""
    if len(reward) < _LEAST:
        return []
    deviation = np.sqrt(np.clip(predicted * (1 - predicted), 0.01, None))
    steps = (reward - predicted) / deviation
    # Summed in blocks: single rewards are right or wrong, and far from normal.
    size = max(1, len(steps) // 50)
    blocks = [block.mean() * np.sqrt(len(block)) for block in np.array_split(steps, len(steps) // size)]
    up = down = worst = 0.0
    for step in blocks:
        up, down = max(0.0, up + step - CUSUM_SLACK), max(0.0, down - step - CUSUM_SLACK)
        worst = max(worst, up, down)
    mean = float((reward - predicted).mean())
    return [
        Reading(
            monitor="cusum",
            about=about,
            value=worst,
            limit=CUSUM_ALARM,
            alarm=worst > CUSUM_ALARM,
            told=f"rewards are {mean:+.3f} off the prediction on the mean; their CUSUM reached {worst:.1f}"
            f" (alarm above {CUSUM_ALARM:g})",
        )
    ]


def costs(predicted: Matrix, real: Matrix, about: str = "") -> list[Reading]:
    """Whether realised costs keep to the predicted ones: alarm where their ratio is surely 20% off."""
    if len(real) < _LEAST or float(predicted.sum()) <= 0:
        return []
    ratio = mean_interval((real / predicted.mean()).tolist())
    away = ratio.low > 1.2 or ratio.high < 1 / 1.2
    return [
        Reading(
            monitor="cost",
            about=about,
            value=ratio.mean,
            limit=1.2,
            alarm=away,
            told=f"costs are {ratio.mean:.2f} times the predicted ones (95% {ratio.low:.2f} to {ratio.high:.2f};"
            " alarm where all of it is beyond 20%)",
        )
    ]


def errors(failed: Sequence[bool], about: str, most: float = 0.05) -> list[Reading]:
    """Whether an arm fails too often: alarm where the rate is surely above `most`."""
    if len(failed) < _LEAST:
        return []
    rate = mean_interval([float(one) for one in failed])
    return [
        Reading(
            monitor="errors",
            about=about,
            value=rate.mean,
            limit=most,
            alarm=rate.low > most,
            told=f"{rate.mean:.1%} of its runs failed (95% {rate.low:.1%} to {rate.high:.1%}; alarm where all of it"
            f" is above {most:.0%})",
        )
    ]


def shares(planned: Matrix, taken: NDArray[np.intp], names: Sequence[str]) -> list[Reading]:
    """Whether arms have the shares of the plan, and whether one has nearly all.

    Args:
        planned: (A): the shares on the questions of training; they sum to 1.
        taken: (N): what was chosen.
        names: The arms.
    """
    if len(taken) < _LEAST:
        return []
    real = np.bincount(taken, minlength=len(planned)) / len(taken)
    moved = 0.5 * float(np.abs(real - planned).sum())
    most = int(real.argmax())
    limit = 0.15 + float(np.sqrt(len(planned) / (4 * len(taken))))
    collapsed = real[most] > COLLAPSE and planned[most] < COLLAPSE
    return [
        Reading(
            monitor="shares",
            about="",
            value=moved,
            limit=limit,
            alarm=moved > limit,
            told=f"{moved:.1%} of the traffic goes elsewhere than planned (alarm above {limit:.1%})",
        ),
        Reading(
            monitor="collapse",
            about=names[most],
            value=float(real[most]),
            limit=COLLAPSE,
            alarm=bool(collapsed),
            told=f"`{names[most]}` takes {real[most]:.1%} of the questions; planned were {planned[most]:.1%}",
        ),
    ]
