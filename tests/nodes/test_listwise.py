"""Listwise: points by rank, shuffled votes whose shuffles are undone, windows that cover all."""

import re

import pytest

from inferloom.core.errors import UserError
from inferloom.core.types import Request
from inferloom.nodes.listwise import Listwise, ListwiseParams, cover, points_of
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.testing import FakeContext, make_candidates, make_state, run


def listwise(**params: object) -> Listwise:
    return Listwise(ListwiseParams.model_validate({"model": "large", **params}))


def shown(request: Request) -> list[tuple[str, int]]:
    found = re.findall(r"^([A-Z])\)\n(\d+)$", request.messages[-1].content, re.MULTILINE)
    return [(letter, int(number)) for letter, number in found]


def by_value(model: str, request: Request, index: int) -> str:
    return " ".join(letter for letter, _ in sorted(shown(request), key=lambda pair: -pair[1]))


def pocket(**fields: object) -> FakeContext:
    return FakeContext(**{"reply": by_value, "prompts": load_pack("pocket"), **fields})  # type: ignore[arg-type]  # test shorthand


def scores(texts: list[str], context: FakeContext, **params: object) -> dict[str, float]:
    output = run(listwise(**params), make_state(texts), context)
    assert output.candidates is not None and [candidate.text for candidate in output.candidates] == texts
    return {candidate.text: candidate.scores["listwise"] for candidate in output.candidates}


def test_shuffles_are_undone() -> None:
    context = pocket()
    assert scores(["2", "4", "1", "3"], context, votes=6) == pytest.approx({"4": 1, "3": 1 / 2, "2": 1 / 3, "1": 1 / 4})
    assert context.calls == 6
    assert len({tuple(number for _, number in shown(request)) for _, request in context.requests}) > 1
    assert scores(["2", "4", "1", "3"], pocket(), points="borda") == pytest.approx(
        {"4": 1, "3": 2 / 3, "2": 1 / 3, "1": 0}
    )


def test_a_judge_that_prefers_places_averages_out() -> None:
    context = pocket(reply=lambda model, request, index: "A B C D")
    assert scores(["1", "2", "3", "4"], context, votes=64, points="borda") == pytest.approx(
        dict.fromkeys("1234", 0.5), abs=0.2
    )


def test_points_of_an_order_with_letters_left_out_and_of_none() -> None:
    assert points_of([2, 0], 4, "reciprocal") == pytest.approx([1 / 2, (1 / 3 + 1 / 4) / 2, 1, (1 / 3 + 1 / 4) / 2])
    assert points_of([2, 0], 4, "borda") == pytest.approx([2 / 3, 1 / 6, 1, 1 / 6])
    assert points_of([], 3, "borda") == pytest.approx([0.5] * 3)
    assert points_of([1, 0], 2, "reciprocal") == [0.5, 1]


def test_an_unreadable_reply_is_a_tie_and_is_reported() -> None:
    context = pocket(reply=lambda model, request, index: "")
    assert set(scores(["1", "2", "3"], context, votes=1, points="borda").values()) == {0.5}
    assert context.events == [("parse_failed", {"role": "rank", "reply": ""})]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_windows_cover_all_and_are_equally_wide(count: int, width: int) -> None:
    candidates = make_candidates([f"{n}" for n in range(count)])
    windows = cover(candidates, width)
    assert {candidate.text for window in windows for candidate in window} == {f"{n}" for n in range(count)}
    assert {len(window) for window in windows} == {min(width, count)}
    assert listwise(votes=3, window=width).calls(count) == (0, 3 * len(windows))


def test_the_best_of_many_windows_scores_highest() -> None:
    given = scores([str(number) for number in range(9)], pocket(), votes=8, window=3)
    assert given["8"] == 1.0 == max(given.values())
    assert given["0"] == pytest.approx(1 / 3) == min(given.values())


def test_a_lone_text_is_first_without_a_call() -> None:
    context = pocket()
    output = run(listwise(), make_state(["1", "1"]), context)
    assert output.candidates is not None and context.calls == 0
    assert [candidate.scores["listwise"] for candidate in output.candidates] == [1, 1]


def test_a_window_wider_than_the_pack_shows_is_refused() -> None:
    with pytest.raises(UserError, match="steps/1: window is 8; the prompt pack `pocket` shows at most 4"):
        run(listwise(window=8), make_state([str(n) for n in range(8)]), pocket())
    assert scores(["1", "2"], pocket(), window=8) == {"1": 0.5, "2": 1.0}
