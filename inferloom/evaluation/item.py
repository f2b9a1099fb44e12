"""The item: one question of a data set with all that is needed to ask and to grade it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from inferloom.core.digest import digest
from inferloom.core.types import Json

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/^=<>#@&%$~|](?=\s*\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a data set."""

    id: str
    question: str
    answer: str
    """The right answer; empty where the grader needs none."""
    meta: Mapping[str, Json] = field(default_factory=dict)
    """Every other field of the row, for graders and reports."""
    notes: tuple[str, ...] = ()
    """What a pipeline is told before the question."""
    examples: tuple[tuple[str, str], ...] = ()
    """Solved examples (question, answer text), shown as earlier turns."""

    @property
    def group(self) -> str:
        """The hash under which items that ask the same thing stay together in a split."""
        return digest(normalise_question(self.question), 8)


def normalise_question(question: str) -> str:
    """The form under which two questions count as the same: case, spacing and punctuation are folded, numbers kept.

    A sign in front of a number (`3*4`, `-5`) is kept too; folding too much would only put more items in one group.
    """
    text = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(_TOKEN.findall(text)) or " ".join(text.split())
