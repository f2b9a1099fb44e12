"""The evaluation of a router: five splits by group, every baseline beside it, paired intervals.

Each split trains on 60%, calibrates on 15% and is judged on 25% of the groups. All choices (neighbours, blend, default
arms, prices) are made without the test questions. An interval is the 2.5th and 97.5th percentile over resamples of the
groups, the same for everything compared, with the splits' figures averaged in each; so it holds the chance of the
questions, and the splits only as far as they average it out.

The outcomes that a router learns from may be single runs, with their luck. `yardstick` gives the means of many runs of
the same cells; by these everything is judged then, and the oracle too, which so cannot take a lucky answer for an easy
question. Means of few runs leave it some luck: `halves`, two yardsticks of different runs, let it choose by one and be
judged by the other, which errs to the other side. What it could truly reach lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from inferloom.core.types import Json
from inferloom.evaluation.stats import Interval
from inferloom.routing import baselines
from inferloom.routing.baselines import BEST_SINGLE, Contender
from inferloom.routing.features import Matrix
from inferloom.routing.metrics import (
    Means,
    Sweep,
    brier,
    ece,
    greedy,
    group_weights,
    prices,
    sweep,
    three_prices,
    worth,
)
from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.router import PARTS
from inferloom.routing.train import Training, TrainOptions

Array = NDArray[np.float64]
SPLITS = 5
RESAMPLES = 2000
ROUTER = "router"
KNN = "tuned kNN"
LINEAR = "linear model"
ORACLE = "oracle"
FIGURES = ("gap", "halves", "auc", "parity", "equal", "worth low", "worth middle", "worth high")
"""Gap closed; the same against the oracle of the halves; mean quality over the costs; the share of the best arm's cost
at which it is matched; quality at its cost, less its quality; quality - price x cost at three prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A contender over all splits."""

    name: str
    figures: dict[str, Interval]
    """By `FIGURES`."""
    ahead: dict[str, Interval]
    """The router's figures less its own, paired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """How predictions came out, over the splits."""

    brier: float
    ece: float
    """Of single cells, all arms."""
    chosen: Interval
    """ECE of the chosen arm, at the middle price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the protocol found."""

    questions: int
    tested: float
    """Questions of a test part, on the mean."""
    contenders: tuple[Compared, ...]
    calibration: Calibrated
    share: dict[str, float]
    """Of questions at the middle price, by the label of the arm that the router chose."""
    by_tag: dict[str, Interval]
    """By task: what the router is worth beyond the best single arm, at the middle price."""
    blends: tuple[tuple[float, float, float], ...]
    """By split: the weights of `router.PARTS`."""
    curves: dict[str, tuple[tuple[float, float], ...]]
    """By contender: (mean cost, mean quality) along the sweep of prices, each the mean over the splits."""
    arms: tuple[tuple[str, float, float], ...]
    """(label, mean cost, mean quality) of the arms, on all questions."""
    arms_tested: tuple[tuple[float, float], ...]
    """(mean cost, mean quality) of the arms on the test questions, the mean over the splits: what `curves` go with."""

    def to_json(self) -> dict[str, Json]:
        """The report as plain JSON; what has no value is null."""
        return cast("dict[str, Json]", _plain(asdict(self)))


@dataclass
class _Drawn:
    """Figures by contender and split: the value itself first, then one for each resample."""

    rows: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, name: str, values: Array) -> None:
        self.rows.setdefault(name, []).append(values)

    def mean(self, name: str) -> Array:
        """(1 + resamples, figures), averaged over splits."""
        rows = np.stack(self.rows[name])
        known = ~np.isnan(rows)
        # A figure that no split has stays nan; one that some lack is the mean of the others.
        return np.where(known.any(axis=0), np.nansum(rows, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def evaluate(
    outcomes: Outcomes,
    *,
    yardstick: Outcomes | None = None,
    halves: tuple[Outcomes, Outcomes] | None = None,
    options: TrainOptions | None = None,
    splits: int = SPLITS,
    resamples: int = RESAMPLES,
    vectors: Matrix | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Train and judge routers on several splits.

    Args:
        outcomes: What is learned from.
        yardstick: What is judged by, of the same questions and arms; None: the outcomes, whose cells must all be there.
        halves: Two more yardsticks, of different runs.
        options: Of training.
        splits: How many.
        resamples: Of the bootstrap.
        vectors: Embeddings of all questions, where known.
        say: Told what is being done.

    Raises:
        DataError: There is too little to learn from, or to judge by.
    """
    measured = yardstick or outcomes
    weights = group_weights(outcomes.groups, resamples, 0)
    drawn, parts = _Drawn(), []
    for seed in range(splits):
        split = outcomes.split(seed)
        say(f"split {seed + 1} of {splits}")
        training = Training(outcomes, split, options, vectors=vectors)
        one = _Judged(training, outcomes, measured, halves, split, vectors, seed)
        one.draw(weights, drawn)
        parts.append(one)
    names = list(drawn.rows)
    router = drawn.mean(ROUTER)
    contenders = tuple(
        Compared(
            name=name,
            figures=_intervals(drawn.mean(name), len(outcomes)),
            ahead=_intervals(router - drawn.mean(name), len(outcomes)),
        )
        for name in names
    )
    return _report(outcomes, measured, contenders, parts, weights)


def _plain(value: object) -> Json:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value if isinstance(value, str | int) else None


def _intervals(values: Array, n: int) -> dict[str, Interval]:
    made = {}
    for place, name in enumerate(FIGURES):
        own = values[:, place]
        if np.isnan(own[0]):
            made[name] = Interval(float("nan"), float("nan"), float("nan"), n)
            continue
        drawn = own[1:][~np.isnan(own[1:])]
        low, high = np.quantile(drawn, [0.025, 0.975])
        made[name] = Interval(float(own[0]), float(low), float(high), n)
    return made


class _Judged:
    """One split: its contenders, swept."""

    def __init__(
        self,
        training: Training,
        outcomes: Outcomes,
        measured: Outcomes,
        halves: tuple[Outcomes, Outcomes] | None,
        split: Split,
        vectors: Matrix | None,
        seed: int,
    ) -> None:
        self.rows = split.test
        self.test = measured.take(split.test)
        train = outcomes.take(split.train)
        self.router = training.router()
        texts, own = self.test.texts, None if vectors is None else vectors[split.test]
        tags = self.test.tags if training.how.use_tags else None
        x = self.router.featurizer.transform(texts, tags, vectors=own)
        self.prediction = self.router.predict_features(x)
        mean_q, mean_c = np.nanmean(train.quality, axis=0), np.nanmean(train.cost, axis=0)
        self.at = prices(train.quality, train.cost)
        self.three = three_prices(mean_q, mean_c)
        self.contenders = [
            baselines.of_router(ROUTER, self.router, self.prediction, guarded=True),
            *(_alone(training, name, part, x) for name, part in ((KNN, "neighbours"), (LINEAR, "linear"))),
            *([_alone(training, "network alone", "network", x)] if training.how.network else []),
            baselines.best_single(train, len(texts)),
            *([baselines.by_tag(train, self.test)] if any(train.tags) else []),
            baselines.by_length(train, self.test),
            baselines.at_random(len(train.arms), len(texts), seed),
            Contender(ORACLE, greedy(self.test.quality, self.test.cost)),
        ]
        self.halves = None if halves is None else tuple(half.take(split.test) for half in halves)

    def draw(self, weights: NDArray[np.int64], drawn: _Drawn) -> None:
        """Every contender's figures on the test questions and on each resample of them."""
        own = np.concatenate([np.ones((1, len(self.rows))), weights[:, self.rows]]).astype(float)
        own /= own.sum(axis=1, keepdims=True)
        arms = _means(own, self.test.quality, self.test.cost)
        sweeps = {one.name: sweep(one.choose, self.test.quality, self.test.cost, self.at) for one in self.contenders}
        oracle = _swept(own, sweeps[ORACLE])
        crossed = self._crossed(own)
        for one in self.contenders:
            policy = _swept(own, sweeps[one.name])
            at_three = [self._value(own, one, price) for price in self.three]
            rows = []
            for place in range(len(own)):
                told = worth(policy[place], oracle[place], arms[place])
                half = worth(policy[place], crossed[place], arms[place]).gap if crossed else float("nan")
                rows.append([told.gap, half, told.auc, told.parity, told.equal, *(v[place] for v in at_three)])
            drawn.add(one.name, np.array(rows))

    def _crossed(self, own: Array) -> list[Means] | None:
        """The oracle that chooses by one half and is judged by the other, both ways."""
        if self.halves is None:
            return None
        first, second = self.halves
        a = sweep(greedy(first.quality, first.cost), second.quality, second.cost, self.at)
        b = sweep(greedy(second.quality, second.cost), first.quality, first.cost, self.at)
        return _swept(own, Sweep((a.quality + b.quality) / 2, (a.cost + b.cost) / 2))

    def _value(self, own: Array, one: Contender, price: float) -> Array:
        arm = one.choose(price)
        rows = np.arange(len(arm))
        return np.asarray(own @ (self.test.quality[rows, arm] - price * self.test.cost[rows, arm]))

    def gain(self) -> Array:
        """By test question: what the router is worth beyond the best single arm, at the middle price."""
        price, rows = self.three[1], np.arange(len(self.rows))
        value = self.test.quality - price * self.test.cost
        by_name = {one.name: one for one in self.contenders}
        return np.asarray(value[rows, by_name[ROUTER].choose(price)] - value[rows, by_name[BEST_SINGLE].choose(price)])


def _alone(training: Training, name: str, part: str, x: Matrix) -> Contender:
    assert part in PARTS
    router = training.router(name, parts=(part,))
    return baselines.of_router(name, router, router.predict_features(x), guarded=False)


def _means(own: Array, quality: Array, cost: Array) -> list[Means]:
    return [Means(q, c) for q, c in zip(own @ quality, own @ cost, strict=True)]


def _swept(own: Array, made: Sweep) -> list[Means]:
    return _means(own, made.quality.T, made.cost.T)


def _report(
    outcomes: Outcomes,
    measured: Outcomes,
    contenders: Sequence[Compared],
    parts: Sequence[_Judged],
    weights: NDArray[np.int64],
) -> Report:
    curves = {}
    for place, one in enumerate(parts[0].contenders):
        made = [sweep(part.contenders[place].choose, part.test.quality, part.test.cost, part.at) for part in parts]
        cost = np.mean([each.cost.mean(axis=1) for each in made], axis=0)
        quality = np.mean([each.quality.mean(axis=1) for each in made], axis=0)
        curves[one.name] = tuple(zip(cost.tolist(), quality.tolist(), strict=True))
    tested = [(np.nanmean(part.test.cost, axis=0), np.nanmean(part.test.quality, axis=0)) for part in parts]
    chosen = np.concatenate([part.contenders[0].choose(part.three[1]) for part in parts])
    return Report(
        questions=len(outcomes),
        tested=float(np.mean([len(part.rows) for part in parts])),
        contenders=tuple(contenders),
        calibration=_calibrated(parts, weights),
        share={arm.label: float((chosen == place).mean()) for place, arm in enumerate(outcomes.arms)},
        by_tag=_by_tag(parts, weights),
        blends=tuple(part.router.manifest.blend for part in parts),
        curves=curves,
        arms=tuple(
            (arm.label, float(np.nanmean(measured.cost[:, place])), float(np.nanmean(measured.quality[:, place])))
            for place, arm in enumerate(outcomes.arms)
        ),
        arms_tested=tuple(zip(*(np.mean(each, axis=0).tolist() for each in zip(*tested, strict=True)), strict=True)),
    )


def _calibrated(parts: Sequence[_Judged], weights: NDArray[np.int64]) -> Calibrated:
    predicted, right, rows = [], [], []
    for part in parts:
        arm = part.contenders[0].choose(part.three[1])
        place = np.arange(len(arm))
        predicted.append(part.prediction.quality[place, arm].astype(float))
        right.append(part.test.quality[place, arm])
        rows.append(part.rows)
    # The splits' test parts together, so that the bins are full; a question of two test parts counts in both.
    p, r, where = np.concatenate(predicted), np.concatenate(right), np.concatenate(rows)
    each = [ece(np.repeat(p, own), np.repeat(r, own)) for own in weights[:200, where]]
    low, high = np.quantile(each, [0.025, 0.975])
    every_p = np.concatenate([part.prediction.quality.ravel() for part in parts]).astype(float)
    every_r = np.concatenate([part.test.quality.ravel() for part in parts])
    return Calibrated(
        brier=brier(every_p, every_r), ece=ece(every_p, every_r), chosen=Interval(ece(p, r), low, high, len(p))
    )


def _by_tag(parts: Sequence[_Judged], weights: NDArray[np.int64]) -> dict[str, Interval]:
    gains = np.concatenate([part.gain() for part in parts])
    tags = np.array([tag or "" for part in parts for tag in part.test.tags])
    where = np.concatenate([part.rows for part in parts])
    made = {}
    for tag in sorted(set(tags) - {""}):
        own = tags == tag
        drawn = weights[:, where[own]].astype(float)
        means = (drawn @ gains[own]) / np.maximum(drawn.sum(axis=1), 1)
        low, high = np.quantile(means, [0.025, 0.975])
        made[tag] = Interval(float(gains[own].mean()), float(low), float(high), int(own.sum()))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A task that the router never saw."""

    tag: str
    ahead: Interval
    """What it is worth beyond the best single arm at the middle price."""
    default: float
    """The share of its questions that went to the default arm."""


def hold_out(
    outcomes: Outcomes,
    *,
    yardstick: Outcomes | None = None,
    options: TrainOptions | None = None,
    resamples: int = RESAMPLES,
    vectors: Matrix | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[HeldOut, ...]:
    """Leave each task out in turn; the last entry, `all`, is over all of them."""
    measured = yardstick or outcomes
    weights = group_weights(outcomes.groups, resamples, 1)
    gains, rows, made = [], [], []
    defaults: list[NDArray[np.bool_]] = []
    for tag in sorted({tag for tag in outcomes.tags if tag}):
        say(f"without {tag}")
        split = outcomes.hold_out(tag, 0)
        one = _Judged(Training(outcomes, split, options, vectors=vectors), outcomes, measured, None, split, vectors, 0)
        by_name = {other.name: other for other in one.contenders}
        chosen, single = (by_name[name].choose(one.three[1]) for name in (ROUTER, BEST_SINGLE))
        gains.append(one.gain())
        rows.append(one.rows)
        defaults.append(chosen == single)
        made.append(_held(tag, gains[-1], rows[-1], defaults[-1], weights))
    made.append(_held("all", np.concatenate(gains), np.concatenate(rows), np.concatenate(defaults), weights))
    return tuple(made)


def _held(
    tag: str, gain: Array, rows: NDArray[np.intp], default: NDArray[np.bool_], weights: NDArray[np.int64]
) -> HeldOut:
    drawn = weights[:, rows].astype(float)
    low, high = np.quantile((drawn @ gain) / np.maximum(drawn.sum(axis=1), 1), [0.025, 0.975])
    return HeldOut(
        tag=tag,
        ahead=Interval(float(gain.mean()), float(low), float(high), len(gain)),
        default=float(default.mean()),
    )


def shuffled(outcomes: Outcomes, seed: int) -> Outcomes:
    """The outcomes of other questions: whatever a question says about its outcome is gone."""
    order = np.random.default_rng([seed, 37]).permutation(len(outcomes))
    return replace(outcomes, quality=outcomes.quality[order], cost=outcomes.cost[order], count=outcomes.count[order])
