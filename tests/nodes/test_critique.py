"""Critique: one review per candidate, beside those that are there."""

import pytest

from inferloom.core.errors import UserError
from inferloom.core.types import Request
from inferloom.nodes.critique import Critique, CritiqueParams
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
