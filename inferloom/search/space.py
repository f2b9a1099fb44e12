"""A space: a pipeline with holes. Every point of it is a plain pipeline.

One rule set validates, samples and counts: a point is valid where its pipeline is (the rules that hold for every
pipeline) and where it keeps the space's own `rules:`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TypeAlias

from inferloom.core.errors import SpecError, UnknownNameError, UserError, nearest
from inferloom.core.types import Json
from inferloom.pipelines.document import Document, content_hash, load_document
from inferloom.pipelines.modelfile import inline_models
from inferloom.pipelines.shape import Shapes
from inferloom.search.constraints import Rule, Scalar, parse_rule
from inferloom.search.template import Choice, Decide, FloatRange, Hole, IntRange, Template, Values, assignments

Check: TypeAlias = Callable[[Document], object]
"""Raises a `UserError` for a document that is no pipeline."""

SPACES = Path(__file__).parent / "spaces"
"""The spaces that come along; each is known by its file's stem."""
COUNT_LIMIT = 200_000
"""Spaces with more ways to fill the holes than this are not counted unless asked."""
_DRAWS = 400
_LISTED = 20_000
"""A space with at most this many ways to fill its holes is listed where draws find no valid point."""
_TRIED = 200
"""Ways to fill the holes that appear beside a changed one."""


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
        # Another check may look at anything, so only equal documents are known to fare alike.
        self._shapes = Shapes() if check is None else None
        self._validity: dict[Hashable, UserError | None] = {}

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
        rule = self._broken(values)
        if rule is not None:
            return SpecError(f"the point breaks the rule `{rule.text}`", where=rule.where)
        problem = self._problem(data)
        # What is known may be about another point of the same shape, and name that one's values.
        return self._checked(data) if problem and self._shapes else problem

    def is_valid(self, values: Mapping[str, Scalar]) -> bool:
        """Whether a point is a pipeline and keeps the rules."""
        self.point(values)
        return self._fine(values)

    def _fine(self, values: Mapping[str, Scalar]) -> bool:
        """`is_valid` for values that are known to be a point."""
        if self._broken(values) is not None:
            return False
        return self._problem(_mapping(self._template.peek(values))) is None

    def _broken(self, values: Mapping[str, Scalar]) -> Rule | None:
        return next((rule for rule in self.rules if not rule.holds(values)), None)

    def _problem(self, data: dict[str, Json]) -> UserError | None:
        """What is wrong with a point, or with one of the same shape."""
        key = self._shapes.key(data) if self._shapes else content_hash(data)
        if key not in self._validity:
            self._validity[key] = self._checked(data)
        return self._validity[key]

    def _checked(self, data: dict[str, Json]) -> UserError | None:
        try:
            self._check(self.point_document(data))
        except UserError as error:
            return error
        return None

    def fill(self, decide: Decide) -> tuple[dict[str, Json], Values]:
        """The point that a decider makes: it is asked for each hole that stands in what has been chosen, in order."""
        data, values = self._template.fill(decide)
        return _mapping(data), values

    def draw(self, rng: Random) -> Values:
        """A point, valid or not, each hole drawn evenly over its values (over their logarithms with `log`)."""
        return self._template.ask(lambda hole: _drawn(hole, rng))

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
        valid = self.valid_points(_LISTED)
        if valid:
            return rng.choice(valid)
        none = "no valid point" if valid is not None else f"no valid point among {_DRAWS} that were drawn"
        reason = f": for example, {problem.message}" if problem else ""
        raise SpecError(f"the space has {none}{reason}", where=self.document.where())

    def neighbours(self, values: Mapping[str, Scalar], name: str) -> list[Values]:
        """Every valid point that takes another value in one hole, and else the same as far as it can.

        A choice takes any other option; an integer or a number takes the next values, one lower and one higher: a step
        away, twice or half as much with `log`, a tenth of the range where there is no step. A hole that vanishes is
        left out; one that appears takes its first value, or the first that makes the point valid.

        Raises:
            UnknownNameError: There is no hole of that name.
            SpecError: The values are no point, or the point does not ask that hole.
        """
        if name not in self.holes:
            raise UnknownNameError("hole", name, self.holes, where=self.document.name)
        self.point(values)
        if name not in values:
            raise self._error(name, "the hole stands in a part that is not there, so it has no other value")
        found: list[Values] = []
        for value in _others(self.holes[name], values[name]):
            ways = assignments(self._template, {**values, name: value}, _first_values)
            point = next(filter(self._fine, islice(ways, _TRIED)), None)
            if point is not None:
                found.append(point)
        return found

    def size(self, limit: int = COUNT_LIMIT) -> int | None:
        """How many ways there are to fill the holes; None above the limit, and for holes that cannot be counted."""
        if self._too_wide(limit):
            return None
        points = sum(1 for _ in islice(assignments(self._template), limit + 1))
        return points if points <= limit else None

    def valid_points(self, limit: int = COUNT_LIMIT) -> list[Values] | None:
        """Every valid point, in document order; None where there are too many ways to fill the holes to look at all."""
        if self.size(limit) is None:
            return None
        return [values for values in assignments(self._template) if self._fine(values)]

    def count(self, limit: int = COUNT_LIMIT) -> Count:
        """How large the space is, exactly, by going through it."""
        raw = self.size(limit)
        valid = None if raw is None else sum(map(self._fine, assignments(self._template)))
        return Count(raw, valid)

    def uncounted(self, limit: int = COUNT_LIMIT) -> SpecError:
        """Why a space that `count` gives no numbers for has none."""
        for name, hole in self.holes.items():
            if math.isinf(_width(hole)):
                return self._error(
                    name, "a `float` without `step` has no end of values, so the space cannot be counted"
                )
        message = f"there are more than {limit:,} ways to fill the holes; raise the limit to count them"
        return SpecError(message, where=self.document.where())

    def _too_wide(self, limit: int) -> bool:
        # A hole with more values than the limit makes the space too large, or infinite, wherever it is asked.
        return any(_width(hole) > limit for hole in self.holes.values())

    def _error(self, name: str, message: str) -> SpecError:
        where = f"{self.document.where(self._template.place(name))}: {name}"
        return SpecError(message, where=where)


def load_space(source: str | Path, *, check: Check | None = None) -> Space:
    """A space by the path of its file, or of a search job's, or by the name of one that comes along (`archon`).

    Raises:
        SpecError: There is no such space, or it is wrong.
    """
    document = shipped_document(source, SPACES, "space")
    data = document.data
    if isinstance(data, dict) and "space" in data:
        document = space_document(document, data["space"])
    return Space(document, check=check)


def space_document(document: Document, space: Json) -> Document:
    """The document of a job's space, which stands in the job or in a file of its own.

    Raises:
        SpecError: There is no such file.
    """
    if isinstance(space, str):
        path = (document.path.parent if document.path else Path()) / space
        known = {entry.stem: entry for entry in SPACES.glob("*.yaml")}
        if space in known and not path.exists():
            return load_document(known[space], name=f"{space} (built in)")
        if not path.exists():
            raise document.error(("space",), f"there is no file `{space}`", nearest(space, known))
        return load_document(path)
    lines = {place[1:]: line for place, line in document.lines.items() if place and place[0] == "space"}
    return Document(data=space, name=document.name, lines=lines, path=document.path)


def shipped_document(source: str | Path, folder: Path, what: str) -> Document:
    """The document of a file, or the one of that name which comes along.

    Args:
        source: A path, or a name.
        folder: Where those are that come along, each known by its file's stem.
        what: What such a document is, for the error.

    Raises:
        SpecError: There is neither such a file nor such a name.
    """
    path = Path(source)
    known = {entry.stem: entry for entry in folder.glob("*.yaml")}
    if str(source) in known and not path.is_file():
        return load_document(known[str(source)], name=f"{source} (built in)")
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        near = nearest(str(source), known)
        rest = "" if near else f"; {what}s that come along: {', '.join(sorted(known))}"
        raise SpecError(
            f"no {what} `{source}`: no such file, and no {what.split()[-1]} of this name comes along{rest}",
            suggestion=near,
        )
    return load_document(path)


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


def _first_values(hole: Hole) -> Sequence[Scalar]:
    if isinstance(hole, FloatRange) and hole.step is None:
        return (hole.low,)
    return hole.all() or ()


def _others(hole: Hole, value: Scalar) -> list[Scalar]:
    """The values that are next to one, lower ones first."""
    if isinstance(hole, Choice):
        return [option for option in hole.options if not (type(option) is type(value) and option == value)]
    assert isinstance(value, int | float), "a range holds numbers"
    if hole.log:
        beside: list[float] = [value / 2, value * 2]
    else:
        step = (hole.high - hole.low) / 10 if hole.step is None else hole.step
        beside = [value - step, value + step]
    if isinstance(hole, IntRange):
        beside = [round(number) for number in beside]
    # A range that ends within the step ends there, unless the value is its end already.
    if hole.log or hole.step is None:
        beside = [min(max(number, hole.low), hole.high) for number in beside]
    return [round(number, 12) for number in beside if hole.low <= number <= hole.high and number != value]


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
