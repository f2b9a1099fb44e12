"""Critique: one review per candidate, beside those that are there."""

import pytest

from inferloom.core.errors import UserError
from inferloom.core.types import Completion, Request
from inferloom.models.pocket.jobs import check_report
from inferloom.nodes.critique import Critique, CritiqueParams, read_verdicts
from inferloom.nodes.testing import FakeContext, make_state, run


def review(model: str, request: Request, index: int) -> str:
    return "first ok" if "text one" in request.messages[-1].content else "second ok"


def test_each_candidate_gets_a_review_of_its_own() -> None:
    context = FakeContext(reply=review)
    state = make_state(["text one", "text two"])
    output = run(Critique(CritiqueParams(model="large", temperature=0.4, max_tokens=9)), state, context)
    assert output.candidates is not None
    assert [candidate.critiques for candidate in output.candidates] == [
        ("critique 0", "first ok"),
        ("critique 1", "second ok"),
    ]
    assert [candidate.id for candidate in output.candidates] == [candidate.id for candidate in state.candidates]
    assert {(model, r.temperature, r.max_tokens) for model, r in context.requests} == {("large", 0.4, 9)}


def test_the_budget_leaves_the_rest_without_a_review() -> None:
    output = run(Critique(CritiqueParams(model="large")), make_state(["one", "two"]), FakeContext(limit=1))
    assert output.candidates is not None and output.stopped == "budget"
    assert [len(candidate.critiques) for candidate in output.candidates] == [2, 1]


def test_needs_candidates() -> None:
    with pytest.raises(UserError, match="no candidates came in"):
        run(Critique(CritiqueParams(model="large")), make_state(), FakeContext())


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("1 ok\n2 ok\n3 ok\n4 ok", 1.0),
        ("1 ok\n2 wrong", 0.25),
        ("1 wrong", 0.0),
        ("1 ok\n2 ok\n3 wrong: it is 14\nSo mend it.", 0.5),
        ("**Step 1**: correct\n- Step 2 is incorrect, since", 0.25),
        ("1 ok\n2 ok\n3 ok\n4 ok\n5 ok\n6 ok\n7 ok\n8 wrong", 7 / 8),
        ("1 ok\n2 wrong\n3 ok", 0.25),
    ],
)
def test_the_score_is_the_share_of_lines_before_the_first_wrong_one(reply: str, score: float) -> None:
    context = FakeContext(reply=lambda model, request, index: reply)
    output = run(Critique(CritiqueParams(model="large")), make_state(["a\nb\n\nc\nA: d"]), context)
    assert output.candidates is not None
    assert output.candidates[0].scores["critique"] == score
    assert context.events == []


@pytest.mark.parametrize("reply", ["", "All is well.", "1 wonderful", "12345 ok", "2 + 3 = 5 is right"])
def test_a_review_without_verdicts_claims_nothing(reply: str) -> None:
    context = FakeContext(reply=lambda model, request, index: reply)
    output = run(Critique(CritiqueParams(model="large")), make_state(["one"]), context)
    assert output.candidates is not None
    assert output.candidates[0].scores["critique"] == 0.5
    assert output.candidates[0].critiques[-1] == reply
    assert [event for event, _ in context.events] == ["parse_failed"]


@pytest.mark.parametrize(("reply", "score"), [("1 ok\n2 ok", 0.5), ("1 ok\n2 wr", 0.5), ("1 wrong: the", 0.0)])
def test_a_cut_review_says_only_what_is_wrong(reply: str, score: float) -> None:
    context = FakeContext(reply=lambda model, request, index: Completion(text=reply, finish_reason="length"))
    output = run(Critique(CritiqueParams(model="large")), make_state(["one\ntwo"]), context)
    assert output.candidates is not None
    assert output.candidates[0].scores["critique"] == score


def test_a_report_of_the_pocket_models_is_read_as_it_was_written() -> None:
    for verdicts in ([True] * 3, [True, False], [False], [True, True, True, False]):
        assert read_verdicts(check_report(verdicts)) == verdicts


def test_a_stopped_run_has_the_best_reviewed_first() -> None:
    def reply(model: str, request: Request, index: int) -> str:
        return "1 wrong" if "text one" in request.messages[-1].content else "1 ok"

    state = make_state(["text one", "text two", "text three"])
    output = run(Critique(CritiqueParams(model="large")), state, FakeContext(reply=reply, limit=2))
    assert output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == ["text two", "text one", "text three"]
