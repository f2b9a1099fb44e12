"""The answer is the right answer, give or take spacing, case and how a number is written."""

from __future__ import annotations

from inferloom.core.answers import same_answer
from inferloom.evaluation.graders.base import Grader, register_grader
from inferloom.evaluation.item import Item


@register_grader("exact")
class Exact(Grader):
    """1 where the answer equals the item's: numbers by value, other texts by case-folded words."""

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        return float(same_answer(answer, item.answer))
