"""Rank: reading orders, windows, what becomes of bad replies."""

import random
import re

import pytest
from pydantic import ValidationError

from inferloom.core.errors import UserError
from inferloom.core.types import Request
from inferloom.nodes.grading import read_letters
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.rank import Rank, RankParams, window_starts
from inferloom.nodes.testing import FakeContext, make_state, run


def rank(texts: list[str], context: FakeContext, **params: object) -> list[str]:
    way = {} if "by" in params else {"model": "large"}
    output = run(Rank(RankParams.model_validate(way | params)), make_state(texts), context)
    assert output.candidates is not None
    return [candidate.text for candidate in output.candidates]


def by_value(model: str, request: Request, index: int) -> str:
    """Ranks candidates that are numbers, the highest first."""
    shown = re.findall(r"^([A-Z])\)\n(\d+)$", request.messages[-1].content, re.MULTILINE)
    return " ".join(letter for letter, value in sorted(shown, key=lambda pair: -int(pair[1])))


def pocket(**fields: object) -> FakeContext:
    return FakeContext(reply=by_value, prompts=load_pack("pocket"), **fields)  # type: ignore[arg-type]  # test shorthand


def test_a_score_orders_with_ties_as_they_came() -> None:
    context = FakeContext()
    assert rank(["a", "b", "c"], context, by="logprob") == ["a", "b", "c"]
    assert rank(["a", "b", "c"], context, by="judge", top_k=2) == ["a", "b"]
    assert context.calls == 0


def test_a_model_orders_and_top_k_cuts() -> None:
    assert rank(["1", "3", "2"], pocket()) == ["3", "2", "1"]
    assert rank(["1", "3", "2"], pocket(), top_k=1) == ["3"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B A C", "bacd"),
        ("D", "dabc"),
        ("C > A", "cabd"),
        ("(B), (D)", "bdac"),
        ("B B A B", "bacd"),
        ("Z Q B", "bacd"),
        ("A is wrong, so:\nC B", "cbad"),
        ("D C\nA is worst because of B's slip.", "dcab"),
        ("I'd say", "abcd"),
        ("", "abcd"),
    ],
)
def test_missing_letters_keep_their_order_at_the_end(reply: str, expected: str) -> None:
    context = FakeContext(reply=lambda model, request, index: reply)
    assert rank(list("abcd"), context) == list(expected)
    assert bool(context.events) == (expected == "abcd")


def test_windows_slide_from_the_back_in_half_steps() -> None:
    assert window_starts(1, 4) == [] and window_starts(0, 4) == []
    assert window_starts(2, 4) == [0] and window_starts(4, 4) == [0]
    assert window_starts(5, 4) == [1, 0]
    assert window_starts(8, 4) == [4, 2, 0]
    assert window_starts(9, 4) == [5, 3, 1, 0]
    assert window_starts(3, 2) == [1, 0]


@pytest.mark.parametrize("count", [5, 8, 11, 16])
def test_the_best_half_window_of_many_comes_out_on_top(count: int) -> None:
    values = list(range(count))
    random.Random(count).shuffle(values)
    context = pocket()
    ranked = rank([str(value) for value in values], context)
    assert ranked[:2] == [str(count - 1), str(count - 2)]
    assert sorted(ranked) == sorted(str(value) for value in values)
    assert context.calls == len(window_starts(count, 4))


def test_one_candidate_needs_no_call() -> None:
    context = pocket()
    assert rank(["1"], context) == ["1"] and context.calls == 0


def test_the_budget_keeps_the_order_so_far() -> None:
    node = Rank(RankParams(model="large"))
    output = run(node, make_state(["0", "1", "2", "3", "4", "9"]), pocket(limit=1))
    assert output.candidates is not None and output.stopped == "budget"
    assert [candidate.text for candidate in output.candidates] == ["0", "1", "9", "4", "3", "2"]


def test_a_window_wider_than_the_pack_shows_is_refused() -> None:
    with pytest.raises(UserError, match="steps/1: window is 8; the prompt pack `pocket` shows at most 4"):
        rank(list("abcdefgh"), pocket(), window=8)


@pytest.mark.parametrize(
    "params", [{}, {"by": "judge", "model": "large"}, {"by": "judge", "top_k": 0}, {"model": "m", "window": 1}]
)
def test_parameters_name_exactly_one_way_and_legal_sizes(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RankParams.model_validate(params)


def test_a_hundred_thousand_characters_are_read_in_one_pass() -> None:
    assert read_letters("A" + " " * 100_000 + "x", 4) == [0]
    assert read_letters("B \n" * 30_000, 4) == [1]


def tournament(values: list[int], **params: object) -> tuple[list[str], FakeContext]:
    context = pocket()
    return rank([str(value) for value in values], context, method="tournament", **params), context


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("both_orders", [False, True])
def test_a_tournament_finds_the_best_in_one_match_less_than_candidates(count: int, both_orders: bool) -> None:
    for seed in range(10):
        values = list(range(count))
        random.Random(seed).shuffle(values)
        ranked, context = tournament(values, both_orders=both_orders)
        assert ranked[0] == str(count - 1)
        assert sorted(map(int, ranked)) == list(range(count))
        assert context.calls == (count - 1) * (2 if both_orders else 1)


def test_the_others_stand_by_the_round_that_they_reached() -> None:
    assert tournament([3, 7, 5, 1, 2])[0] == ["7", "2", "5", "3", "1"]
    assert tournament([3, 7, 5, 1, 2], top_k=2)[0] == ["7", "2"]


def test_the_earlier_goes_on_where_the_judge_only_likes_a_place() -> None:
    for letter, one_order in (("A", "abcd"), ("B", "dbac")):
        context = FakeContext(reply=lambda model, request, index, letter=letter: letter)
        assert rank(list("abcd"), context, method="tournament") == list("acbd" if letter == "A" else one_order)
        assert rank(list("abcd"), context, method="tournament", both_orders=True) == list("acbd")


def test_one_readable_reply_of_two_decides() -> None:
    def reply(model: str, request: Request, index: int) -> str:
        first = re.search(r"^A\)\n(\d+)$", request.messages[-1].content, re.MULTILINE)
        assert first is not None
        return "A" if first[1] == "2" else "neither"

    context = FakeContext(reply=reply, prompts=load_pack("pocket"))
    assert rank(["1", "2"], context, method="tournament", both_orders=True) == ["2", "1"]
    assert [event for event, _ in context.events] == ["parse_failed"]


@pytest.mark.parametrize(("limit", "expected"), [(1, "12340"), (2, "13402"), (3, "34102")])
def test_a_tournament_cut_short_hands_on_who_won_before_who_waits(limit: int, expected: str) -> None:
    node = Rank(RankParams(model="large", method="tournament"))
    output = run(node, make_state(list("01234")), pocket(limit=limit))
    assert output.candidates is not None and output.stopped == "budget"
    assert "".join(candidate.text for candidate in output.candidates) == expected


@pytest.mark.parametrize("params", [{"by": "judge", "method": "tournament"}, {"model": "m", "both_orders": True}])
def test_a_tournament_needs_a_model_and_both_orders_a_tournament(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="tournament"):
        RankParams.model_validate(params)
