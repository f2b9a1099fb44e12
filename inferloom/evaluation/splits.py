"""The three-way split: dev to search on, confirm to choose on, test to report on.

Items go by the hash of their normalised question, so that questions which ask the same thing always land in one split
and the order of the file never matters. Touches of a test split are recorded by the caller (`store.TouchRow`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferloom.core.digest import digest
from inferloom.core.errors import DataError
from inferloom.evaluation.item import Item, normalise_question

SplitName = Literal["dev", "confirm", "test"]


class SplitSpec(BaseModel):
    """How large each split is: all three as shares of the data set (floats), or all three as item counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dev: float | int = Field(0.5, description="the search's own items")
    confirm: float | int = Field(0.2, description="fresh items on which the best trials are compared; 0 for none")
    test: float | int = Field(0.3, description="items that only the final result sees")
    salt: str = Field("", description="another salt is another split")

    @model_validator(mode="after")
    def _sizes_fit(self) -> SplitSpec:
        sizes = {"dev": self.dev, "confirm": self.confirm, "test": self.test}
        for name, size in sizes.items():
            if size < 0 or (size == 0 and name != "confirm"):
                raise ValueError(f"`{name}` is {size:g}; it must be above 0")
        given = [size for size in sizes.values() if size]
        if len({isinstance(size, int) for size in given}) > 1:
            raise ValueError("`dev`, `confirm` and `test` must be all shares (0.5) or all item counts (200)")
        if isinstance(self.dev, float) and sum(sizes.values()) > 1 + 1e-9:
            raise ValueError(f"the shares sum to {sum(sizes.values()):g}; they must sum to at most 1")
        return self

    @property
    def counts(self) -> bool:
        """Whether the sizes are item counts."""
        return isinstance(self.dev, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The items of each split, in hash order."""

    dev: tuple[Item, ...]
    confirm: tuple[Item, ...]
    test: tuple[Item, ...]

    def __getitem__(self, name: SplitName) -> tuple[Item, ...]:
        return {"dev": self.dev, "confirm": self.confirm, "test": self.test}[name]

    def sizes(self) -> dict[str, int]:
        """How many items each split has."""
        return {"dev": len(self.dev), "confirm": len(self.confirm), "test": len(self.test)}


def position(question: str, salt: str = "") -> float:
    """Where a question falls, from 0 up to 1, evenly: the same for the same normalised question and salt."""
    text = f"{salt}\0{normalise_question(question)}"
    return (int(digest(text, 7), 16) >> 3) / 2**53


def split_items(items: Sequence[Item], spec: SplitSpec, *, name: str = "the data set") -> Splits:
    """Deal items to the three splits.

    By shares, an item's split depends on its own question and on nothing else. By counts, test and then confirm fill
    from the low end of the hash order and dev from the high end: items added later can push some out of their split,
    but never from dev into confirm or test, nor from those into dev.

    Raises:
        DataError: There are fewer items than the counts ask for, or a split that must not be empty is.
    """
    ordered = sorted(
        items, key=lambda item: (position(item.question, spec.salt), normalise_question(item.question), item.id)
    )
    splits = _by_count(ordered, spec, name) if spec.counts else _by_share(ordered, spec)
    for split, size in (("dev", spec.dev), ("confirm", spec.confirm), ("test", spec.test)):
        if size and not splits.sizes()[split]:
            raise DataError(
                f"the split `{split}` is empty: {size:g} of {len(items)} items is too few; add items or make it larger",
                where=name,
            )
    return splits


def _by_share(ordered: Sequence[Item], spec: SplitSpec) -> Splits:
    dealt: dict[str, list[Item]] = {"dev": [], "confirm": [], "test": []}
    # The last bound gets a hair of room, so that shares that sum to 1 leave nobody out to rounding.
    bounds = (
        ("test", spec.test),
        ("confirm", spec.test + spec.confirm),
        ("dev", spec.test + spec.confirm + spec.dev + 1e-9),
    )
    for item in ordered:
        place = position(item.question, spec.salt)
        split = next((name for name, bound in bounds if place < bound), None)
        if split is not None:
            dealt[split].append(item)
    return Splits(dev=tuple(dealt["dev"]), confirm=tuple(dealt["confirm"]), test=tuple(dealt["test"]))


def _by_count(ordered: Sequence[Item], spec: SplitSpec, name: str) -> Splits:
    groups = [list(group) for _, group in groupby(ordered, key=lambda item: normalise_question(item.question))]
    low, high = 0, len(groups)

    def fill(count: int, *, from_high: bool) -> tuple[Item, ...]:
        # A group that does not fit whole is cut, and its rest is left out: no other split may have it.
        nonlocal low, high
        taken: list[Item] = []
        while len(taken) < count and low < high:
            if from_high:
                high -= 1
            group = groups[high] if from_high else groups[low]
            low += not from_high
            taken.extend(group)
        if len(taken) < count:
            asked = int(spec.dev + spec.confirm + spec.test)
            raise DataError(
                f"the splits ask for {asked} items (dev {spec.dev:g}, confirm {spec.confirm:g}, test {spec.test:g}), "
                f"but there are only {len(ordered)} with {len(groups)} different questions",
                where=name,
            )
        return tuple(taken[:count])

    test = fill(int(spec.test), from_high=False)
    confirm = fill(int(spec.confirm), from_high=False)
    dev = fill(int(spec.dev), from_high=True)
    return Splits(dev=dev, confirm=confirm, test=test)
