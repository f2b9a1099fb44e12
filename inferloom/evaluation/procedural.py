"""Items made by the pocket task families, as many as are wanted, never the same question twice."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from inferloom.core.errors import DataError, UnknownNameError
from inferloom.evaluation.item import Item
from inferloom.models.pocket.tasks import FAMILIES

_TRIES = 200
"""Draws after which a family is taken to have no new question left at a level."""


def procedural_families(names: Sequence[str]) -> list[str]:
    """The task families that `pocket`, `pocket:sum` and the like stand for, in order and once each.

    Raises:
        UnknownNameError: A name stands for no family.
        DataError: There are no names.
    """
    families: list[str] = []
    known = ["pocket", *(f"pocket:{family}" for family in FAMILIES)]
    for name in names:
        if name not in known:
            raise UnknownNameError("procedural data set", name, known, where="procedural")
        families.extend(FAMILIES if name == "pocket" else [name.removeprefix("pocket:")])
    if not families:
        raise DataError("`procedural` is an empty list; must name `pocket` or families such as `pocket:sum`")
    return list(dict.fromkeys(families))


def make_items(families: Sequence[str], *, count: int, levels: Sequence[int] | None, seed: int) -> list[Item]:
    """`count` items, dealt evenly over families and levels; the first k are the same whatever the count.

    Raises:
        DataError: A level is out of range, or the families have too few different questions.
    """
    places = [(family, level) for level in _levels(families, levels) for family in families]
    places = [(family, level) for family, level in places if level <= FAMILIES[family].levels]
    items: list[Item] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    drawn = dict.fromkeys(places, 0)
    while len(items) < count and places:
        for place in tuple(places):
            item = _fresh(*place, seed, drawn, seen)
            if item is None:
                places.remove(place)
            elif len(items) < count:
                items.append(item)
    if len(items) < count:
        raise DataError(
            f"the task families have only {len(items)} different questions here, {count} are asked for; "
            "name more families or levels",
            where="procedural",
        )
    return items


def _levels(families: Sequence[str], levels: Sequence[int] | None) -> list[int]:
    most = max(FAMILIES[family].levels for family in families)
    if levels is None:
        return list(range(1, most + 1))
    for level in levels:
        if not 1 <= level <= most:
            raise DataError(f"level {level} is out of range; must be from 1 to {most}", where="levels")
    if not levels:
        raise DataError(f"`levels` is an empty list; must hold numbers from 1 to {most}", where="levels")
    return sorted(set(levels))


def _fresh(
    family: str,
    level: int,
    seed: int,
    drawn: dict[tuple[str, int], int],
    seen: set[tuple[str, tuple[str, ...]]],
) -> Item | None:
    """The family's next question at a level that was not asked yet; None where none turns up."""
    for _ in range(_TRIES):
        index = drawn[family, level]
        drawn[family, level] += 1
        # The name keeps these draws apart from those of the training script.
        made = FAMILIES[family].make(Random(f"items {seed} {family} {level} {index}"), level)
        if (made.question, made.notes) in seen:
            continue
        seen.add((made.question, made.notes))
        return Item(
            id=f"{family}-{level}-{seed}-{index}",
            question=made.question,
            answer=made.answer,
            meta={"family": family, "level": level, "solution": made.solution},
            notes=made.notes,
        )
    return None
