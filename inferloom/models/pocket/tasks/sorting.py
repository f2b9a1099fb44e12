"""Sorting numbers by merging ever longer sorted runs."""

from __future__ import annotations

from random import Random

from inferloom.models.pocket.tasks.base import Family, Item, number


class Sort(Family):
    """Sort a list of numbers; every line holds the sorted runs so far, parted by bars."""

    name = "sort"
    levels = 6
    _shape = {1: (4, 2), 2: (5, 2), 3: (6, 2), 4: (8, 2), 5: (8, 3), 6: (11, 3)}

    def make(self, rng: Random, level: int) -> Item:
        count, digits = self._shape[level]
        numbers = [number(rng, digits) for _ in range(count)]
        runs = [[value] for value in numbers]
        steps: list[str] = []
        while len(runs) > 1:
            pairs = [runs[start : start + 2] for start in range(0, len(runs), 2)]
            runs = [sorted(value for run in pair for value in run) for pair in pairs]
            if len(runs) > 1:
                steps.append("|".join(" ".join(map(str, run)) for run in runs))
        question = "sort " + " ".join(map(str, numbers))
        return Item(
            family=self.name, level=level, question=question, steps=tuple(steps), answer=" ".join(map(str, runs[0]))
        )
