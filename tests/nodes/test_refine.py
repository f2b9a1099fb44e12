"""Refine: who is revised under which gate, that originals stay, and that rounds build on one another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from inferloom.core.types import Completion, NodeOutput, Request
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.refine import Refine, RefineParams
from inferloom.nodes.testing import FakeContext, make_state, run


def asks_review(request: Request) -> bool:
    return "<review>" not in request.messages[-1].content


def replying(model: str, request: Request, index: int) -> str:
    """Reviews find the second line of every text with BAD wrong; a revision turns one BAD into GOOD."""
    said = request.messages[-1].content
    solution = said.split("<solution>\n")[1].split("\n</solution>")[0]
    if asks_review(request):
        return "1 ok\n2 wrong: it is bad" if "BAD" in solution else "1 ok\n2 ok"
    assert "2 wrong: it is bad" in said or "2 ok" in said
    return solution.replace("BAD", "GOOD", 1)


def refined(texts: list[str], context: FakeContext | None = None, **params: object) -> NodeOutput:
    node = Refine(RefineParams.model_validate({"model": "small", "critic": "large", **params}))
    return run(node, make_state(texts), context or FakeContext(reply=replying))


def texts(output: NodeOutput) -> list[str]:
    return [candidate.text for candidate in output.candidates or ()]


def test_what_the_critic_finds_wrong_is_revised_and_the_original_stays() -> None:
    context = FakeContext(reply=replying)
    output = refined(["one\nfine", "two\nBAD"], context)
    assert texts(output) == ["one\nfine", "two\nGOOD", "two\nBAD"]
    assert output.candidates is not None
    fine, good, bad = output.candidates
    assert good.parents == (bad.id,) and good.scores == {} and good.critiques == ()
    assert (fine.scores["critique"], bad.scores["critique"]) == (1.0, 0.5)
    assert [model for model, _ in context.requests] == ["large", "large", "small"]


def test_rounds_go_on_from_the_revision_until_nothing_is_wrong() -> None:
    context = FakeContext(reply=replying)
    output = refined(["x BAD\nBAD"], context, rounds=5)
    assert texts(output) == ["x GOOD\nGOOD", "x GOOD\nBAD", "x BAD\nBAD"]
    assert context.calls == 5  # the third review finds nothing


def test_always_revises_what_is_called_right() -> None:
    assert len(texts(refined(["one\nfine", "two\nBAD"], gate="always"))) == 4


def test_the_score_gate_takes_those_below_and_asks_about_no_other() -> None:
    context = FakeContext(reply=replying)
    output = refined(["BAD 0", "BAD 1", "BAD 2"], context, gate="score", by="judge", below=0.5)
    assert texts(output) == ["BAD 0", "BAD 1", "GOOD 2", "BAD 2"]  # the scores are 1, 1/2 and 1/3
    assert context.calls == 2


@pytest.mark.parametrize("gate", ["critique", "score", "always"])
@pytest.mark.parametrize("review", ["", "1 wrong", "1 ok", "I would not know", "9 wrong\n" * 50])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, None])
def test_no_original_is_ever_dropped(gate: str, review: str, limit: int | None) -> None:
    by = {"by": "judge", "below": 0.9} if gate == "score" else {}
    context = FakeContext(reply=lambda model, request, index: review, limit=limit)
    state = make_state(["a", "b", "b", ""])
    node = Refine(RefineParams.model_validate({"model": "m", "rounds": 2, "gate": gate, **by}))
    output = run(node, state, context)
    made = {candidate.id: candidate for candidate in output.candidates or ()}
    assert {candidate.id for candidate in state.candidates} <= set(made)
    assert all(made[candidate.id].answer == candidate.answer for candidate in state.candidates)


def test_an_unreadable_review_leaves_the_candidate_and_is_told() -> None:
    context = FakeContext(reply=lambda model, request, index: "Looks odd to me.")
    assert texts(refined(["one"], context)) == ["one"]
    assert [event for event, _ in context.events] == ["parse_failed"]


def test_a_budget_that_ends_within_the_revisions_keeps_those_received() -> None:
    output = refined(["BAD 0", "BAD 1", "BAD 2"], FakeContext(reply=replying, limit=4))
    assert texts(output) == ["GOOD 0", "BAD 1", "BAD 2", "BAD 0"]
    assert output.stopped == "budget"


@pytest.mark.parametrize("gate", ["critique", "always"])
def test_a_cut_revision_stands_behind_its_finished_origin_and_is_not_revised(gate: str) -> None:
    def cut(model: str, request: Request, index: int) -> str | Completion:
        if asks_review(request):
            return "1 wrong"
        return Completion(text="A: 4", finish_reason="length" if "two" in request.messages[-1].content else "stop")

    context = FakeContext(reply=cut)
    output = refined(["one", "two"], context, rounds=2, gate=gate)
    assert output.candidates is not None
    first, second, *rest = output.candidates
    assert (first.text, second.text) == ("A: 4", "two") and first.finished and second.finished
    assert [one.text for one in rest] == ["A: 4", "one", "A: 4"] and not rest[-1].finished
    assert context.calls == 4 + 2  # the second round is for the chain that goes on
    assert context.events == [("revision_cut", {"candidate": rest[-1].id, "parent": second.id})]


def test_the_newest_leads_where_nothing_is_finished() -> None:
    def cut(model: str, request: Request, index: int) -> str | Completion:
        return "1 wrong" if asks_review(request) else Completion(text="A: 4", finish_reason="length")

    state = make_state(["one"])
    state = replace(state, candidates=(replace(state.candidates[0], finished=False),))
    output = run(Refine(RefineParams(model="m")), state, FakeContext(reply=cut))
    assert [one.text for one in output.candidates or ()] == ["A: 4", "one"]


def test_on_the_pocket_pack_it_speaks_the_jobs_that_the_models_know() -> None:
    def pocket(model: str, request: Request, index: int) -> str:
        return {"check": "1 ok\n2 wrong", "revise": "7\nA: 7"}[request.messages[-1].content]

    assert texts(refined(["1\nA: 1"], FakeContext(reply=pocket, prompts=load_pack("pocket")))) == ["7\nA: 7", "1\nA: 1"]


@pytest.mark.parametrize(
    "params",
    [
        {"gate": "score"},
        {"gate": "always", "by": "judge"},
        {"gate": "critique", "below": 0.3},
        {"rounds": 0},
        {"gate": "score", "by": "judge", "below": 1.5},
    ],
)
def test_parameters_that_contradict_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RefineParams.model_validate({"model": "m", **params})
