"""The pocket families' own exact graders: some questions have many right answers."""

from __future__ import annotations

from inferloom.core.errors import nearest
from inferloom.evaluation.graders.base import Grader, register_grader
from inferloom.evaluation.item import Item
from inferloom.models.pocket.tasks import FAMILIES
from inferloom.models.pocket.tasks import Item as PocketItem


@register_grader("pocket")
class Pocket(Grader):
    """1 where the item's task family (`family` in its fields) says that the answer is right."""

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        family = str(item.meta.get("family", ""))
        if family in FAMILIES:
            return None
        near = nearest(family, FAMILIES)
        hint = f"; did you mean `{near}`?" if near else f"; must be one of {', '.join(FAMILIES)}"
        return f"`family` is `{family}`, which the grader `pocket` does not know{hint}"

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        family = FAMILIES.get(str(item.meta.get("family", "")))
        if family is None or answer is None:
            return 0.0
        level = item.meta.get("level")
        asked = PocketItem(
            family=family.name,
            level=level if isinstance(level, int) else 1,
            question=item.question,
            steps=(),
            answer=item.answer,
            notes=item.notes,
        )
        return float(family.is_right(asked, answer))
