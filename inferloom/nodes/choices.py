"""The options of a multiple-choice question: found in its text, put into another order, recognised in an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from inferloom.core.answers import normalise
from inferloom.nodes.common import LETTERS

_LINES = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(?=\S)", re.MULTILINE)
_INLINE = re.compile(r"(?<!\S)\(?([A-Z])\)[ \t]+(?=\S)")
_TO_OTHERS = re.compile(r"\b([A-Z])\b\)?\s*(?:,|&|and|or|nor)\s*\(?\b([A-Z])\b")
_LAST_BY_MEANING = re.compile(
    r"\b(?:all|none|both|neither|either|any|some|two)\s+of\s+(?:the\s+above|these|them)\b", re.I
)
_NAMED = re.compile(r"(?:(?:option|choice|answer)\s+)?[(\[]?([A-Z])(?:[)\].:]|\Z)", re.IGNORECASE)
_DRESSED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Choices:
    """A question taken apart: what stands before, between and after its options, and the options."""

    marks: tuple[str, ...]
    """What stands before each option, its letter included."""
    options: tuple[str, ...]
    gaps: tuple[str, ...]
    """What stands after each option and before the next."""
    tail: str

    @property
    def movable(self) -> tuple[int, ...]:
        """The options that may change places: all but those such as "none of the above"."""
        return tuple(index for index, option in enumerate(self.options) if not _LAST_BY_MEANING.search(option))

    def in_order(self, order: Sequence[int]) -> str:
        """The question with `options[order[0]]` as its A, and so on."""
        parts = [
            mark + self.options[index] + gap for mark, index, gap in zip(self.marks, order, self.gaps, strict=True)
        ]
        return "".join(parts) + self.tail

    def orders(self, count: int, rng: Random) -> list[tuple[int, ...]]:
        """Random orders, different ones as long as there are any."""
        movable = self.movable
        different = math.factorial(len(movable))
        seen: set[tuple[int, ...]] = set()
        found: list[tuple[int, ...]] = []
        while len(found) < count:
            if len(seen) == different:
                seen.clear()
            places = dict(zip(movable, rng.sample(movable, len(movable)), strict=True))
            order = tuple(places.get(index, index) for index in range(len(self.options)))
            if order not in seen:
                seen.add(order)
                found.append(order)
        return found


def parse_choices(question: str) -> Choices | None:
    """The options A, B, ... of a question, one a line (`A) ...`, `(A) ...`, `A. ...`, `A: ...`) or in a row (`A) ...`).

    None where there are no two that can change places, or one speaks of others by letter ("A and C").
    """
    for pattern in (_LINES, _INLINE):
        run = _last_run(list(pattern.finditer(question)))
        if len(run) >= 2:
            choices = _split(question, run, a_line_each=pattern is _LINES)
            letters = set(LETTERS[: len(run)])
            pairs = [pair for option in choices.options for pair in _TO_OTHERS.findall(option)]
            return (
                choices if len(choices.movable) >= 2 and not any(letters.issuperset(pair) for pair in pairs) else None
            )
    return None


def _last_run(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """The last stretch of marks A, B, C, ... of at least two."""
    best: list[re.Match[str]] = []
    run: list[re.Match[str]] = []
    for mark in marks:
        if len(run) < len(LETTERS) and mark[1] == LETTERS[len(run)]:
            run.append(mark)
        else:
            run = [mark] if mark[1] == "A" else []
        if len(run) >= 2:
            best = run
    return best


def _split(question: str, run: list[re.Match[str]], *, a_line_each: bool) -> Choices:
    starts = [mark.end() for mark in run]
    texts = [question[start : mark.start()] for start, mark in zip(starts, run[1:], strict=False)]
    rest = question[starts[-1] :]
    # The last option is as long as the others: a line, or up to an empty one where any of them has several.
    several = a_line_each and any("\n" in text.strip() for text in texts)
    end = re.search(r"\n[ \t]*\n" if several else r"\n", rest)
    last = rest[: end.start()] if end else rest
    texts.append(last)
    options = [text.rstrip(" \t\r\n" if a_line_each else " \t\r\n,;") for text in texts]
    gaps = [text[len(option) :] for text, option in zip(texts, options, strict=True)]
    marks = [question[: starts[0]], *(mark[0] for mark in run[1:])]
    return Choices(tuple(marks), tuple(options), tuple(gaps), rest[len(last) :])


def picked(answer: str, options: Sequence[str]) -> int | None:
    """Which option an answer names, by its text or its letter; None where it names none."""
    bare = _DRESSED.sub(r"\1", answer[:_LONGEST]).strip().strip("*_`$ ")
    wanted = normalise(bare)
    for index, option in enumerate(options):
        if wanted and normalise(option) == wanted:
            return index
    named = _NAMED.match(bare)
    index = LETTERS.index(named[1].upper()) if named else len(options)
    return index if index < len(options) else None
