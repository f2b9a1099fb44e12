"""Training a router: three parts on bootstrap samples, blended, calibrated.

Every part sees only cells that were run. The calibration questions choose the neighbours' number, the linear model's
penalty and the blend, and calibrate the result; the test questions are not looked at.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferloom.routing.arms import CLUSTERS, arm_features, base_log_odds
from inferloom.routing.features import Featurizer, Matrix
from inferloom.routing.fitting import clusters, log_loss, logistic, platt
from inferloom.routing.guard import fit_guard
from inferloom.routing.model import (
    Neighbours,
    hidden,
    linear_logits,
    logit,
    network_log_cost,
    network_logits,
    remember,
    sigmoid,
)
from inferloom.routing.network import Cells, averaged, need_torch, train_network
from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.policy import Policy, with_budget
from inferloom.routing.router import PARTS, Manifest, Router

Arrays = dict[str, NDArray[np.float32]]
NEIGHBOURS = (5, 10, 20, 40, 80, 160)
RIDGES = (3.0, 30.0, 300.0)
PULLS = (2.0, 10.0)
MOST_REMEMBERED, MEMORY_BYTES = 3500, 450_000
"""Training questions that a router remembers: at most so many, and so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a router is trained."""

    embedder: str | None = None
    """As `INFERLOOM_EMBEDDER`, `minilm` or `none`; None: what that variable says."""
    use_tags: bool = True
    """Whether the task's tag is a feature, where the data have tags."""
    members: int = 5
    """Bootstrap samples."""
    network: bool = True
    """Whether the network is trained; it needs torch."""
    average: bool = False
    """Average the members' weights into one, for an artifact and a decision of a fifth."""
    epochs: int = 40
    seed: int = 0


class Training:
    """One training: every part is fitted once, and a router is made of all of them or of some."""

    def __init__(
        self,
        outcomes: Outcomes,
        split: Split,
        options: TrainOptions | None = None,
        *,
        vectors: Matrix | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.how = how = options or TrainOptions()
        self.outcomes = outcomes
        self.train, self.held = outcomes.take(split.train), outcomes.take(split.calibration)
        self.train.check_trainable()
        tags = self.train.tags if how.use_tags else None
        say("features")
        own, other = (None, None) if vectors is None else (vectors[split.train], vectors[split.calibration])
        self.featurizer = Featurizer.fit(self.train.texts, tags, embedder=how.embedder, vectors=own)
        x = self.featurizer.transform(self.train.texts, tags, vectors=own)
        self.held_x = self.featurizer.transform(
            self.held.texts, self.held.tags if how.use_tags else None, vectors=other
        )
        times = bootstrap(self.train.groups, how.members, how.seed)
        self.arrays: Arrays = {f"features.{key}": value for key, value in self.featurizer.arrays.items()}
        self.arrays["mean.quality"] = np.nan_to_num(np.nanmean(self.train.quality, axis=0)).astype(np.float32)
        mean_cost = np.nan_to_num(np.nanmean(self.train.cost, axis=0)).astype(np.float32)
        self.arrays["mean.cost"] = self.arrays["cost.scale"] = mean_cost
        say("neighbours")
        self.k, self.columns = fit_neighbours(
            self.arrays, x, self.train, self.held_x, self.held, times, self.featurizer.embedded, how.seed
        )
        say("linear model")
        fit_linear(self.arrays, x, self.train, self.held_x, self.held, times)
        if how.network:
            say("network")
            fit_network(self.arrays, x, self.train, self.held_x, self.held, times, how)
        near = Neighbours(self.arrays, self.k, self.columns)
        distances = near.distances(self.held_x)
        say("guard")
        self.arrays |= fit_guard(self.arrays, x, self.train, self.held_x, len(self.featurizer.tags), how.seed)
        self.chances = {
            "neighbours": near.chances(distances),
            "linear": sigmoid(linear_logits(self.arrays, self.held_x)),
        }
        self.apart: Matrix | None = None
        if how.network:
            self.apart = sigmoid(network_logits(self.arrays, hidden(self.arrays, self.held_x)))
            if how.average:
                self.arrays |= averaged(self.arrays)
            self.chances["network"] = sigmoid(network_logits(self.arrays, hidden(self.arrays, self.held_x)))

    def router(self, name: str = "router", parts: Sequence[str] = PARTS) -> Router:
        """The router of some parts, blended and calibrated.

        Args:
            name: Its name.
            parts: Which of `router.PARTS` may have a weight.
        """
        chances = [self.chances.get(part) if part in parts else None for part in PARTS]
        blend = fit_blend(chances, self.held)
        mixed = np.sum([w * part for w, part in zip(blend, chances, strict=True) if part is not None], axis=0)
        a, b = platt(logit(mixed.mean(axis=0)).astype(float), self.held.quality, self.held.count)
        members = sigmoid(a * logit(mixed) + b)
        # Averaged members have no spread of their own; what they had before is kept.
        before = chances if self.apart is None or chances[0] is None else [self.apart, *chances[1:]]
        whole = np.sum([w * part for w, part in zip(blend, before, strict=True) if part is not None], axis=0)
        spread = sigmoid(a * logit(whole) + b).std(axis=0).mean(axis=0).astype(np.float32)
        outcomes = self.outcomes
        manifest = Manifest(
            name=name,
            arms=outcomes.arms,
            unit=outcomes.unit,
            embedder=self.featurizer.embedder,
            tags=self.featurizer.tags,
            blend=blend,
            k=self.k,
            columns=self.columns,
            snapshot=outcomes.snapshot,
            trained_on=len(self.train),
            created=time.time(),
            metrics={"calibration_log_loss": log_loss(members.mean(axis=0), self.held.quality, self.held.count)},
            policy=Policy().to_json(),
            note=outcomes.source,
        )
        made = Router(manifest, {**self.arrays, "platt.a": a, "platt.b": b, "spread": spread})
        return with_policy(made, default_policy(made, self.held_x))


def train_router(
    outcomes: Outcomes,
    split: Split | None = None,
    *,
    name: str = "router",
    options: TrainOptions | None = None,
    vectors: Matrix | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Router:
    """Learn a router from outcomes.

    Args:
        outcomes: The data.
        split: Which questions train and which calibrate; None: 80 to 20 of all.
        name: The router's name.
        options: How.
        vectors: Embeddings of all questions by the options' embedder, where known already.
        say: Told what is being done.

    Raises:
        DataError: There is too little to learn from.
        SetupError: A package is missing.
    """
    how = options or TrainOptions()
    if how.network:
        need_torch()
    if not len(outcomes):
        outcomes.check_trainable()
    parts = split or outcomes.split(how.seed, (0.8, 0.2, 0.0))
    return Training(outcomes, parts, how, vectors=vectors, say=say).router(name)


def default_policy(router: Router, calibration: Matrix) -> Policy:
    """At most what the best single arm costs on the mean, found on calibration features."""
    best = int(np.asarray(router.arrays["mean.quality"]).argmax())
    budget = float(router.arrays["mean.cost"][best])
    return with_budget(router, router.predict_features(calibration), Policy(), budget)


def with_policy(router: Router, policy: Policy) -> Router:
    """The router with another policy of its own."""
    return Router(replace(router.manifest, policy=policy.to_json()), router.arrays)


def bootstrap(groups: tuple[str, ...], members: int, seed: int) -> NDArray[np.int64]:
    """How often each question is in each sample, (members, questions); groups are drawn whole."""
    names, place = np.unique(np.array(groups), return_inverse=True)
    rng = np.random.default_rng([seed, 17])
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=members)
    return np.asarray(drawn[:, place], dtype=np.int64)


def fit_neighbours(
    arrays: Arrays,
    x: Matrix,
    train: Outcomes,
    held_x: Matrix,
    held: Outcomes,
    times: NDArray[np.int64],
    embedded: int,
    seed: int,
) -> tuple[int, int]:
    """Remember training questions, and choose how many neighbours count and by which features; (k, columns)."""
    rows = np.arange(len(train))
    most = min(MOST_REMEMBERED, MEMORY_BYTES // (x.shape[1] + len(train.arms) + len(times)))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, 19]).choice(len(rows), most, replace=False))
    best: tuple[float, int, int, float] | None = None
    for columns, pull in itertools.product(sorted({embedded or x.shape[1], x.shape[1]}), PULLS):
        made = remember(x[rows], train.quality[rows], np.ones((1, len(rows)), np.int64), pull)
        near = Neighbours(made, 1, columns)
        distances = near.distances(held_x)
        for k in NEIGHBOURS:
            near.k = k
            loss = log_loss(near.chances(distances)[0], held.quality, held.count)
            if best is None or loss < best[0]:
                best = (loss, k, columns, pull)
    assert best is not None
    arrays |= remember(x[rows], train.quality[rows], times[:, rows], best[3])
    return best[1], best[2]


def fit_linear(
    arrays: Arrays, x: Matrix, train: Outcomes, held_x: Matrix, held: Outcomes, times: NDArray[np.int64]
) -> None:
    """A logistic regression for each arm and member; the penalty is chosen on the held questions."""
    rows = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1).astype(np.float64)
    held_rows = np.concatenate([held_x, np.ones((len(held_x), 1), np.float32)], axis=1).astype(np.float64)
    seen = train.observed
    target = np.nan_to_num(train.quality)
    best: tuple[float, NDArray[np.float64], NDArray[np.float64]] | None = None
    for ridge in RIDGES:
        penalty = np.append(np.full(x.shape[1], ridge), 0.1)
        w = np.stack(
            [logistic(rows[own], target[own, arm], np.ones(own.sum()), penalty) for arm, own in enumerate(seen.T)],
            axis=1,
        )
        loss = log_loss(sigmoid(held_rows @ w), held.quality, held.count)
        if best is None or loss < best[0]:
            best = (loss, w, penalty)
    assert best is not None
    _, w, penalty = best
    # One Newton step from the whole sample's weights is a bootstrap member in all but the last digits.
    each = [
        [
            logistic(rows[own], target[own, arm], drawn[own].astype(float), penalty, start=w[:, arm], steps=1)
            for arm, own in enumerate(seen.T)
        ]
        for drawn in times
    ]
    members = np.array(each, dtype=np.float32).transpose(0, 2, 1)
    arrays |= {"line.w": members[:, :-1], "line.b": members[:, -1]}


def fit_network(
    arrays: Arrays,
    x: Matrix,
    train: Outcomes,
    held_x: Matrix,
    held: Outcomes,
    times: NDArray[np.int64],
    how: TrainOptions,
) -> None:
    """The network, with the arm features that it reads."""
    mean = arrays["mean.cost"].astype(float)
    scale = float(np.exp(np.mean(np.log(mean[mean > 0])))) if (mean > 0).any() else 0.0
    arrays["arms.centres"] = clusters(x, CLUSTERS, how.seed)
    arrays["arms.scale"] = np.array([scale], np.float32)
    features = arm_features(train.arms, x, train.quality, train.count, mean, arrays["arms.centres"], scale)
    base = base_log_odds(train.quality, train.count)

    def cells(of: Outcomes, rows: Matrix) -> Cells:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.log(of.cost / np.where(mean > 0, mean, np.nan))
        return Cells(
            x=rows,
            quality=of.quality.astype(np.float32),
            count=of.count.astype(np.float32),
            cost=np.where(np.isfinite(relative), np.clip(relative, -4, 4), np.nan).astype(np.float32),
            arms=features,
            base=base,
        )

    arrays |= train_network(cells(train, x), times, cells(held, held_x), epochs=how.epochs, seed=how.seed)
    # The head gives the mean of a logarithm: its exponential is brought to the mean cost, arm by arm.
    expected = np.exp(np.clip(network_log_cost(arrays, hidden(arrays, x)), -4, 4)) * mean
    seen = ~np.isnan(train.cost)
    paid = np.where(seen, train.cost, 0).sum(axis=0)
    arrays["cost.scale"] = (mean * paid / np.maximum(np.where(seen, expected, 0).sum(axis=0), 1e-12)).astype(np.float32)


def fit_blend(chances: Sequence[Matrix | None], held: Outcomes) -> tuple[float, float, float]:
    """Weights of the parts, in tenths, with the least loss on the held questions."""
    means = [None if part is None else part.mean(axis=0) for part in chances]
    best: tuple[float, tuple[float, float, float]] | None = None
    for a, b in itertools.product(range(11), repeat=2):
        weights = (a / 10, b / 10, (10 - a - b) / 10)
        if a + b > 10 or any(w and part is None for w, part in zip(weights, means, strict=True)):
            continue
        mixed = np.sum([w * part for w, part in zip(weights, means, strict=True) if part is not None], axis=0)
        loss = log_loss(mixed, held.quality, held.count)
        if best is None or loss < best[0]:
            best = (loss, weights)
    assert best is not None
    return best[1]
