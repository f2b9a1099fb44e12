"""Program check: a program that follows the reasoning either confirms the answer or does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferloom.core.types import Completion, NodeOutput, Request
from inferloom.nodes.program_check import ProgramCheck, ProgramCheckParams, agrees
from inferloom.nodes.testing import FakeContext, make_state, run
from inferloom.sandbox import Limits, MontySandbox

PROGRAMS = {
    "adds": "```python\nfirst = 2\nanswer = first + 3\n```",
    "fails": "```python\nanswer = 1 / 0\n```",
    "lacks": "```python\nimport numpy\nanswer = 5\n```",
    "prints": "```python\nprint('working')\nprint(2 + 3)\n```",
    "tells": "2 + 3",
    "empty": "",
}


def translate(model: str, request: Request, index: int) -> str:
    return next(program for word, program in PROGRAMS.items() if word in request.messages[-1].content)


def checked(
    answers: list[tuple[str, str | None]], limit: int | None = None, **params: object
) -> tuple[NodeOutput, FakeContext]:
    """Check candidates of (text, answer)."""
    state = make_state([text for text, _ in answers])
    candidates = tuple(replace(c, answer=answer) for c, (_, answer) in zip(state.candidates, answers, strict=True))
    node = ProgramCheck(ProgramCheckParams.model_validate({"model": "large", **params}))
    context = FakeContext(reply=translate, limit=limit, sandbox=MontySandbox(Limits(seconds=20)))
    return run(node, replace(state, candidates=candidates), context), context


def texts(output: NodeOutput) -> list[str]:
    assert output.candidates is not None
    return [candidate.text for candidate in output.candidates]


def test_candidates_whose_program_disagrees_are_dropped() -> None:
    output, _ = checked([("adds, wrongly", "6"), ("adds", "5"), ("fails", "5"), ("prints", "5"), ("tells", "5.0")])
    assert texts(output) == ["adds", "prints", "tells"]
    assert output.stopped is None


def test_what_cannot_be_run_or_read_stays() -> None:
    output, _ = checked([("lacks", "7"), ("empty", "7"), ("adds", "7")])
    assert texts(output) == ["lacks", "empty"]


def test_where_all_would_be_dropped_all_stay() -> None:
    output, context = checked([("adds one", "1"), ("fails", "5"), ("adds", None)])
    assert texts(output) == ["adds one", "fails", "adds"]
    assert context.events == [("kept_all", {"candidates": 3})]


def test_a_candidate_without_an_answer_is_not_translated() -> None:
    output, context = checked([("adds", "5"), ("nothing", None)])
    assert texts(output) == ["adds"] and context.calls == 1


def test_the_score_orders_and_drops_nothing() -> None:
    output, context = checked(
        [("fails", "5"), ("lacks", "5"), ("adds", "5"), ("adds", "5")], mode="score", name="checked"
    )
    assert output.candidates is not None
    assert [(c.text, c.scores["checked"]) for c in output.candidates] == [
        ("adds", 1.0),
        ("adds", 1.0),
        ("lacks", 0.5),
        ("fails", 0.0),
    ]
    assert context.calls == 3


@pytest.mark.parametrize("mode", ["drop", "score"])
def test_when_the_budget_ends_the_confirmed_come_first(mode: str) -> None:
    output, _ = checked([("lacks", "5"), ("adds", "5"), ("adds unseen", "5")], limit=2, mode=mode)
    assert output.stopped == "budget"
    assert texts(output) == ["adds", "lacks", "adds unseen"]


def test_a_cut_program_says_nothing() -> None:
    cut = Completion(text="```python\nanswer = 4", finish_reason="length")
    context = FakeContext(reply=lambda *asked: cut, sandbox=MontySandbox(Limits(seconds=20)))
    state = make_state(["one"])
    node = ProgramCheck(ProgramCheckParams(model="large", mode="score"))
    output = run(node, state, context)
    assert output.candidates is not None and output.candidates[0].scores["program"] == 0.5
    assert [event for event, _ in context.events] == ["parse_failed"]


@pytest.mark.parametrize(
    ("said", "answer", "same"),
    [
        ("5", "5.0", True),
        ("0.30000000000000004", "0.3", True),
        ("1250", "$1,250", True),
        ("42", "42 apples", True),
        ("42", "42 or 43", False),
        ("42", "x42", False),
        ("3.14", "3.15", False),
        ("Paris", "paris", True),
        ("Paris", "Rome", False),
        ("[1, 2]", "[1, 2]", True),
        ("", "", False),
        ("5", "five", False),
        ("1000001", "1000000", True),
        ("1000002", "1000000", False),
    ],
)
def test_when_a_program_and_an_answer_agree(said: str, answer: str, same: bool) -> None:
    assert agrees(said, answer) == same
