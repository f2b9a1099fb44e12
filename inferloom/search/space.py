"""A space: a pipeline with holes. Every point of it is a plain pipeline.

One rule set validates, samples and counts: a point is valid where its pipeline is (the rules that hold for every
pipeline) and where it keeps the space's own `rules:`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias

from inferloom.core.errors import SpecError, UnknownNameError, UserError
from inferloom.core.types import Json
from inferloom.pipelines.document import Document, content_hash, load_document
from inferloom.pipelines.modelfile import inline_models
from inferloom.search.constraints import Rule, Scalar, parse_rule
from inferloom.search.template import Decide, FloatRange, Hole, IntRange, Template, Values, assignments

Check: TypeAlias = Callable[[Document], object]
"""Raises a `UserError` for a document that is no pipeline."""

COUNT_LIMIT = 20_000
"""Spaces with more points than this are not counted unless asked."""
_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Count:
    """The size of a space; None where it is infinite or above the limit of the count."""

    raw: int | None
    """Ways to fill the holes."""
    valid: int | None
    """Those that are valid pipelines and keep the rules."""


class Space:
    """A pipeline with holes.

    Args:
        document: The pipeline with its holes; a key `rules:` holds a list of constraints.
        check: What makes a document a pipeline; the pipelines' own validation unless a test says otherwise.

    Raises:
        SpecError: A hole or a rule is not written as it must be.
        UnknownNameError: A rule names a hole that is not there.
    """

    def __init__(self, document: Document, *, check: Check | None = None) -> None:
        document = inline_models(document)
        data = document.data
        if not isinstance(data, dict):
            raise document.error((), "a space must be a mapping, a pipeline with holes")
        self.document = document
        self._check = check or _check_pipeline
        self._template = Template(document, {key: value for key, value in data.items() if key != "rules"})
        self.rules = _rules(document, data.get("rules", []), self._template)
        self._validity: dict[str, UserError | None] = {}

    @classmethod
    def load(cls, source: Document | Path | str, *, check: Check | None = None) -> Space:
        """Read a space from a document, a file (`Path`) or text (`str`)."""
        return cls(source if isinstance(source, Document) else load_document(source), check=check)

    @property
    def holes(self) -> dict[str, Hole]:
        """Every hole by name, in the document's order; those inside optional steps too."""
        return self._template.holes

    def point(self, values: Mapping[str, Scalar]) -> dict[str, Json]:
        """The pipeline that has these values in its holes, as plain data.

        Raises:
            UnknownNameError: A value has the name of no hole.
            SpecError: A hole has no value, a value is not one of the hole's, or one is for a hole that is not asked.
        """
        for name in values:
            if name not in self.holes:
                raise UnknownNameError("hole", name, self.holes, where=self.document.name)

        def given(hole: Hole) -> Scalar:
            if hole.name not in values:
                raise self._error(hole.name, "the hole has no value")
            value = values[hole.name]
            if not _fits(hole, value):
                raise self._error(hole.name, f"the value is {value!r}; it must be {_legal(hole)}")
            return value

        data, asked = self._template.fill(given)
        for name in values:
            if name not in asked:
                raise self._error(name, "the hole has a value, but stands in a part that is not there")
        return _mapping(data)

    def point_document(self, data: dict[str, Json]) -> Document:
        """A point as a document of its own, for validation and for running; files it names are beside the space's."""
        return Document(data=data, name=f"{self.document.name} (a point)", lines={}, path=self.document.path)

    def why_not(self, values: Mapping[str, Scalar]) -> UserError | None:
        """What is wrong with a point, or None for a valid one."""
        data = self.point(values)
        for rule in self.rules:
            if not rule.holds(values):
                return SpecError(f"the point breaks the rule `{rule.text}`", where=rule.where)
        key = content_hash(data)
        if key not in self._validity:
            self._validity[key] = None
            try:
                self._check(self.point_document(data))
            except UserError as error:
                self._validity[key] = error
        return self._validity[key]

    def is_valid(self, values: Mapping[str, Scalar]) -> bool:
        """Whether a point is a pipeline and keeps the rules."""
        return self.why_not(values) is None

    def fill(self, decide: Decide) -> tuple[dict[str, Json], Values]:
        """The point that a decider makes: it is asked for each hole that stands in what has been chosen, in order."""
        data, values = self._template.fill(decide)
        return _mapping(data), values

    def draw(self, rng: Random) -> Values:
        """A point, valid or not, each hole drawn evenly over its values (over their logarithms with `log`)."""
        return self._template.fill(lambda hole: _drawn(hole, rng))[1]

    def sample(self, rng: Random) -> Values:
        """A valid point.

        Raises:
            SpecError: The space has none, or they are too rare to be found; it says what was wrong with one point.
        """
        problem: UserError | None = None
        for _ in range(_DRAWS):
            values = self.draw(rng)
            problem = self.why_not(values)
            if problem is None:
                return values
        valid = self.valid_points()
        if valid:
            return rng.choice(valid)
        none = "no valid point" if valid is not None else f"no valid point among {_DRAWS} that were drawn"
        reason = f": for example, {problem.message}" if problem else ""
        raise SpecError(f"the space has {none}{reason}", where=self.document.where())

    def size(self, limit: int = COUNT_LIMIT) -> int | None:
        """How many ways there are to fill the holes; None above the limit, and for holes that cannot be counted."""
        points = 0
        for points, _ in enumerate(self._countable(limit), start=1):
            if points > limit:
                return None
        return points or None

    def valid_points(self, limit: int = COUNT_LIMIT) -> list[Values] | None:
        """Every valid point, in document order; None where there are too many ways to fill the holes to look at all."""
        points: list[Values] = []
        for position, values in enumerate(self._countable(limit), start=1):
            if position > limit:
                return None
            points.append(values)
        if not points:
            return None
        return [values for values in points if self.is_valid(values)]

    def count(self, limit: int = COUNT_LIMIT) -> Count:
        """How large the space is, exactly, by going through it."""
        raw = self.size(limit)
        valid = None if raw is None else self.valid_points(limit)
        return Count(raw, None if valid is None else len(valid))

    def _countable(self, limit: int) -> Iterator[Values]:
        # A hole with more values than the limit makes the space too large, or infinite, wherever it is asked.
        if any(_width(hole) > limit for hole in self.holes.values()):
            return iter(())
        return assignments(self._template)

    def _error(self, name: str, message: str) -> SpecError:
        where = f"{self.document.where(self._template.place(name))}: {name}"
        return SpecError(message, where=where)


def _rules(document: Document, listed: Json, template: Template) -> list[Rule]:
    if not isinstance(listed, list):
        raise document.error(("rules",), "`rules` must be a list of comparisons, such as `steps.0.sample.n * 2 <= 16`")
    rules: list[Rule] = []
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise document.error(("rules", position), f"a rule must be text, not `{text}`")
        where = f"{document.where(('rules', position))}: rules[{position}]"
        rules.append(parse_rule(text, template.fixed, frozenset(template.holes), where))
    return rules


def _check_pipeline(document: Document) -> object:
    from inferloom.pipelines.spec import PipelineSpec

    spec = PipelineSpec(document)
    for step in spec.steps:
        if step.node.oracle:
            message = f"`{step.node.name}` looks at the right answer, so a search cannot compare it with the rest"
            raise document.error(step.place, message)
    return spec


def _mapping(data: Json) -> dict[str, Json]:
    assert isinstance(data, dict), "a space is a mapping"
    return data


def _drawn(hole: Hole, rng: Random) -> Scalar:
    if isinstance(hole, FloatRange) and hole.step is None:
        if hole.log:
            return math.exp(rng.uniform(math.log(hole.low), math.log(hole.high)))
        return rng.uniform(hole.low, hole.high)
    if isinstance(hole, IntRange) and hole.log:
        # Each integer owns half a step on either side, so that the ends are as likely as their neighbours.
        low, high = math.log(hole.low - 0.5), math.log(hole.high + 0.5)
        return min(hole.high, max(hole.low, round(math.exp(rng.uniform(low, high)))))
    if isinstance(hole, IntRange):
        return rng.randrange(hole.low, hole.high + 1, hole.step)
    return rng.choice(hole.all() or [])


def _width(hole: Hole) -> float:
    if isinstance(hole, IntRange):
        return (hole.high - hole.low) // hole.step + 1
    if isinstance(hole, FloatRange):
        return math.inf if hole.step is None else (hole.high - hole.low) / hole.step + 1
    return len(hole.options)


def _fits(hole: Hole, value: Scalar) -> bool:
    if isinstance(hole, IntRange):
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return hole.low <= value <= hole.high and (value - hole.low) % hole.step == 0
    if isinstance(hole, FloatRange):
        return isinstance(value, int | float) and not isinstance(value, bool) and hole.low <= value <= hole.high
    return any(type(value) is type(option) and value == option for option in hole.options)


def _legal(hole: Hole) -> str:
    if isinstance(hole, IntRange | FloatRange):
        step = f" in steps of {hole.step:g}" if hole.step not in (None, 1) else ""
        return f"from {hole.low:g} to {hole.high:g}{step}"
    return f"one of {', '.join(repr(option) for option in hole.options)}"
