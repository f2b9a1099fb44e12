"""The three-way split: nothing that is searched on is ever reported on."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inferloom.core.errors import DataError
from inferloom.evaluation import Item, Splits, SplitSpec, split_items
from inferloom.evaluation.item import normalise_question

SHARES = SplitSpec(dev=0.5, confirm=0.2, test=0.3)
COUNTS = SplitSpec(dev=20, confirm=10, test=15)


def items(count: int, start: int = 0) -> list[Item]:
    return [Item(id=str(n), question=f"What is {n} times 7?", answer=str(7 * n)) for n in range(start, start + count)]


def where(splits: Splits) -> dict[str, str]:
    return {item.question: name for name in ("dev", "confirm", "test") for item in splits[name]}  # type: ignore[literal-required] # the three names


@pytest.mark.parametrize("spec", [SHARES, COUNTS])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_items_changes_nothing(spec: SplitSpec, seed: int) -> None:
    given_items = items(80)
    shuffled = Random(seed).sample(given_items, len(given_items))
    assert split_items(shuffled, spec) == split_items(given_items, spec)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(45, 120), added=st.integers(1, 60))
def test_added_items_never_mix_the_splits(count: int, added: int) -> None:
    old, more = items(count), items(count + added)
    by_share, by_share_more = where(split_items(old, SHARES)), where(split_items(more, SHARES))
    assert by_share.items() <= by_share_more.items()
    before, after = where(split_items(old, COUNTS)), where(split_items(more, COUNTS))
    moved = {(before[question], after[question]) for question in before.keys() & after.keys()}
    assert not moved & {("dev", "test"), ("dev", "confirm"), ("test", "dev"), ("confirm", "dev")}


@pytest.mark.parametrize("spec", [SHARES, COUNTS])
def test_the_same_question_in_other_clothes_lands_in_one_split(spec: SplitSpec) -> None:
    base = items(90)
    clothes = [f"  what is  {n} times 7 ??" for n in range(90)]
    twins = [Item(id=f"t{n}", question=clothes[n], answer="x") for n in range(90)]
    split = split_items([*base, *twins], spec)
    placed = where(split)
    for item, twin in zip(base, twins, strict=True):
        both = {placed.get(item.question), placed.get(twin.question)} - {None}
        assert len(both) <= 1


def test_counts_are_exact_and_shares_are_near() -> None:
    assert split_items(items(60), COUNTS).sizes() == {"dev": 20, "confirm": 10, "test": 15}
    assert split_items(items(45), COUNTS).sizes() == {"dev": 20, "confirm": 10, "test": 15}
    sizes = split_items(items(4000), SHARES).sizes()
    assert sum(sizes.values()) == 4000
    assert abs(sizes["test"] - 1200) < 120


def test_another_salt_is_another_split() -> None:
    assert where(split_items(items(100), SHARES)) != where(split_items(items(100), SplitSpec(salt="2")))


def test_numbers_and_their_signs_are_kept_apart() -> None:
    different = ["3*4=?", "3+4=?", "34=?", "3.4=?", "-3+4=?", "3 - 4 = ?"]
    assert len({normalise_question(text) for text in different}) == len(different)
    assert normalise_question("What's 3 + 4?") == normalise_question("what s  3+4")
    assert normalise_question("?!") == "?!"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"dev": 0.8, "confirm": 0.2, "test": 0.2}, "sum to 1.2"),
        ({"dev": 10, "confirm": 0.2, "test": 5}, "all shares"),
        ({"dev": 0, "confirm": 5, "test": 5}, "`dev` is 0"),
        ({"dev": 5, "confirm": 5, "test": -1}, "`test` is -1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(spec: dict[str, float], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SplitSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("count", "spec", "says"),
    [(44, COUNTS, "ask for 45 items .* only 44"), (1, SHARES, "is empty"), (0, SHARES, "is empty")],
)
def test_too_few_items_get_one_sentence(count: int, spec: SplitSpec, says: str) -> None:
    with pytest.raises(DataError, match=says):
        split_items(items(count), spec, name="a.jsonl")


def ids(split: Sequence[Item]) -> set[str]:
    return {item.id for item in split}


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(min_size=1), min_size=30, max_size=60))
def test_any_text_can_be_split_and_no_item_is_in_two_splits(texts: list[str]) -> None:
    split = split_items(
        [Item(id=str(n), question=text, answer="") for n, text in enumerate([*texts, *map(str, range(40))])], SHARES
    )
    assert not (
        ids(split.dev) & ids(split.test) or ids(split.dev) & ids(split.confirm) or ids(split.confirm) & ids(split.test)
    )
