"""The right answer stands somewhere in the text."""

from __future__ import annotations

import re

from inferloom.evaluation.graders.base import Grader, register_grader
from inferloom.evaluation.item import Item


@register_grader("contains")
class Contains(Grader):
    """1 where the text holds the item's answer as whole words, case and spacing aside.

    Lenient: one right guess among many counts.
    """

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        wanted = _folded(item.answer)
        if not wanted:
            return 0.0
        # Whole words and whole numbers only: `3` is neither in `13` nor in `3.5`.
        pattern = rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w)(?![.,]\d)"
        return float(re.search(pattern, _folded(text or answer or "")) is not None)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
