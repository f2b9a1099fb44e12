"""Counting a letter in a string and writing a string backwards, a few letters a line."""

from __future__ import annotations

from random import Random

from inferloom.models.pocket.tasks.base import Family, Item

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _chunks(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


class Count(Family):
    """Count one letter, with a running total after every five letters."""

    name = "count"
    levels = 6
    _length = {1: 8, 2: 13, 3: 18, 4: 24, 5: 32, 6: 42}

    def make(self, rng: Random, level: int) -> Item:
        alphabet = rng.sample(_LETTERS, rng.randint(4, 7))
        length = self._length[level] + rng.randint(-2, 2)
        text = "".join(rng.choices(alphabet, k=length))
        letter = alphabet[0]
        steps: list[str] = []
        total = 0
        for chunk in _chunks(text, 5):
            total += chunk.count(letter)
            steps.append(f"{chunk}:{total}")
        return Item(
            family=self.name, level=level, question=f"count {letter} in {text}", steps=tuple(steps), answer=str(total)
        )


class Reverse(Family):
    """Write a string backwards: turn every four letters round, then put the pieces together from the end."""

    name = "reverse"
    levels = 6
    _length = {1: 6, 2: 9, 3: 13, 4: 17, 5: 22, 6: 28}

    def make(self, rng: Random, level: int) -> Item:
        length = self._length[level] + rng.randint(-1, 1)
        text = "".join(rng.choices(_LETTERS, k=length))
        steps = [f"{chunk}:{chunk[::-1]}" for chunk in _chunks(text, 4)]
        return Item(family=self.name, level=level, question=f"reverse {text}", steps=tuple(steps), answer=text[::-1])
