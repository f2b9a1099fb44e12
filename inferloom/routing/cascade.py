"""Adaptive effort: draw a little, look, and draw more or ask a dearer model only where that pays.

A cascade is a ladder of stages. At each the answers so far are looked at (`inferloom.nodes.looking`): how far they
agree, how likely their texts were, how a judge grades them. A logistic model learned from outcomes turns the look into
the chance that the leading answer is right, and below a learned threshold the ladder is climbed one step further. So
both the number of samples and the model depend on the question.

The thresholds are learned from the last stage backwards, as values are in optimal stopping: each is the one with the
highest mean utility on the training questions, right answers less the price of all that is drawn from there on. In
expectation a step costs what it draws times the chance that it is taken.

Sources: FrugalGPT (Chen et al., arXiv 2305.05176) for cascades, Adaptive-Consistency (Aggarwal et al., arXiv
2305.11860) for stopping on agreement, Snell et al. (arXiv 2408.03314) for effort by difficulty. Departures: one learned
rule covers samples and models alike; the chance is calibrated; a price, not a wanted accuracy, sets the thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import DataError
from inferloom.core.types import Json
from inferloom.nodes.looking import FEATURES, look
from inferloom.routing.fitting import logistic

Matrix: TypeAlias = NDArray[np.float64]
_RIDGE = 1.0
_PASSES = 3
_THRESHOLDS = 60
"""Values that are tried for a threshold."""
_LEAST_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Single draws of one model on `Q` questions; all arrays are (Q, draws)."""

    answer: NDArray[np.integer]
    """A number for each different answer of a question, whichever model gave it; -1 for none."""
    right: Matrix
    """1 where the answer is right, else 0."""
    cost: Matrix
    """Of the draw."""
    logprob: Matrix | None = None
    """The mean log-probability of the text's tokens."""
    grade: Matrix | None = None
    """By a judge, from 0 to 1."""
    judging: Matrix | None = None
    """The cost of that."""

    def take(self, rows: NDArray[np.intp]) -> Drawn:
        """Some of the questions."""
        return Drawn(
            answer=self.answer[rows],
            right=self.right[rows],
            cost=self.cost[rows],
            logprob=None if self.logprob is None else self.logprob[rows],
            grade=None if self.grade is None else self.grade[rows],
            judging=None if self.judging is None else self.judging[rows],
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A rung of the ladder: by now so many draws of a model, on top of those of other models before."""

    model: str
    draws: int


Ladder: TypeAlias = Sequence[Stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What each stage looks like on `Q` questions."""

    features: Matrix
    """(stages, Q, features)."""
    leads: NDArray[np.bool_]
    """(stages, Q): whether any answer leads."""
    right: Matrix
    """(stages, Q): whether the leading answer is right."""
    cost: Matrix
    """(stages, Q): of going from the stage before to this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """A learned ladder."""

    stages: tuple[Stage, ...]
    features: tuple[str, ...]
    """Which parts of a look count."""
    votes: Mapping[str, float]
    """What a vote of each model counts."""
    weights: tuple[Mapping[str, float], ...]
    """Per stage, with `bias`."""
    thresholds: tuple[float, ...]
    """Per stage but the last: where the chance is below it, go on."""
    price: float

    def chances(self, looks: Looks) -> Matrix:
        """(stages, Q): the chance that the leading answer is right."""
        odds = [
            weights["bias"] + looks.features[stage] @ np.array([weights[name] for name in FEATURES])
            for stage, weights in enumerate(self.weights)
        ]
        return np.where(looks.leads, _sigmoid(np.array(odds)), 0.0)

    def reached(self, looks: Looks) -> NDArray[np.bool_]:
        """(stages, Q): which questions come to each stage."""
        doubt = self.chances(looks)[:-1] < np.array(self.thresholds)[:, None]
        return np.concatenate([np.ones((1, doubt.shape[1]), dtype=bool), np.logical_and.accumulate(doubt, axis=0)])

    def replay(self, looks: Looks) -> Replay:
        """What it does on questions whose draws are known."""
        sure = self.chances(looks)
        stopped = self.reached(looks).sum(axis=0) - 1
        rows = np.arange(len(stopped))
        return Replay(
            right=looks.right[stopped, rows],
            cost=looks.cost.cumsum(axis=0)[stopped, rows],
            stage=stopped,
            sure=sure[stopped, rows],
        )

    def to_steps(self, **sample: Json) -> list[Json]:
        """The cascade as steps of a pipeline.

        Args:
            sample: Parameters for every `sample`, such as `max_tokens`.

        Raises:
            DataError: It looks at grades, which would be asked for anew at every stage.
        """
        if "grade" in self.features:
            raise DataError("a cascade that looks at grades has no pipeline; learn one that looks at the rest")
        return [*self._steps(0, sample), {"best": {"by": "sure"}}]

    def _steps(self, stage: int, sample: Mapping[str, Json]) -> list[Json]:
        here = self.stages[stage]
        before = self.stages[stage - 1] if stage else None
        fresh = here.draws - (before.draws if before is not None and before.model == here.model else 0)
        drawn: dict[str, Json] = {"model": here.model, "n": fresh, **sample}
        if "logprob" in self.features:
            drawn["logprobs"] = True
        gauge: dict[str, Json] = {name: round(value, 6) for name, value in self.weights[stage].items()}
        votes: dict[str, Json] = {name: round(value, 6) for name, value in self.votes.items()}
        steps: list[Json] = [{"sample": drawn}, {"gauge": {**gauge, "votes": votes}}]
        if stage == len(self.stages) - 1:
            return steps
        condition = f"best.sure < {self.thresholds[stage]:.6f}"
        return [*steps, {"when": {"if": condition, "then": self._steps(stage + 1, sample)}}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of `Q` questions."""

    right: Matrix
    cost: Matrix
    stage: NDArray[np.intp]
    """Where it stopped."""
    sure: Matrix
    """The chance that it gave its answer."""


def vote_weights(drawn: Mapping[str, Drawn]) -> dict[str, float]:
    """What a vote of each model counts: its log-odds of being right, against the weakest model's."""
    shares = {model: float(np.clip(draws.right.mean(), 0.02, 0.98)) for model, draws in drawn.items()}
    lowest = min(shares.values())
    # Of a model that is mostly wrong a vote still counts: its right answers agree, its wrong ones rarely do.
    return {model: max(1.0, (share / (1 - share)) / (lowest / (1 - lowest))) for model, share in shares.items()}


def looks_of(drawn: Mapping[str, Drawn], ladder: Ladder, features: Sequence[str], votes: Mapping[str, float]) -> Looks:
    """What every stage of a ladder looks like.

    Args:
        drawn: The draws by model.
        ladder: The stages.
        features: Which parts of a look count; `grade` charges the judge once for every answer.
        votes: What a vote of each model counts.

    Raises:
        DataError: A stage wants draws that are not there, or a look at what was not recorded.
    """
    _check(drawn, ladder, features)
    count = len(next(iter(drawn.values())).answer)
    shape = (len(ladder), count)
    table, leads = np.zeros((*shape, len(FEATURES))), np.zeros(shape, dtype=bool)
    right, cost = np.zeros(shape), np.zeros(shape)
    taken: dict[str, int] = {}
    answers: list[list[_Answer]] = [[] for _ in range(count)]
    for stage, here in enumerate(ladder):
        draws, before = drawn[here.model], taken.get(here.model, 0)
        cost[stage] = draws.cost[:, before : here.draws].sum(axis=1)
        taken[here.model] = here.draws
        if "grade" in features:
            cost[stage] += _of(draws.judging, draws)[:, before : here.draws].sum(axis=1)
        logprobs, grades = (
            _of(part if name in features else None, draws)
            for name, part in (("logprob", draws.logprob), ("grade", draws.grade))
        )
        for row, so_far in enumerate(answers):
            for place in range(before, here.draws):
                answer = int(draws.answer[row, place])
                so_far.append(
                    _Answer(
                        None if answer < 0 else str(answer),
                        votes[here.model],
                        float(logprobs[row, place]),
                        float(grades[row, place]),
                        float(draws.right[row, place]),
                    )
                )
            said, weights, likely, graded, truths = zip(*so_far, strict=True)
            seen = look(said, weights, likely, graded)
            if seen.leader is not None:
                first = said.index(seen.leader)
                # As `gauge` hands it on: who leads stays in front, and wins when votes are equal.
                so_far.insert(0, so_far.pop(first))
                leads[stage, row] = True
                right[stage, row] = truths[first]
                table[stage, row] = [getattr(seen, name) if name in features else 0.0 for name in FEATURES]
    return Looks(features=table, leads=leads, right=right, cost=cost)


class _Answer(NamedTuple):
    said: str | None
    weight: float
    logprob: float
    grade: float
    right: float


def _of(part: Matrix | None, drawn: Drawn) -> Matrix:
    return np.zeros(drawn.answer.shape) if part is None else np.nan_to_num(part)


def _check(drawn: Mapping[str, Drawn], ladder: Ladder, features: Sequence[str]) -> None:
    if not ladder:
        raise DataError("a cascade needs at least one stage")
    for name in features:
        if name not in FEATURES:
            raise DataError(f"a look has no `{name}`; it has {', '.join(FEATURES)}")
    most: dict[str, int] = {}
    for place, here in enumerate(ladder):
        if here.model not in drawn:
            raise DataError(f"stage {place + 1} wants the model `{here.model}`, of which there are no draws")
        there = drawn[here.model].answer.shape[1]
        if not most.get(here.model, 0) < here.draws <= there:
            raise DataError(
                f"stage {place + 1} wants {here.draws} draws of `{here.model}`; it must be more than"
                f" {most.get(here.model, 0)} and at most {there}, those that were recorded"
            )
        most[here.model] = here.draws
        for name in ("logprob", "grade"):
            if name in features and all(getattr(drawn[model], name) is None for model in most):
                raise DataError(f"the draws have no `{name}` to look at")


def learn(
    drawn: Mapping[str, Drawn],
    ladder: Ladder,
    *,
    price: float,
    features: Sequence[str] = ("agreement", "lead", "logprob"),
) -> Cascade:
    """Learn a cascade from draws.

    Args:
        drawn: Draws of every model on the same questions.
        ladder: The stages, the cheapest first.
        price: Of a unit of cost, in right answers.
        features: What is looked at.

    Raises:
        DataError: There are too few questions, or the ladder does not fit the draws.
    """
    votes = vote_weights(drawn)
    return learn_from(looks_of(drawn, ladder, features, votes), ladder, votes, price=price, features=features)


def learn_from(
    looks: Looks, ladder: Ladder, votes: Mapping[str, float], *, price: float, features: Sequence[str]
) -> Cascade:
    """The same from what the stages look like, which does not depend on the price."""
    count = looks.right.shape[1]
    if count < _LEAST_ROWS:
        raise DataError(f"{count} questions are too few to learn a cascade from; at least {_LEAST_ROWS} are needed")
    made: Cascade | None = None
    for _ in range(_PASSES):
        # A stage sees only what those before it were not sure of, which is another lot of questions than all.
        reached = np.ones(looks.right.shape, dtype=bool) if made is None else made.reached(looks)
        few = reached.sum(axis=1) < _LEAST_ROWS
        reached[few] = True
        weights = tuple(_weights(looks, stage, reached[stage], features) for stage in range(len(ladder)))
        made = Cascade(
            stages=tuple(ladder),
            features=tuple(features),
            votes=dict(votes),
            weights=weights,
            thresholds=(0.5,) * (len(ladder) - 1),
            price=price,
        )
        made = replace(made, thresholds=_thresholds(made.chances(looks), looks, reached, price))
    assert made is not None
    return made


def _weights(looks: Looks, stage: int, reached: NDArray[np.bool_], features: Sequence[str]) -> Mapping[str, float]:
    """The logistic model of a stage."""
    used = [FEATURES.index(name) for name in features]
    rows = looks.leads[stage] & reached
    x = looks.features[stage][rows][:, used]
    # On one scale, so that the ridge holds all alike.
    scale = np.maximum(x.std(axis=0), 1e-6) if len(x) else np.ones(len(used))
    columns = np.column_stack([np.ones(len(x)), x / scale])
    fitted = logistic(columns, looks.right[stage][rows], np.ones(len(x)), np.array([1e-6, *[_RIDGE] * len(used)]))
    own = dict.fromkeys(FEATURES, 0.0) | dict(zip(features, (fitted[1:] / scale).tolist(), strict=True))
    return {"bias": float(fitted[0]), **own}


def _thresholds(sure: Matrix, looks: Looks, reached: NDArray[np.bool_], price: float) -> tuple[float, ...]:
    """The best thresholds, from the last stage backwards."""
    value = looks.right[-1]
    found: list[float] = []
    for stage in reversed(range(len(sure) - 1)):
        onward = value - price * looks.cost[stage + 1]
        here = reached[stage]
        values = np.unique(sure[stage][here])
        # Between two values that occur, so that rounding never moves a question to the other side.
        between = (values[1:] + values[:-1]) / 2
        spaced = np.linspace(0, len(between) - 1, min(_THRESHOLDS, len(between))).astype(int)
        tried = np.concatenate([[0.0], between[spaced], [1.01]])
        means = [np.where(sure[stage] >= bound, looks.right[stage], onward)[here].mean() for bound in tried]
        best = float(tried[int(np.argmax(means))])
        found.insert(0, best)
        value = np.where(sure[stage] >= best, looks.right[stage], onward)
    return tuple(found)


def _sigmoid(odds: Matrix) -> Matrix:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -40, 40))))
