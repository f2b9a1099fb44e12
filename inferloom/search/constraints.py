"""The language of `rules:` in a space: comparisons over hole names, numbers and texts, with `+ - *` and `and or not`.

    steps.0.sample.n * 2 <= 16
    steps.1.optional or steps.0.sample.model == "large"

A rule that names a hole which a point does not ask (it stands in an absent optional step) holds for that point.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from inferloom.core.errors import SpecError, UnknownNameError

Scalar: TypeAlias = "bool | int | float | str | None"

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    r"|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<name>[A-Za-z_][\w\[\]]*(?:\.[\w\[\]]+)*)"
    r"|(?P<sign><=|>=|==|!=|<|>|\+|-|\*|\(|\)))"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None}
_KEYWORDS = {"and", "or", "not"}
_Expression: TypeAlias = Callable[[Mapping[str, Scalar]], Scalar]


class _NotAskedError(Exception):
    """A hole of the rule is not asked in this point."""


@dataclass(frozen=True)
class Rule:
    """One constraint; `text` is what the user wrote."""

    text: str
    where: str
    names: frozenset[str]
    _holds: _Expression

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Whether a point keeps the rule.

        Raises:
            SpecError: The rule compares or multiplies what cannot be, such as a text with a number.
        """
        try:
            return bool(self._holds(values))
        except _NotAskedError:
            return True
        except TypeError as error:
            raise SpecError(f"rule `{self.text}` cannot be worked out: {error}", where=self.where) from error


def parse_rule(text: str, known: Mapping[str, Scalar], holes: frozenset[str], where: str) -> Rule:
    """Read one rule.

    Args:
        text: The rule.
        known: Fixed values of the template by path; a rule may name these too.
        holes: The names of the holes.
        where: `file:line: field` of the rule, for errors.

    Raises:
        SpecError: The text is no rule.
        UnknownNameError: It names no hole and no fixed value.
    """
    parser = _Parser(text, known, holes, where)
    expression = parser.either()
    parser.end()
    return Rule(text, where, frozenset(parser.names), expression)


class _Parser:
    """Recursive descent; each method reads one level of precedence, loosest first."""

    def __init__(self, text: str, known: Mapping[str, Scalar], holes: frozenset[str], where: str) -> None:
        self.text, self.known, self.holes, self.where = text, known, holes, where
        self.names: set[str] = set()
        self.tokens = list(self._split())
        self.position = 0

    def _split(self) -> Iterator[tuple[str, str]]:
        position = 0
        while self.text[position:].strip():
            match = _TOKEN.match(self.text, position)
            if match is None or match.lastgroup is None:
                raise self._error(f"cannot read `{self.text[position:].strip()}`")
            yield match.lastgroup, match[match.lastgroup]
            position = match.end()

    def _error(self, what: str) -> SpecError:
        return SpecError(
            f"rule `{self.text}`: {what}; a rule is a comparison such as `steps.0.sample.n * 2 <= 16`", where=self.where
        )

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "the end")

    def _take(self, *wanted: str) -> str | None:
        word = self._next()
        if word[0] in ("sign", "name") and word[1] in wanted:
            self.position += 1
            return word[1]
        return None

    def end(self) -> None:
        if self.position < len(self.tokens):
            raise self._error(f"unexpected `{self._next()[1]}`")

    def either(self) -> _Expression:
        left = self._both()
        while self._take("or"):
            left = _or(left, self._both())
        return left

    def _both(self) -> _Expression:
        left = self._negated()
        while self._take("and"):
            left = _and(left, self._negated())
        return left

    def _negated(self) -> _Expression:
        if self._take("not"):
            inner = self._negated()
            return lambda values: not inner(values)
        return self._comparison()

    def _comparison(self) -> _Expression:
        left = self._sum()
        sign = self._take("<=", ">=", "==", "!=", "<", ">")
        if sign is None:
            return left
        return _compared(sign, left, self._sum())

    def _sum(self) -> _Expression:
        left = self._product()
        while sign := self._take("+", "-"):
            left = _arithmetic(operator.add if sign == "+" else operator.sub, left, self._product())
        return left

    def _product(self) -> _Expression:
        left = self._atom()
        while self._take("*"):
            left = _arithmetic(operator.mul, left, self._atom())
        return left

    def _atom(self) -> _Expression:
        if self._take("("):
            inner = self.either()
            if not self._take(")"):
                raise self._error(f"`)` expected before `{self._next()[1]}`")
            return inner
        if self._take("-"):
            return _arithmetic(operator.sub, _constant(0), self._atom())
        kind, word = self._next()
        self.position += 1
        if kind == "number":
            return _constant(float(word) if re.search(r"[.eE]", word) else int(word))
        if kind == "text":
            return _constant(word[1:-1])
        if kind != "name" or word in _KEYWORDS:
            raise self._error(f"a value expected before `{word}`")
        return self._named(word)

    def _named(self, word: str) -> _Expression:
        if word in _WORDS:
            return _constant(_WORDS[word])
        if word in self.holes:
            self.names.add(word)
            return _hole(word)
        if word in self.known:
            return _constant(self.known[word])
        raise UnknownNameError("hole", word, self.holes | set(self.known), where=self.where)


def _constant(value: Scalar) -> _Expression:
    return lambda values: value


def _hole(name: str) -> _Expression:
    def read(values: Mapping[str, Scalar]) -> Scalar:
        if name not in values:
            raise _NotAskedError
        return values[name]

    return read


def _or(left: _Expression, right: _Expression) -> _Expression:
    return lambda values: bool(left(values)) or bool(right(values))


def _and(left: _Expression, right: _Expression) -> _Expression:
    return lambda values: bool(left(values)) and bool(right(values))


def _arithmetic(work: Callable[[float, float], float], left: _Expression, right: _Expression) -> _Expression:
    return lambda values: work(_number(left(values)), _number(right(values)))


def _compared(sign: str, left: _Expression, right: _Expression) -> _Expression:
    if sign == "==":
        return lambda values: left(values) == right(values)
    if sign == "!=":
        return lambda values: left(values) != right(values)
    compare = _COMPARE[sign]
    return lambda values: compare(_number(left(values)), _number(right(values)))


def _number(value: Scalar) -> float:
    if isinstance(value, int | float):
        return value
    raise TypeError(f"`{value}` is not a number")
