"""Word problems of one to four steps."""

from __future__ import annotations

from random import Random

from inferloom.models.pocket.tasks.base import Family, Item

NAMES = ("Tom", "Ann", "Sam", "Mia", "Leo", "Eva")
THINGS = ("apples", "books", "coins", "pens", "cards", "eggs")


class Story(Family):
    """Somebody has things and gains, loses or multiplies them; how many are there in the end?"""

    name = "story"
    levels = 6
    _shape = {1: (1, 30), 2: (2, 30), 3: (2, 90), 4: (3, 90), 5: (4, 90), 6: (5, 400)}

    def make(self, rng: Random, level: int) -> Item:
        events, largest = self._shape[level]
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        total = rng.randint(5, largest)
        sentences = [f"{name} has {total} {thing}."]
        steps: list[str] = []
        for _ in range(events):
            sentence, lines, total = self._event(rng, total, largest)
            sentences.append(sentence)
            steps.extend(lines)
        sentences.append(f"How many {thing} now?")
        return Item(family=self.name, level=level, question=" ".join(sentences), steps=tuple(steps), answer=str(total))

    @staticmethod
    def _event(rng: Random, total: int, largest: int) -> tuple[str, list[str], int]:
        """One thing that happens: its sentence, its steps and the new total."""
        kind = rng.choice(("find", "buy", "give", "lose", "double", "packs"))
        if kind == "packs":
            packs, size = rng.randint(2, 9), rng.randint(2, 9)
            gain = packs * size
            lines = [f"{packs}*{size}={gain}", f"{total}+{gain}={total + gain}"]
            return f"Then buys {packs} packs of {size}.", lines, total + gain
        if kind == "double" and total <= largest * 2:
            factor = rng.randint(2, 4)
            return f"Then gets {factor} times as many.", [f"{total}*{factor}={total * factor}"], total * factor
        amount = rng.randint(2, largest)
        if kind in ("give", "lose") and total > 3:
            amount = rng.randint(2, min(largest, total - 1))
            verb = "gives away" if kind == "give" else "loses"
            return f"Then {verb} {amount}.", [f"{total}-{amount}={total - amount}"], total - amount
        verb = "finds" if kind == "find" else "buys"
        return f"Then {verb} {amount}.", [f"{total}+{amount}={total + amount}"], total + amount
