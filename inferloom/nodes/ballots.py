"""The votes of `generative_reward`: what each call graded, which votes count, and the scores that come of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from inferloom.core.errors import BudgetExceededError
from inferloom.nodes.common import LETTERS, order_by
from inferloom.nodes.grading import read_pairs

T = TypeVar("T")
TOP_GRADE = 10


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one call graded."""

    grades: dict[str, int]
    """From 1 to 10, by text."""
    trust: float | None = None
    """How far it can be trusted, in [0, 1]; None: nobody was asked."""
    refusal: BudgetExceededError | None = None
    """Why nobody could be asked."""


Vote = Sequence[Ballot | None]
"""One vote: a ballot per group of candidates, None where the budget refused it."""


def groups(items: Sequence[T], width: int) -> list[list[T]]:
    """Neighbours in groups of about equal size, none above `width`."""
    parts = math.ceil(len(items) / width)
    return [list(items[len(items) * at // parts : len(items) * (at + 1) // parts]) for at in range(parts)]


def read_scores(reply: str, count: int) -> dict[int, int]:
    """The grades that a reply gives, by position of the candidate shown."""
    pairs = read_pairs(reply, "scores", "[A-Z]")
    found = {LETTERS.index(letter.upper()): grade for letter, grade in pairs.items()}
    return {position: grade for position, grade in found.items() if position < count and 1 <= grade <= TOP_GRADE}


def most_trusted(votes: Sequence[Vote], keep: int) -> list[Vote]:
    """The `keep` votes with the highest mean trust, earlier ones first among equals, those not judged last."""
    trusts = [
        sum(-1.0 if ballot is None or ballot.trust is None else ballot.trust for ballot in vote) / len(vote)
        for vote in votes
    ]
    return [votes[position] for position in order_by(trusts)[:keep]]


def mean_grade(text: str, votes: Sequence[Vote]) -> float | None:
    """The mean of a text's grades, moved to [0, 1]; None where no vote graded it."""
    grades = [ballot.grades[text] for vote in votes for ballot in vote if ballot and text in ballot.grades]
    return (sum(grades) / len(grades) - 1) / (TOP_GRADE - 1) if grades else None
