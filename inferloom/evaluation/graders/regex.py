"""The answer, or the text, matches a regular expression."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from inferloom.evaluation.graders.base import Grader, GraderParams, register_grader
from inferloom.evaluation.item import Item


class RegexParams(GraderParams):
    """The expression, and what it is looked for in."""

    pattern: str | None = Field(None, description="one expression for all items; without it each item's answer is one")
    field: Literal["answer", "text"] = Field("answer", description="`answer` must match whole, `text` anywhere")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        problem = None if pattern is None else _problem(pattern)
        if problem:
            raise ValueError(problem)
        return pattern


@register_grader("regex")
class Regex(Grader):
    """1 where the expression matches. Write expressions that do not backtrack without end: no time limit is set."""

    Params = RegexParams
    params: RegexParams

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        return _problem(self.params.pattern or item.answer)

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        expression = _compiled(self.params.pattern or item.answer)
        if self.params.field == "text":
            return float(expression.search(text) is not None)
        return float(answer is not None and expression.fullmatch(answer.strip()) is not None)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _problem(pattern: str) -> str | None:
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"`{pattern[:60]}` is not a regular expression: {error}"
    return None
