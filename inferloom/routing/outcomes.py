"""What routers learn from: how well each arm answered each question, and what that cost.

An arm is a pipeline with its models. Its id is a hash of the pipeline's content and of the models' fingerprints, so a
changed prompt or model is another arm. A cell that was never run is `nan`, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, UnknownNameError
from inferloom.evaluation.item import normalise_question

COST_UNITS = ("tokens", "usd", "calls", "seconds")
SHARES = (0.60, 0.15, 0.25)
"""Of groups, for training, calibration and test."""
LEAST_CELLS = 20
"""Runs of an arm below which nothing is learned about it."""

Feature = float | str
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmInfo:
    """A pipeline with its models, as one choice of a router."""

    id: str
    """A hash of the pipeline and its models' fingerprints; for imported data, of the arm's name."""
    label: str
    yaml: str | None = None
    """The pipeline; None for imported data."""
    features: Mapping[str, Feature] = field(default_factory=dict)
    """What is known of it before it runs, such as `models`, `nodes` and `max_calls`."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of `Outcomes`, each in one part; all rows of a group are in the same."""

    train: NDArray[np.intp]
    calibration: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """Results of `A` arms on `Q` questions."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    groups: tuple[str, ...]
    """A hash of the normalised question: what asks the same stays together in a split."""
    tags: tuple[str | None, ...]
    """The task that a question belongs to, where that is known."""
    arms: tuple[ArmInfo, ...]
    quality: Array
    """(Q, A): the mean score over the runs of a cell, from 0 to 1; nan where there was none."""
    count: Array
    """(Q, A): how many runs."""
    cost: Array
    """(Q, A): the mean cost of a run in `unit`, nominal; nan where there was none."""
    unit: str = "tokens"
    propensity: Array | None = None
    """(Q, A): the probability with which a cell was chosen to be run; None where all were wanted."""
    source: str = ""
    """Where it comes from, for messages."""

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.arms))
        for name in ("quality", "count", "cost"):
            assert getattr(self, name).shape == shape, f"{name} has the shape {getattr(self, name).shape}, not {shape}"
        assert len(self.ids) == len(self.groups) == len(self.tags) == shape[0]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def observed(self) -> NDArray[np.bool_]:
        """(Q, A): which cells were run."""
        return ~np.isnan(self.quality)

    @property
    def snapshot(self) -> str:
        """16 hex digits that stand for these data."""
        parts = [self.unit, *self.ids, *(arm.id for arm in self.arms)]
        arrays = [self.quality.tobytes().hex(), self.cost.tobytes().hex(), self.count.tobytes().hex()]
        return digest("\x1f".join([*parts, *arrays]), 8)

    def take(self, rows: NDArray[np.intp] | Sequence[int]) -> Outcomes:
        """Some of the questions, in this order."""
        where = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in where),
            texts=tuple(self.texts[row] for row in where),
            groups=tuple(self.groups[row] for row in where),
            tags=tuple(self.tags[row] for row in where),
            quality=self.quality[where],
            count=self.count[where],
            cost=self.cost[where],
            propensity=None if self.propensity is None else self.propensity[where],
        )

    def take_arms(self, arms: Sequence[int]) -> Outcomes:
        """Some of the arms, in this order, with the questions that one of them was run on."""
        columns = list(arms)
        made = replace(
            self,
            arms=tuple(self.arms[arm] for arm in columns),
            quality=self.quality[:, columns],
            count=self.count[:, columns],
            cost=self.cost[:, columns],
            propensity=None if self.propensity is None else self.propensity[:, columns],
        )
        return made.take(np.flatnonzero(made.observed.any(axis=1)))

    def complete(self) -> Outcomes:
        """The questions that every arm was run on.

        Raises:
            DataError: There are none.
        """
        made = self.take(np.flatnonzero(self.observed.all(axis=1)))
        if len(self) and not len(made):
            raise DataError("no question was answered by every arm; name fewer arms", where=self.source or None)
        return made

    def arm(self, name: str) -> int:
        """The place of an arm by its id, the beginning of it, or its label.

        Raises:
            UnknownNameError: There is none.
        """
        return arm_index(self.arms, name, where=self.source or None)

    def split(self, seed: int, shares: tuple[float, float, float] = SHARES) -> Split:
        """Deal the groups to training, calibration and test, by seed.

        Raises:
            DataError: There are too few groups for three parts.
        """
        groups = sorted(set(self.groups))
        Random(f"routing split {seed}").shuffle(groups)
        bounds = np.round(np.cumsum(shares) * len(groups)).astype(int)
        part = {group: int(np.searchsorted(bounds, place, side="right")) for place, group in enumerate(groups)}
        return self._parts(np.array([part[group] for group in self.groups]), [bool(share) for share in shares])

    def hold_out(self, tag: str, seed: int, calibration: float = 0.2) -> Split:
        """All questions of one task as the test; the groups of the others are dealt to training and calibration.

        Raises:
            DataError: The task, or the rest, is empty.
        """
        groups = sorted({group for group, own in zip(self.groups, self.tags, strict=True) if own != tag})
        Random(f"routing hold-out {seed} {tag}").shuffle(groups)
        held = set(groups[: round(calibration * len(groups))])
        part = [2 if own == tag else int(group in held) for group, own in zip(self.groups, self.tags, strict=True)]
        return self._parts(np.array(part), [True] * 3)

    def _parts(self, part: NDArray[np.int_], wanted: Sequence[bool]) -> Split:
        made = Split(*(np.flatnonzero(part == number) for number in range(3)))
        for name, must in zip(("train", "calibration", "test"), wanted, strict=True):
            if must and not len(getattr(made, name)):
                raise DataError(
                    f"the {name} part is empty: {len(self)} questions in {len(set(self.groups))} groups are too few",
                    where=self.source or None,
                )
        return made

    def check_trainable(self) -> None:
        """See that a router can be learned from this.

        Raises:
            DataError: There are no data, fewer than two arms, or too few runs of an arm.
        """
        where = self.source or None
        if not len(self):
            raise DataError("there are no scored runs to learn from", where=where)
        if len(self.arms) < 2:
            raise DataError(f"a router chooses among at least two arms; there is {len(self.arms)}", where=where)
        runs = self.observed.sum(axis=0)
        for arm, seen in zip(self.arms, runs, strict=True):
            if seen < LEAST_CELLS:
                told = "was never run" if seen == 0 else f"was run on {seen} questions only"
                raise DataError(
                    f"the arm `{arm.label}` ({arm.id}) {told}; at least {LEAST_CELLS} are needed, or leave it out",
                    where=where,
                )


def group_of(text: str) -> str:
    """The group of a question."""
    return digest(normalise_question(text), 8)


def arm_index(arms: Sequence[ArmInfo], name: str, *, where: str | None = None) -> int:
    """The place of an arm by its id, the beginning of it, or its label.

    Raises:
        UnknownNameError: There is none, or the beginning stands for several.
    """
    exact = [place for place, arm in enumerate(arms) if name in (arm.id, arm.label)]
    found = exact or [place for place, arm in enumerate(arms) if len(name) >= 4 and arm.id.startswith(name)]
    if len(found) != 1:
        raise UnknownNameError("arm", name, [text for arm in arms for text in (arm.label, arm.id)], where=where)
    return found[0]


@dataclass(slots=True)
class _Cell:
    score: float = 0.0
    cost: float = 0.0
    runs: int = 0
    propensity: float | None = None


@dataclass(slots=True)
class Gatherer:
    """Collects single results into `Outcomes`; results of one question by one arm are averaged."""

    unit: str = "tokens"
    source: str = ""
    _arms: dict[str, ArmInfo] = field(default_factory=dict)
    _questions: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    _cells: dict[tuple[str, str], _Cell] = field(default_factory=dict)

    def add_arm(self, arm: ArmInfo) -> None:
        """Name an arm; it has a column even where it has no results."""
        self._arms.setdefault(arm.id, arm)

    def add(
        self,
        arm: str,
        question: str,
        score: float,
        cost: float,
        *,
        id: str | None = None,
        tag: str | None = None,
        runs: int = 1,
        propensity: float | None = None,
    ) -> None:
        """One result, or the mean of several `runs`. Questions are the same where their ids are, else their texts."""
        key = id if id is not None else digest(question, 8)
        self._questions.setdefault(key, (question, tag))
        cell = self._cells.setdefault((key, arm), _Cell())
        cell.score += score * runs
        cell.cost += cost * runs
        cell.runs += runs
        if propensity is not None:
            cell.propensity = propensity

    def outcomes(self) -> Outcomes:
        """All that was added."""
        keys, arms = list(self._questions), list(self._arms)
        rows = {key: place for place, key in enumerate(keys)}
        columns = {arm: place for place, arm in enumerate(arms)}
        shape = (len(keys), len(arms))
        quality, cost, count = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
        propensity = np.full(shape, np.nan)
        for (key, arm), cell in self._cells.items():
            place = rows[key], columns[arm]
            quality[place], cost[place], count[place] = cell.score / cell.runs, cell.cost / cell.runs, cell.runs
            if cell.propensity is not None:
                propensity[place] = cell.propensity
        texts = [self._questions[key][0] for key in keys]
        return Outcomes(
            ids=tuple(keys),
            texts=tuple(texts),
            groups=tuple(map(group_of, texts)),
            tags=tuple(self._questions[key][1] for key in keys),
            arms=tuple(self._arms.values()),
            quality=quality,
            count=count,
            cost=cost,
            unit=self.unit,
            propensity=None if np.isnan(propensity).all() else propensity,
            source=self.source,
        )


def names_arm(name: str, features: Mapping[str, Feature] | None = None) -> ArmInfo:
    """An arm of imported data, known by its name."""
    return ArmInfo(id=digest(f"imported arm {name}", 8), label=name, features=features or {})


def merged(parts: Iterable[Outcomes]) -> Outcomes:
    """Several sources as one; arms are the same where their ids are.

    Raises:
        DataError: Their costs are in different units.
    """
    sources = list(parts)
    units = {part.unit for part in sources}
    if len(units) > 1:
        raise DataError(f"costs are in {' and '.join(sorted(units))}; one router has one unit")
    gatherer = Gatherer(
        unit=units.pop() if units else "tokens", source=", ".join(p.source for p in sources if p.source)
    )
    for part in sources:
        for arm in part.arms:
            gatherer.add_arm(arm)
        for row, column in np.argwhere(part.observed):
            told = None if part.propensity is None or np.isnan(part.propensity[row, column]) else part.propensity
            gatherer.add(
                part.arms[column].id,
                part.texts[row],
                float(part.quality[row, column]),
                float(part.cost[row, column]),
                id=part.ids[row],
                tag=part.tags[row],
                runs=int(part.count[row, column]),
                propensity=None if told is None else float(told[row, column]),
            )
    return gatherer.outcomes()
