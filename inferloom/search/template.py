"""A document with holes, parsed: what may stand in a hole, and how decided holes make plain data again.

Holes, wherever a value may stand:

    {choice: [small, large]}                                one of these; an option may hold holes of its own
    {choice: {alone: VALUE, both: VALUE}}                   the same with options that have names
    {int: [1, 16]}, {int: [1, 64], log: true}, {int: [2, 8], step: 2}
    {float: [0, 1]}, {float: [0, 1], step: 0.25}
    {optional: VALUE}                                       there or not: a step of a list, or the value of a key
    {repeat: {step: VALUE, times: {int: [1, 3]}}}           in a list: the step, that many times, the same each time
    {first: {int: [1, 3]}, of: [a, b, c]}                   a list: the first so many of these
    {steps: [a, b]}                                         in a list: all of these, one after the other; or none
    {given: n > 1, steps: [a, b]}                           the same where the rule holds; it asks the holes it names

A hole is named by its place (`steps.0.sample.n`), or by `name:` beside `choice`, `int` or `float`; holes with one name
are one hole and must be alike. Knows nothing of pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

from inferloom.core.types import Json
from inferloom.pipelines.document import Document, Place
from inferloom.search.constraints import Rule, Scalar, parse_rule

Values: TypeAlias = "dict[str, Scalar]"
"""What stands in the holes that a point asks, by name. For options that are no scalars it is the option's name, where
the choice names them, else its position."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some options."""

    name: str
    options: tuple[Scalar, ...]
    """What `Values` may hold: the options themselves where all are scalars, else their names or positions."""

    def all(self) -> list[Scalar] | None:
        """Every value, in order."""
        return list(self.options)


@dataclass(frozen=True, slots=True)
class IntRange:
    """An integer from `low` to `high`, both included, in steps."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def all(self) -> list[Scalar] | None:
        """Every value, in order."""
        return list(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A number from `low` to `high`, both included; in steps where `step` is given."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def all(self) -> list[Scalar] | None:
        """Every value, in order; None without a step, when there is no counting them."""
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + position * self.step, 12) for position in range(count)]


Hole: TypeAlias = "Choice | IntRange | FloatRange"
Decide: TypeAlias = Callable[[Hole], Scalar]


@dataclass(frozen=True, slots=True)
class _Absent:
    """Stands for a value that is not there."""


@dataclass(frozen=True, slots=True)
class _Fixed:
    value: Json


@dataclass(frozen=True, slots=True)
class _Mapping:
    items: tuple[tuple[str, _Part], ...]


@dataclass(frozen=True, slots=True)
class _List:
    items: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Filled:
    """A hole whose value stands as it is."""

    hole: Hole


@dataclass(frozen=True, slots=True)
class _Branch:
    """A choice among values that are no scalars; only the chosen one's holes are asked."""

    hole: Choice
    branches: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    times: _Filled | int
    step: _Part


@dataclass(frozen=True, slots=True)
class _First:
    """A list of the first so many parts."""

    count: _Filled | int
    items: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """Under which condition some steps are there; its rule is read when all holes are known."""

    rule: Rule
    holes: tuple[Hole, ...]


@dataclass(slots=True)
class _Steps:
    """Items of a list that come together."""

    items: tuple[_Part, ...]
    given: _Given | None = None


_Part: TypeAlias = "_Absent | _Fixed | _Mapping | _List | _Filled | _Branch | _Repeat | _First | _Steps"
_OPTIONAL_OPTIONS: tuple[Scalar, ...] = (False, True)


class Template:
    """A parsed document with holes.

    Raises:
        SpecError: A hole is not written as it must be.
    """

    def __init__(self, document: Document, data: Json) -> None:
        self._document = document
        self._holes: dict[str, Hole] = {}
        self._places: dict[str, Place] = {}
        self.fixed: dict[str, Scalar] = {}
        """The scalars of the document that are no holes, by dotted path."""
        self._conditions: list[tuple[_Steps, str, Place]] = []
        self._root = self._parse(data, (), "", in_list=False)
        for steps, text, place in self._conditions:
            steps.given = self._given(text, place)
        self._skeleton = _skeleton(self._root) or _Fixed(None)
        self._folded = _folded(self._root)

    @property
    def holes(self) -> dict[str, Hole]:
        """Every hole by name, in the document's order; conditional ones too."""
        return dict(self._holes)

    def place(self, name: str) -> Place:
        """Where a hole stands in the document."""
        return self._places[name]

    def fill(self, decide: Decide) -> tuple[Json, Values]:
        """Make plain data: `decide` is asked once for each hole that stands in what has been chosen, in order."""
        values: Values = {}
        data = _fill(self._root, _once(decide, values))
        return cast(Json, data), values

    def peek(self, values: Mapping[str, Scalar]) -> Json:
        """The plain data of a point that is complete; only to be looked at, since points share their parts."""
        return cast(Json, _fill(self._folded, lambda hole: values[hole.name]))

    def ask(self, decide: Decide) -> Values:
        """The values that `fill` would give, without the data; much faster in a document with few holes."""
        values: Values = {}
        _fill(self._skeleton, _once(decide, values))
        return values

    # Parsing

    def _parse(self, data: Json, place: Place, name: str, *, in_list: bool) -> _Part:
        if isinstance(data, dict):
            hole = self._hole(data, place, name, in_list=in_list)
            if hole is not None:
                return hole
            return _Mapping(
                tuple(
                    (key, self._parse(value, (*place, key), _joined(name, key), in_list=False))
                    for key, value in data.items()
                )
            )
        if isinstance(data, list):
            return _List(
                tuple(
                    self._parse(value, (*place, position), _joined(name, str(position)), in_list=True)
                    for position, value in enumerate(data)
                )
            )
        self.fixed[name] = data
        return _Fixed(data)

    def _hole(self, data: dict[str, Json], place: Place, name: str, *, in_list: bool) -> _Part | None:
        keys = set(data)
        if "choice" in keys and keys <= {"choice", "name"} and isinstance(data["choice"], list | dict):
            return self._choice(data, place, name, in_list=in_list)
        if "int" in keys and keys <= {"int", "log", "step", "name"}:
            return _Filled(self._known(self._int(data, place, name), place))
        if "float" in keys and keys <= {"float", "log", "step", "name"}:
            return _Filled(self._known(self._float(data, place, name), place))
        if keys == {"optional"}:
            return self._optional(data["optional"], place, name, in_list=in_list)
        if keys == {"repeat"} and isinstance(data["repeat"], dict):
            return self._repeat(data["repeat"], place, name, in_list=in_list)
        if keys == {"first", "of"}:
            return self._first(data, place, name)
        if in_list and keys in ({"steps"}, {"given", "steps"}):
            return self._steps(data, place, name)
        return None

    def _known(self, hole: Hole, place: Place) -> Hole:
        before = self._holes.setdefault(hole.name, hole)
        self._places.setdefault(hole.name, place)
        if before != hole:
            raise self._document.error(place, f"the hole `{hole.name}` is defined twice, and not alike")
        return hole

    def _name(self, data: dict[str, Json], place: Place, default: str) -> str:
        name = data.get("name", default)
        if not isinstance(name, str) or not name:
            raise self._document.error((*place, "name"), f"a hole's name must be text, not `{name}`")
        return name

    def _choice(self, data: dict[str, Json], place: Place, default: str, *, in_list: bool) -> _Part:
        name = self._name(data, place, default)
        named = data["choice"]
        assert isinstance(named, list | dict)
        options = list(named.values()) if isinstance(named, dict) else named
        keys: list[str | int] = list(named) if isinstance(named, dict) else list(range(len(named)))
        if not options:
            raise self._document.error((*place, "choice"), "a choice needs at least one option")
        for position, option in enumerate(options):
            if any(type(option) is type(other) and option == other for other in options[:position]):
                at = (*place, "choice", keys[position])
                raise self._document.error(at, f"the option `{option}` stands here twice")
        if isinstance(named, list) and not any(isinstance(option, dict | list) for option in options):
            return _Filled(self._known(Choice(name, tuple(cast("list[Scalar]", options))), place))
        hole = Choice(name, tuple(keys))
        self._known(hole, place)
        branches = tuple(
            self._parse(option, (*place, "choice", key), f"{name}[{key}]", in_list=in_list)
            for key, option in zip(keys, options, strict=True)
        )
        return _Branch(hole, branches)

    def _optional(self, inner: Json, place: Place, name: str, *, in_list: bool) -> _Part:
        if not place:
            raise self._document.error(place, "`optional` must stand in a list or behind a key")
        hole = Choice(_joined(name, "optional"), _OPTIONAL_OPTIONS)
        self._known(hole, place)
        there = self._parse(inner, (*place, "optional"), name, in_list=in_list)
        return _Branch(hole, (_Absent(), there))

    def _repeat(self, data: dict[str, Json], place: Place, name: str, *, in_list: bool) -> _Part:
        if not in_list:
            raise self._document.error(place, "`repeat` must stand in a list of steps")
        if set(data) != {"step", "times"}:
            raise self._document.error(
                place, "`repeat` takes `step` and `times`, such as {step: critique, times: {int: [1, 3]}}"
            )
        times = self._parse(data["times"], (*place, "repeat", "times"), _joined(name, "repeat.times"), in_list=False)
        step = self._parse(data["step"], (*place, "repeat", "step"), name, in_list=True)
        if not isinstance(times, _Filled | _Fixed) or (least_most := _counts(times)) is None or least_most[0] < 0:
            raise self._document.error(
                (*place, "repeat", "times"),
                "`times` must be a whole number, {int: [1, 3]} or a choice of whole numbers",
            )
        return _Repeat(times if isinstance(times, _Filled) else cast(int, times.value), step)

    def _first(self, data: dict[str, Json], place: Place, name: str) -> _Part:
        listed = data["of"]
        if not isinstance(listed, list) or not listed:
            raise self._document.error(
                (*place, "of"), "`of` must be a list, such as {first: {int: [1, 2]}, of: [a, b]}"
            )
        count = self._parse(data["first"], (*place, "first"), _joined(name, "first"), in_list=False)
        least_most = _counts(count) if isinstance(count, _Filled | _Fixed) else None
        if not isinstance(count, _Filled | _Fixed) or least_most is None:
            raise self._document.error(
                (*place, "first"), "`first` must be a whole number, {int: [1, 3]} or a choice of whole numbers"
            )
        if least_most[0] < 0 or least_most[1] > len(listed):
            wrong = least_most[0] if least_most[0] < 0 else least_most[1]
            message = f"`first` may be {wrong}; it must be from 0 to {len(listed)}, the length of `of`"
            raise self._document.error((*place, "first"), message)
        items = tuple(
            self._parse(item, (*place, "of", position), _joined(name, str(position)), in_list=False)
            for position, item in enumerate(listed)
        )
        return _First(count if isinstance(count, _Filled) else cast(int, count.value), items)

    def _steps(self, data: dict[str, Json], place: Place, name: str) -> _Part:
        listed = data["steps"]
        if not isinstance(listed, list):
            raise self._document.error((*place, "steps"), f"`steps` among steps must be a list, not `{listed}`")
        steps = _Steps(
            tuple(
                self._parse(item, (*place, "steps", position), f"{name}.steps.{position}", in_list=True)
                for position, item in enumerate(listed)
            )
        )
        if "given" in data:
            text = data["given"]
            if not isinstance(text, str):
                message = f"`given` must be a rule such as `steps.0.sample.n > 1`, not `{text}`"
                raise self._document.error((*place, "given"), message)
            self._conditions.append((steps, text, (*place, "given")))
        return steps

    def _given(self, text: str, place: Place) -> _Given:
        where = str(self._document.error(place, "").where)
        rule = parse_rule(text, self.fixed, frozenset(self._holes), where)
        return _Given(rule, tuple(hole for name, hole in self._holes.items() if name in rule.names))

    def _int(self, data: dict[str, Json], place: Place, default: str) -> IntRange:
        low, high, log = self._bounds(data, "int", place)
        step = data.get("step", 1)
        if not (_whole(low) and _whole(high)):
            raise self._document.error((*place, "int"), f"the bounds must be whole numbers, not {data['int']}")
        if not _whole(step) or cast(int, step) < 1 or (log and step != 1):
            raise self._document.error(
                (*place, "step"), f"the step is {step}; it must be a whole number from 1, and 1 with `log`"
            )
        hole = IntRange(self._name(data, place, default), int(low), int(high), int(cast(int, step)), log)
        # The last step that fits is the real upper bound: Optuna wants the two to agree.
        return replace(hole, high=hole.low + (hole.high - hole.low) // hole.step * hole.step)

    def _float(self, data: dict[str, Json], place: Place, default: str) -> FloatRange:
        low, high, log = self._bounds(data, "float", place)
        step = data.get("step")
        if step is not None and (not _real(step) or cast(float, step) <= 0 or log):
            raise self._document.error(
                (*place, "step"), f"the step is {step}; it must be above 0, and absent with `log`"
            )
        if step is not None:
            high = low + int((high - low) / cast(float, step) + 1e-9) * cast(float, step)
        return FloatRange(
            self._name(data, place, default),
            float(low),
            round(float(high), 12),
            None if step is None else float(cast(float, step)),
            log,
        )

    def _bounds(self, data: dict[str, Json], key: str, place: Place) -> tuple[float, float, bool]:
        bounds, log = data[key], data.get("log", False)
        if not (isinstance(bounds, list) and len(bounds) == 2 and all(_real(bound) for bound in bounds)):
            raise self._document.error(
                (*place, key), f"`{key}` takes two bounds, such as {{{key}: [1, 16]}}, not {bounds}"
            )
        low, high = cast("list[float]", bounds)
        if low > high:
            raise self._document.error(
                (*place, key), f"the bounds are {low:g} and {high:g}; the first must not be larger"
            )
        if not isinstance(log, bool):
            raise self._document.error((*place, "log"), f"`log` is {log}; it must be true or false")
        if log and low <= 0:
            raise self._document.error((*place, key), f"the lower bound is {low:g}; with `log` it must be above 0")
        return low, high, log


def assignments(
    template: Template,
    given: Mapping[str, Scalar] | None = None,
    options: Callable[[Hole], Sequence[Scalar]] = lambda hole: hole.all() or (),
) -> Iterator[Values]:
    """Every way to fill the holes, each once, in order.

    Args:
        template: Where the holes are.
        given: Holes that are decided already; one that is not asked is left out.
        options: The values that a hole may take here; those of `all` unless something else is said.
    """

    class _Open(Exception):
        def __init__(self, hole: Hole) -> None:
            self.hole = hole

    def below(decided: Mapping[str, Scalar]) -> Iterator[Values]:
        def decide(hole: Hole) -> Scalar:
            if hole.name not in decided:
                raise _Open(hole)
            return decided[hole.name]

        try:
            values = template.ask(decide)
        except _Open as open_:
            for value in options(open_.hole):
                yield from below({**decided, open_.hole.name: value})
        else:
            yield values

    yield from below(given or {})


def _once(decide: Decide, values: Values) -> Decide:
    """Decides each hole once and writes it down."""

    def once(hole: Hole) -> Scalar:
        if hole.name not in values:
            values[hole.name] = decide(hole)
        return values[hole.name]

    return once


def _fill(part: _Part, decide: Decide) -> Json | _Absent:
    if isinstance(part, _Absent):
        return part
    if isinstance(part, _Fixed):
        return part.value
    if isinstance(part, _Filled):
        return decide(part.hole)
    if isinstance(part, _Branch):
        return _fill(part.branches[part.hole.options.index(decide(part.hole))], decide)
    if isinstance(part, _Mapping):
        pairs = [(key, _fill(value, decide)) for key, value in part.items]
        return {key: value for key, value in pairs if not isinstance(value, _Absent)}
    if isinstance(part, _List):
        return _together(part.items, decide)
    if isinstance(part, _First):
        return _together(part.items[: _number(part.count, decide)], decide)
    raise AssertionError("a repeat and steps stand in a list")


def _together(items: Sequence[_Part], decide: Decide) -> list[Json]:
    """A list of what its items stand for."""
    return [value for item in items for value in _expanded(item, decide) if not isinstance(value, _Absent)]


def _expanded(item: _Part, decide: Decide) -> list[Json | _Absent]:
    """What an item of a list stands for: itself, or several, whatever choice leads there."""
    if isinstance(item, _Branch):
        return _expanded(item.branches[item.hole.options.index(decide(item.hole))], decide)
    if isinstance(item, _Steps):
        if item.given is not None and not item.given.rule.holds({hole.name: decide(hole) for hole in item.given.holes}):
            return []
        return [value for one in item.items for value in _expanded(one, decide)]
    if isinstance(item, _Repeat):
        return [value for _ in range(_number(item.times, decide)) for value in _expanded(item.step, decide)]
    return [_fill(item, decide)]


def _number(count: _Filled | int, decide: Decide) -> int:
    return count if isinstance(count, int) else cast(int, decide(count.hole))


def _counts(part: _Filled | _Fixed) -> tuple[int, int] | None:
    """The least and the most that a count may be; None where it is not always a whole number."""
    values = [part.value] if isinstance(part, _Fixed) else part.hole.all() or [None]
    whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return (min(whole), max(whole)) if len(whole) == len(values) else None


def _skeleton(part: _Part) -> _Part | None:
    """The part without all that asks for no hole; None where nothing is left. It asks for the same holes, in order."""
    nothing = _Fixed(None)
    if isinstance(part, _Filled):
        return part
    if isinstance(part, _Branch):
        return _Branch(part.hole, tuple(_skeleton(branch) or nothing for branch in part.branches))
    if isinstance(part, _Repeat):
        step = _skeleton(part.step)
        return _Repeat(part.times, step or nothing) if step or isinstance(part.times, _Filled) else None
    if isinstance(part, _First):
        # Which are there goes by position, so none may be left out.
        kept = tuple(_skeleton(item) for item in part.items)
        if not any(kept) and isinstance(part.count, int):
            return None
        return _First(part.count, tuple(item or nothing for item in kept) if any(kept) else ())
    if isinstance(part, _Mapping | _List | _Steps):
        items = [value for _, value in part.items] if isinstance(part, _Mapping) else list(part.items)
        left: list[_Part] = []
        for found in map(_skeleton, items):
            if found is not None:
                # The order of the questions is all that counts, so lists within lists need not stay.
                left.extend(found.items if isinstance(found, _List) else [found])
        if isinstance(part, _Steps) and part.given:
            return _Steps(tuple(left), part.given)
        return _List(tuple(left)) if left else None
    return None


def _folded(part: _Part) -> _Part:
    """The part with all that asks for no hole made into plain data, once and for all points."""
    if isinstance(part, _Branch):
        return _Branch(part.hole, tuple(map(_folded, part.branches)))
    if isinstance(part, _Repeat):
        return _Repeat(part.times, _folded(part.step))
    if isinstance(part, _First):
        return _First(part.count, tuple(map(_folded, part.items)))
    if isinstance(part, _Steps):
        return _Steps(tuple(map(_folded, part.items)), part.given)
    if isinstance(part, _Mapping):
        pairs = tuple((key, _folded(value)) for key, value in part.items)
        fixed = {key: value.value for key, value in pairs if isinstance(value, _Fixed)}
        return _Fixed(cast(Json, fixed)) if len(fixed) == len(pairs) else _Mapping(pairs)
    if isinstance(part, _List):
        items = tuple(map(_folded, part.items))
        values = [value.value for value in items if isinstance(value, _Fixed)]
        return _Fixed(cast(Json, values)) if len(values) == len(items) else _List(items)
    return part


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
