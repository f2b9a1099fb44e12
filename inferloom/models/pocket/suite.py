"""The data sets that the pocket models are measured with: items of the task families, by name, level, number and seed.

`pocket` is the whole suite at the levels of `SUITE_LEVELS`, `pocket:sum` one family of it. Every purpose draws from
seeds of its own, and none of them is the training script's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from random import Random

from inferloom.core.errors import DataError, UnknownNameError
from inferloom.models.pocket.tasks import FAMILIES, Item
from inferloom.models.pocket.tasks.conventions import Code, Operator

SUITE_LEVELS: dict[str, tuple[int, ...]] = {
    "sum": (3, 4, 5),
    "multiply": (1, 2),
    "count": (1, 2),
    "sort": (4, 5),
    "reverse": (6,),
    "target": (1, 2),
    "story": (2, 3, 4),
    "operator": (1, 2, 3),
    "code": (1, 2),
}
"""The levels at which the small model is right in 30 to 50 of 100 single tries and the large one in 60 to 75."""

_TRIES = 400
"""Draws after which a family is taken to have no new question left at a level."""


def parse_name(name: str) -> tuple[str, ...]:
    """The families that a data set's name stands for: all for `pocket`, one for `pocket:sum`.

    Raises:
        UnknownNameError: The name stands for no data set.
    """
    known = {"pocket": tuple(FAMILIES), **{f"pocket:{family}": (family,) for family in FAMILIES}}
    if name not in known:
        raise UnknownNameError("procedural data set", name, known)
    return known[name]


def pocket_items(
    spec: str | Sequence[str],
    levels: Mapping[str, Sequence[int]] | Sequence[int] | None,
    count: int,
    seed: int,
    *,
    purpose: str = "measure",
) -> list[Item]:
    """`count` items with different questions, dealt evenly over families and then over their levels.

    Args:
        spec: `pocket`, `pocket:FAMILY`, or a sequence of families.
        levels: Levels by family, or levels for all of them; None: `SUITE_LEVELS`.
        count: How many; the first k are the same whatever the count.
        seed: Another seed draws other items.
        purpose: Items of two purposes are drawn apart, whatever their seeds.

    Raises:
        UnknownNameError: A family does not exist.
        DataError: A level is out of range, or there are too few different questions.
    """
    families = parse_name(spec) if isinstance(spec, str) else tuple(spec)
    places = {family: _places(family, levels) for family in families}
    items: list[Item] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    turns = {family: cycle(own) for family, own in places.items()}
    draws = {
        (family, level): Random(f"suite {purpose} {seed} {family} {level}")
        for family, own in places.items()
        for level in own
    }
    for family in cycle(families):
        if len(items) >= count:
            break
        level = next(turns[family])
        items.append(_fresh(family, level, draws[family, level], seen))
    return items


def stream_items(family: str, levels: Sequence[int] | None, count: int, seed: int) -> list[Item]:
    """A memory stream: `count` items of one hidden world, so that what one item teaches helps with the next.

    The notes stay on the items, for judging and for making a reference, but must not be shown with the question.

    Raises:
        UnknownNameError: The family has no worlds (only `operator` and `code` do).
        DataError: A level is out of range, or there are too few different questions.
    """
    maker = FAMILIES.get(family)
    if not isinstance(maker, Operator | Code):
        raise UnknownNameError("memory stream", family, [name for name, one in FAMILIES.items() if one.needs_notes])
    rng = Random(f"suite stream {seed} {family}")
    world = rng.randrange(1_000_000)
    seen: set[tuple[str, tuple[str, ...]]] = set()
    items: list[Item] = []
    for _, level in zip(range(count), cycle(_places(family, levels)), strict=False):
        for _ in range(_TRIES):
            item = maker.make(rng, level, world)
            if (item.question, item.notes) not in seen:
                break
        else:
            raise DataError(
                f"world has only {len(items)} different questions here, {count} are asked for", where=family
            )
        seen.add((item.question, item.notes))
        items.append(item)
    return items


def _places(family: str, levels: Mapping[str, Sequence[int]] | Sequence[int] | None) -> list[int]:
    """The levels of a family that are asked for."""
    if family not in FAMILIES:
        raise UnknownNameError("pocket task family", family, FAMILIES)
    most = FAMILIES[family].levels
    if levels is None:
        levels = SUITE_LEVELS
    wanted: Iterable[int] = levels.get(family, ()) if isinstance(levels, Mapping) else levels
    own = sorted(set(wanted))
    if not own:
        raise DataError(f"`levels` is empty; must hold numbers from 1 to {most}", where=family)
    for level in own:
        if not 1 <= level <= most:
            raise DataError(f"level {level} is out of range; must be from 1 to {most}", where=family)
    return own


def _fresh(family: str, level: int, rng: Random, seen: set[tuple[str, tuple[str, ...]]]) -> Item:
    """The next item with a question that was not asked yet."""
    for _ in range(_TRIES):
        item = FAMILIES[family].make(rng, level)
        if (item.question, item.notes) not in seen:
            seen.add((item.question, item.notes))
            return item
    raise DataError(f"level {level} has too few different questions; name more families or levels", where=family)
