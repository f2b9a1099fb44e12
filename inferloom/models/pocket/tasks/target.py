"""Make a target from given numbers: easy to check, hard to find."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from inferloom.models.pocket.tasks.base import ANSWER_MARK, Family, Item

_STEP = re.compile(r"(-?\d{1,6})([+*-])(\d{1,6})=(-?\d{1,9})\Z")
_EXPRESSION = re.compile(r"[0-9+*()-]{1,80}\Z")


def _apply(left: int, operator: str, right: int) -> int:
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


class Target(Family):
    """Use every number once, from left to right, with plus, minus and times.

    Several answers may be right; any valid expression that uses each number once and comes to the target counts.
    """

    name = "target"
    levels = 6
    one_way = False
    _shape = {1: (2, 9), 2: (3, 5), 3: (3, 9), 4: (3, 15), 5: (4, 5), 6: (4, 9)}

    def make(self, rng: Random, level: int) -> Item:
        count, largest = self._shape[level]
        while True:
            numbers = [rng.randint(1, largest) for _ in range(count)]
            operators = [rng.choice("+-*") for _ in range(count - 1)]
            value, steps, expression = numbers[0], [], str(numbers[0])
            for index, (operator, term) in enumerate(zip(operators, numbers[1:], strict=True)):
                result = _apply(value, operator, term)
                steps.append(f"{value}{operator}{term}={result}")
                expression = f"({expression}){operator}{term}" if index else f"{expression}{operator}{term}"
                value = result
                if value < 0:
                    break
            if 0 < value <= 200 and len(steps) == count - 1:
                break
        shown = numbers[:]
        rng.shuffle(shown)
        question = f"make {value} from " + " ".join(map(str, shown))
        return Item(family=self.name, level=level, question=question, steps=tuple(steps), answer=expression)

    def is_right(self, item: Item, answer: str) -> bool:
        target, numbers = _parse(item.question)
        answer = answer.strip()
        if not _EXPRESSION.match(answer):
            return False
        try:
            tree = ast.parse(answer, mode="eval").body
            used: Counter[int] = Counter()
            return _evaluate(tree, used) == target and used == Counter(numbers)
        except (SyntaxError, ValueError, RecursionError):
            return False

    def step_verdicts(self, item: Item, lines: Sequence[str]) -> list[bool]:
        """A step is right if its sum is right, it uses what is left, and the target can still be reached."""
        target, numbers = _parse(item.question)
        left = Counter(numbers)
        value: int | None = None
        verdicts: list[bool] = []
        fine = True
        for line in lines:
            if line.startswith(ANSWER_MARK):
                fine = fine and self.is_right(item, line[len(ANSWER_MARK) :])
            else:
                value = _follow(line, value, left) if fine else None
                fine = value is not None and _reachable(value, tuple(sorted(left.elements())), target)
            verdicts.append(fine)
        return verdicts


def _parse(question: str) -> tuple[int, list[int]]:
    words = question.split()
    return int(words[1]), [int(word) for word in words[3:]]


def _follow(line: str, value: int | None, left: Counter[int]) -> int | None:
    """The value after a step, with its numbers taken out of `left`; None where the step is not allowed."""
    match = _STEP.match(line)
    if not match:
        return None
    first, operator, second, result = int(match[1]), match[2], int(match[3]), int(match[4])
    if _apply(first, operator, second) != result:
        return None
    for used in [first, second] if value is None else [second]:
        if not left[used]:
            return None
        left[used] -= 1
    return result if value is None or value == first else None


@lru_cache(maxsize=100_000)
def _reachable(value: int, numbers: tuple[int, ...], target: int) -> bool:
    if not numbers:
        return value == target
    return any(
        _reachable(_apply(value, operator, term), numbers[:index] + numbers[index + 1 :], target)
        for index, term in enumerate(numbers)
        for operator in "+-*"
    )


def _evaluate(tree: ast.expr, used: Counter[int]) -> int:
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        used[tree.value] += 1
        return tree.value
    if isinstance(tree, ast.BinOp):
        symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}.get(type(tree.op))
        if symbol:
            return _apply(_evaluate(tree.left, used), symbol, _evaluate(tree.right, used))
    raise ValueError("not a plain sum")
