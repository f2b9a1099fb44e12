"""Families with a private convention that only notes explain; memory and few-shot prompting are measured on them.

A convention belongs to a *world*: the same world number always means the same conventions, so a stream of items of one
world can be learned, and items of different worlds cannot be answered from habit.
"""

from __future__ import annotations

import re
from random import Random

from inferloom.models.pocket.tasks.base import Family, Item

SYMBOLS = "#@&%$~^!"
_WORLDS = 1_000_000


def _rule(world: int, symbol: str) -> tuple[str, int]:
    """The form and the constant of an operator in a world."""
    rng = Random(f"operator {world} {symbol}")
    return rng.choice(("ka+b", "ka-b", "a+kb", "a+b+k", "a-b+k")), rng.randint(2, 9)


class Operator(Family):
    """Evaluate a made-up operator from left to right."""

    name = "operator"
    levels = 4
    needs_notes = True

    def make(self, rng: Random, level: int, world: int | None = None) -> Item:
        world = rng.randrange(_WORLDS) if world is None else world
        symbol = rng.choice(SYMBOLS)
        return self._item(rng, level, symbol, *_rule(world, symbol))

    def like(self, rng: Random, item: Item, level: int) -> Item:
        """Another item with the operator of `item`."""
        note = item.notes[0]
        form = re.sub(r"[0-9]+[*]?", "k", note[4:])
        return self._item(rng, level, note[1], form, int("".join(filter(str.isdigit, note))))

    def _item(self, rng: Random, level: int, symbol: str, form: str, constant: int) -> Item:
        values = [rng.randint(2, 9 if level < 3 else 30) for _ in range((2, 3, 3, 4)[level - 1])]
        steps: list[str] = []
        total = values[0]
        for term in values[1:]:
            lines, total = _operate(form, constant, total, term)
            steps.extend(lines)
        note = f"a{symbol}b=" + form.replace("k", f"{constant}*" if form in ("ka+b", "ka-b", "a+kb") else str(constant))
        question = symbol.join(map(str, values)) + "=?"
        return Item(
            family=self.name, level=level, question=question, steps=tuple(steps), answer=str(total), notes=(note,)
        )


def _operate(form: str, constant: int, left: int, right: int) -> tuple[list[str], int]:
    """The steps and the value of one application."""
    if form in ("ka+b", "ka-b"):
        scaled = constant * left
        result = scaled + right if form == "ka+b" else scaled - right
        return [f"{constant}*{left}={scaled}", f"{scaled}{form[2]}{right}={result}"], result
    if form == "a+kb":
        scaled = constant * right
        return [f"{constant}*{right}={scaled}", f"{left}+{scaled}={left + scaled}"], left + scaled
    middle = left + right if form == "a+b+k" else left - right
    return [f"{left}{form[1]}{right}={middle}", f"{middle}+{constant}={middle + constant}"], middle + constant


def _word(world: int, index: int) -> tuple[str, int]:
    """The index-th code word of a world and its value."""
    rng = Random(f"code {world} {index}")
    word = rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice("bdfgklmnprstvz")
    return word, rng.randint(2, 99)


class Code(Family):
    """Add numbers that are written as made-up words."""

    name = "code"
    levels = 4
    needs_notes = True
    words_per_world = 8

    def make(self, rng: Random, level: int, world: int | None = None) -> Item:
        world = rng.randrange(_WORLDS) if world is None else world
        known = dict(_word(world, index) for index in range(self.words_per_world))
        return self._item(rng.sample(sorted(known), min(level + 1, len(known))), level, known)

    def showing(self, rng: Random, item: Item) -> list[Item]:
        """Easier items that between them use every word of `item`."""
        known = {note.split("=")[0]: int(note.split("=")[1]) for note in item.notes}
        words = rng.sample(sorted(known), len(known))
        pairs = [words[start : start + 2] for start in range(0, len(words), 2)]
        return [self._item(pair if len(pair) == 2 else [*pair, words[0]], 1, known) for pair in pairs]

    def _item(self, words: list[str], level: int, known: dict[str, int]) -> Item:
        steps = [f"{word}={known[word]}" for word in words]
        total = known[words[0]]
        for word in words[1:]:
            steps.append(f"{total}+{known[word]}={total + known[word]}")
            total += known[word]
        return Item(
            family=self.name,
            level=level,
            question="+".join(words) + "=?",
            steps=tuple(steps),
            answer=str(total),
            notes=tuple(f"{word}={known[word]}" for word in words),
        )
