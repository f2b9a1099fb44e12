"""Pairwise: a biased judge cancels out, schedules are balanced, shares of wins are what they should be."""

import re
from collections import Counter

import pytest

from inferloom.core.types import Candidate, Request
from inferloom.nodes.pairwise import Pairwise, PairwiseParams, schedule
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.testing import FakeContext, make_state, run


def pairwise(**params: object) -> Pairwise:
    return Pairwise(PairwiseParams.model_validate({"model": "large", **params}))


def higher(model: str, request: Request, index: int) -> str:
    """The letter of the greater of two candidates that are numbers."""
    shown = re.findall(r"^([A-Z])\)\n(\d+)$", request.messages[-1].content, re.MULTILINE)
    assert len(shown) == 2
    return max(shown, key=lambda pair: int(pair[1]))[0]


def pocket(**fields: object) -> FakeContext:
    return FakeContext(**{"reply": higher, "prompts": load_pack("pocket"), **fields})  # type: ignore[arg-type]  # test shorthand


def scores(candidates: tuple[Candidate, ...] | None, name: str = "pairwise") -> dict[str, float]:
    assert candidates is not None
    return {candidate.text: candidate.scores[name] for candidate in candidates if name in candidate.scores}


def test_the_score_is_the_share_of_wins_over_every_pair_in_both_orders() -> None:
    context = pocket()
    output = run(pairwise(), make_state(["3", "1", "4", "2"]), context)
    assert scores(output.candidates) == pytest.approx({"3": 2 / 3, "1": 0, "4": 1, "2": 1 / 3})
    assert output.candidates is not None and [c.text for c in output.candidates] == ["3", "1", "4", "2"]
    assert context.calls == 12
    assert len({request.messages for _, request in context.requests}) == 12


@pytest.mark.parametrize("pairs", [None, 1, 2, 3])
def test_a_judge_that_always_prefers_the_first_place_says_nothing(pairs: int | None) -> None:
    context = pocket(reply=lambda model, request, index: "A")
    output = run(pairwise(pairs=pairs), make_state(["1", "2", "3", "4", "5"]), context)
    assert set(scores(output.candidates).values()) == {0.5}


def test_one_order_is_drawn_at_random_and_costs_half() -> None:
    context = pocket()
    output = run(pairwise(both_orders=False), make_state([str(n) for n in range(12)]), context)
    assert scores(output.candidates) == pytest.approx({str(n): n / 11 for n in range(12)})
    assert context.calls == 66
    biased = pocket(reply=lambda model, request, index: "A")
    output = run(pairwise(both_orders=False), make_state([str(n) for n in range(12)]), biased)
    assert max(scores(output.candidates).values()) < 1, "no candidate may stand first in all of its comparisons"


def test_an_unreadable_reply_is_a_tie_and_is_reported() -> None:
    context = pocket(reply=lambda model, request, index: "neither")
    output = run(pairwise(both_orders=False), make_state(["1", "2"]), context)
    assert scores(output.candidates) == {"1": 0.5, "2": 0.5}
    assert context.events == [("parse_failed", {"role": "rank", "reply": "neither"})]


def test_equal_texts_are_one_candidate_and_a_lone_one_is_not_compared() -> None:
    context = pocket()
    output = run(pairwise(), make_state(["1", "2", "1", "1"]), context)
    assert output.candidates is not None and context.calls == 2
    assert [candidate.scores["pairwise"] for candidate in output.candidates] == [0, 1, 0, 0]
    lone = pocket()
    assert scores(run(pairwise(name="wins"), make_state(["1", "1"]), lone).candidates, "wins") == {"1": 0.5}
    assert lone.calls == 0


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("rivals", [1, 2, 3, 4, None])
def test_each_meets_as_many_others_and_no_pair_meets_twice(count: int, rivals: int | None) -> None:
    pairs = schedule(count, rivals)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(one != other for one, other in pairs)
    meets = Counter(place for pair in pairs for place in pair)
    wanted = count - 1 if rivals is None else min(rivals, count - 1)
    uneven = wanted % 2 and count % 2 and wanted < count - 1
    assert sorted(meets[place] for place in range(count)) == [wanted] * (count - 1) + [wanted + bool(uneven)]
    assert pairwise(pairs=rivals, both_orders=False).calls(count) == (0, len(pairs))


def test_the_budget_hands_on_the_best_of_those_compared_first() -> None:
    context = pocket(limit=2)
    output = run(pairwise(pairs=1), make_state(["1", "2", "3", "4", "5", "6"]), context)
    judged = scores(output.candidates)
    assert output.stopped == "budget" and output.candidates is not None
    assert sorted(judged.values()) == [0.0, 1.0]
    assert judged[output.candidates[0].text] == 1.0
