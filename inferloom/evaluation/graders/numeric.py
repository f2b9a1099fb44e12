"""The answer is the right number, within a tolerance."""

from __future__ import annotations

import re
from fractions import Fraction

from pydantic import Field

from inferloom.core.answers import parse_number
from inferloom.evaluation.graders.base import Grader, GraderParams, register_grader
from inferloom.evaluation.item import Item

_LONGEST = 400
_INSIDE = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?(?:[eE][-+]?\d{1,3})?(?![\w])")


class NumericParams(GraderParams):
    """How far from the right number an answer may be; the wider of the two counts."""

    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False, description="largest absolute difference")
    relative: float = Field(0.0, ge=0, allow_inf_nan=False, description="largest difference as a share of the answer")


@register_grader("numeric")
class Numeric(Grader):
    """1 where the answer is, or holds as its only number, the item's number."""

    Params = NumericParams
    params: NumericParams

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        if parse_number(item.answer) is None:
            return f"the answer `{item.answer[:60]}` is not a number, which the grader `numeric` needs"
        return None

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        right, given = parse_number(item.answer), _number_in(answer or "")
        if right is None or given is None:
            return 0.0
        room = max(Fraction(self.params.tolerance), Fraction(self.params.relative) * abs(right))
        return float(abs(given - right) <= room)


def _number_in(answer: str) -> Fraction | None:
    """The number that a short answer is or holds ("42 apples"); None where there are several different ones."""
    whole = parse_number(answer)
    if whole is not None or len(answer) > _LONGEST:
        return whole
    found = {parse_number(number) for number in _INSIDE.findall(answer)}
    return found.pop() if len(found) == 1 else None
