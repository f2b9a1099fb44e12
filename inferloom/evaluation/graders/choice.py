"""The answer picks the right option, by its letter or by its text."""

from __future__ import annotations

import re

from inferloom.core.answers import normalise
from inferloom.evaluation.graders.base import Grader, register_grader
from inferloom.evaluation.item import Item

_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]?")
_LEAD = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?([A-Z])[).:](?:\s+|$)", re.IGNORECASE)
_LONGEST = 2000


@register_grader("choice")
class Choice(Grader):
    """1 where the answer is the right option's letter or its text.

    The options are the item's `options` (a list, or one text with the options parted by `|`), else the lines `A) ...`
    or `A. ...` of its question. The item's own answer may be a letter or an option's text.
    """

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        options = _options(item)
        if _picked(item.answer, options) is None:
            shown = ", ".join(options) if options else "none"
            return f"the answer `{item.answer[:60]}` is neither the letter nor the text of an option ({shown[:80]})"
        return None

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        options = _options(item)
        right = _picked(item.answer, options)
        return float(right is not None and right == _picked((answer or "")[:_LONGEST], options))


def _options(item: Item) -> dict[str, str]:
    """Letter to text, in order."""
    given = item.meta.get("options")
    if isinstance(given, str) and given.strip():
        given = list(given.split("|"))
    if isinstance(given, list) and given:
        return {chr(ord("A") + index): str(option).strip() for index, option in enumerate(given[:26])}
    return dict(_OPTION.findall(item.question))


def _picked(answer: str, options: dict[str, str]) -> str | None:
    """The letter of the option that an answer names; an option's own text comes before a letter."""
    wanted = normalise(answer)
    if not wanted:
        return None
    for letter, option in options.items():
        if normalise(option) == wanted:
            return letter
    bare = answer.strip().strip("*_`$ ")
    match = _LETTER.fullmatch(bare) or _LEAD.match(bare)
    if match is None:
        return None
    letter = match[1].upper()
    return letter if not options or letter in options else None
