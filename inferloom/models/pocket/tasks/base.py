"""What a pocket task is: a question, its right steps, its answer, and exact judgement of any attempt.

A family makes items from a random generator and a level (the difficulty knob, from 1 up), and judges attempts. It knows
nothing of models, prompts or tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

ANSWER_MARK = "A: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question with everything needed to judge an answer to it."""

    family: str
    level: int
    question: str
    steps: tuple[str, ...]
    """One right way to write the steps, a line each, without the answer line."""
    answer: str
    notes: tuple[str, ...] = ()
    """What a reader must be told first; empty for families that explain themselves."""

    @property
    def solution(self) -> str:
        """The right steps and the answer line, as the models are taught to write them."""
        return "\n".join((*self.steps, ANSWER_MARK + self.answer))


class Family(ABC):
    """Makes and judges the items of one kind."""

    name: str
    levels: int
    """How many levels of difficulty there are; level 1 is the easiest."""
    needs_notes: bool = False
    one_way: bool = True
    """Whether there is one right way to write a solution, so that its first other character is the mistake."""

    @abstractmethod
    def make(self, rng: Random, level: int) -> Item:
        """Draw an item of `level` (1 to `levels`)."""

    def is_right(self, item: Item, answer: str) -> bool:
        """Whether `answer` (the text after the answer mark) is right."""
        return answer.strip() == item.answer

    def step_verdicts(self, item: Item, lines: Sequence[str]) -> list[bool]:
        """Judge a solution line by line: entry i says whether lines 0 to i are all right so far."""
        expected = item.solution.split("\n")
        verdicts: list[bool] = []
        fine = True
        for index, line in enumerate(lines):
            fine = fine and index < len(expected) and line == expected[index]
            verdicts.append(fine)
        return verdicts


def final_answer(text: str) -> str | None:
    """The text after the last answer mark, or None where there is none."""
    for line in reversed(text.split("\n")):
        if line.startswith(ANSWER_MARK):
            return line[len(ANSWER_MARK) :].strip()
    return None


def number(rng: Random, digits: int) -> int:
    """A whole number of exactly `digits` digits; one-digit numbers start at 2."""
    return rng.randint(2 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)
