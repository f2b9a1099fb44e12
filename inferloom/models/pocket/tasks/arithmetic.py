"""Chained sums and long multiplication."""

from __future__ import annotations

from random import Random

from inferloom.models.pocket.tasks.base import Family, Item, number


class Sum(Family):
    """Add a chain of numbers, one running total a line."""

    name = "sum"
    levels = 6
    _shape = {1: (2, 2), 2: (3, 2), 3: (4, 2), 4: (4, 3), 5: (6, 3), 6: (7, 4)}

    def make(self, rng: Random, level: int) -> Item:
        terms, digits = self._shape[level]
        numbers = [number(rng, digits) for _ in range(terms)]
        steps: list[str] = []
        total = numbers[0]
        for term in numbers[1:]:
            steps.append(f"{total}+{term}={total + term}")
            total += term
        question = "+".join(map(str, numbers)) + "=?"
        return Item(family=self.name, level=level, question=question, steps=tuple(steps), answer=str(total))


class Multiply(Family):
    """Multiply two numbers by partial products."""

    name = "multiply"
    levels = 6
    _shape = {1: (2, 1), 2: (3, 1), 3: (2, 2), 4: (3, 2), 5: (4, 2), 6: (4, 3)}

    def make(self, rng: Random, level: int) -> Item:
        left_digits, right_digits = self._shape[level]
        left, right = number(rng, left_digits), number(rng, right_digits)
        steps: list[str] = []
        parts = [int(d) * 10**p for p, d in enumerate(reversed(str(right))) if d != "0"]
        total = 0
        for index, part in enumerate(parts):
            steps.append(f"{left}*{part}={left * part}")
            if index:
                steps.append(f"{total}+{left * part}={total + left * part}")
            total += left * part
        return Item(
            family=self.name, level=level, question=f"{left}*{right}=?", steps=tuple(steps), answer=str(left * right)
        )
