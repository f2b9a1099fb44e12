"""The pocket suite's items as a data set."""

from __future__ import annotations

from collections.abc import Sequence

from inferloom.core.errors import DataError
from inferloom.evaluation.item import Item
from inferloom.models.pocket.suite import parse_name, pocket_items


def procedural_families(names: Sequence[str]) -> list[str]:
    """The task families that `pocket`, `pocket:sum` and the like stand for, in order and once each.

    Raises:
        UnknownNameError: A name stands for no family.
        DataError: There are no names.
    """
    if not names:
        raise DataError("`procedural` is an empty list; must name `pocket` or families such as `pocket:sum`")
    return list(dict.fromkeys(family for name in names for family in parse_name(name)))


def make_items(families: Sequence[str], *, count: int, levels: Sequence[int] | None, seed: int) -> list[Item]:
    """`count` items, dealt evenly over families and levels; the first k are the same whatever the count.

    `levels` None: those of the suite.

    Raises:
        DataError: A level is out of range, or the families have too few different questions.
    """
    return [
        Item(
            id=f"{made.family}-{made.level}-{seed}-{index}",
            question=made.question,
            answer=made.answer,
            meta={"family": made.family, "level": made.level, "solution": made.solution},
            notes=made.notes,
        )
        for index, made in enumerate(pocket_items(families, levels, count, seed, purpose="data"))
    ]
