"""Verify: two calls per candidate, the accepted stay, all stay where none is accepted, and the early exit."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from inferloom.core.types import NodeOutput, Request
from inferloom.nodes.testing import FakeContext, make_state, run
from inferloom.nodes.verify import Verify, VerifyParams, read_verdict


def replying(model: str, request: Request, index: int) -> str:
    said = request.messages[-1].content
    if "<examination>" not in said:
        return "It is good [Correct]." if "good" in said else "It is bad."
    return "[Correct]" if "It is good" in said else "[Incorrect]"


def verified(texts: list[str], context: FakeContext | None = None, **params: object) -> NodeOutput:
    node = Verify(VerifyParams.model_validate({"model": "large", **params}))
    return run(node, make_state(texts), context or FakeContext(reply=replying))


def texts(output: NodeOutput) -> list[str]:
    return [candidate.text for candidate in output.candidates or ()]


def test_the_accepted_stay_in_their_order() -> None:
    context = FakeContext(reply=replying)
    output = verified(["bad 0", "good 1", "bad 2", "good 3"], context)
    assert texts(output) == ["good 1", "good 3"]
    assert output.candidates is not None
    assert [candidate.scores["verify"] for candidate in output.candidates] == [1.0, 1.0]
    assert context.calls == 8


def test_all_rejected_are_all_handed_on() -> None:
    output = verified(["bad 0", "bad 1"])
    assert texts(output) == ["bad 0", "bad 1"]
    assert output.candidates is not None
    assert [candidate.scores["verify"] for candidate in output.candidates] == [0.0, 0.0]


def test_the_reasoning_alone_is_no_verdict() -> None:
    context = FakeContext(reply=lambda model, request, index: "[Correct]" if "<exam" not in str(request) else "hm")
    assert texts(verified(["one", "two"], context)) == ["one", "two"]
    assert [data["role"] for event, data in context.events if event == "parse_failed"] == ["verdict", "verdict"]


def test_scores_for_all_keep_all() -> None:
    output = verified(["bad 0", "good 1"], mode="score")
    assert output.candidates is not None
    assert [(c.text, c.scores["verify"]) for c in output.candidates] == [("bad 0", 0.0), ("good 1", 1.0)]


@pytest.mark.parametrize(
    ("first_k", "kept", "calls"),
    [(1, ["good 1"], 4), (2, ["good 1", "good 3"], 8), (3, ["good 1", "good 3", "good 4"], 10)],
)
def test_the_early_exit_checks_no_more_than_it_needs(first_k: int, kept: list[str], calls: int) -> None:
    context = FakeContext(reply=replying)
    output = verified(["bad 0", "good 1", "bad 2", "good 3", "good 4", "good 5"], context, first_k=first_k)
    assert (texts(output), context.calls) == (kept, calls)


def test_fewer_than_first_k_are_enough_and_none_gives_all() -> None:
    assert texts(verified(["bad", "good"], first_k=5)) == ["good"]
    assert texts(verified(["bad", "bad"], first_k=1)) == ["bad", "bad"]


def test_a_budget_that_ends_midway_puts_the_accepted_first_and_the_rejected_last() -> None:
    output = verified(["bad 0", "good 1", "good 2"], FakeContext(reply=replying, limit=5))
    assert output.stopped == "budget"
    assert texts(output) == ["good 1", "good 2", "bad 0"]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("[Correct]", True),
        ("[incorrect]", False),
        ("The verdict: [ Correct ].", True),
        ("[Correct]? No: [Incorrect]", False),
        ("**Correct**", True),
        ("incorrect.", False),
        ("It is not correct", None),
        ("Correct me if I am wrong", None),
        ("", None),
    ],
)
def test_verdicts_are_read_from_brackets_or_from_the_one_word(reply: str, verdict: bool | None) -> None:
    assert read_verdict(reply) is verdict


def test_an_early_exit_leaves_no_score_for_all() -> None:
    with pytest.raises(ValidationError, match="needs a verdict on every candidate"):
        VerifyParams(model="m", mode="score", first_k=1)
