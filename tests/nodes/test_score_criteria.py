"""Score criteria: what call 1 may read, reading criteria and grades, the composite on numbers worked out by hand."""

import pytest
from pydantic import ValidationError

from inferloom.core.types import Candidate, Request
from inferloom.nodes.score_criteria import Criterion, ScoreCriteria, ScoreCriteriaParams, composite, read_criteria
from inferloom.nodes.testing import FakeContext, make_state, run

WRITTEN = "3 | Units | Units named: 5.\n1 | Brief | One line: 5."


def criteria(**params: object) -> ScoreCriteria:
    return ScoreCriteria(ScoreCriteriaParams.model_validate({"model": "large", **params}))


def asked(request: Request) -> str:
    return request.messages[-1].content


def judge(model: str, request: Request, index: int) -> str:
    """Writes two criteria; grades a solution as it says itself."""
    if "<solution>" not in asked(request):
        return WRITTEN
    return "Grades: " + asked(request).split("<solution>\n")[1].split("\n</solution>")[0]


def scores(candidates: tuple[Candidate, ...] | None, name: str = "criteria") -> list[float]:
    assert candidates is not None
    return [candidate.scores[name] for candidate in candidates]


def test_criteria_are_inferred_from_the_question_alone_and_weighted() -> None:
    context = FakeContext(reply=judge)
    texts = ["correctness=10, 1=5, 2=5", "correctness=10, 1=0, 2=5", "correctness=0, 1=5, 2=0"]
    output = run(criteria(correctness=0.6), make_state(texts), context)
    assert scores(output.candidates) == pytest.approx([1, 0.6 + 0.4 / 4, 0.4 * 3 / 4])
    assert context.calls == 4
    first = "".join(message.content for message in context.requests[0][1].messages)
    assert not any(text in first for text in texts)
    assert all("Units named: 5." in asked(request) for _, request in context.requests[1:])
    assert {request.temperature for _, request in context.requests} == {0.0}


def test_the_same_question_asks_the_same_first_request_whatever_the_candidates() -> None:
    contexts = [FakeContext(reply=judge), FakeContext(reply=judge)]
    for context, text in zip(contexts, ["correctness=1", "correctness=2"], strict=True):
        run(criteria(), make_state([text]), context)
    assert contexts[0].requests[0] == contexts[1].requests[0]


def test_criteria_of_the_user_save_the_first_call() -> None:
    context = FakeContext(reply=judge)
    node = criteria(criteria=[{"name": "Kind", "weight": 4}], correctness=0, name="kindness")
    output = run(node, make_state(["correctness=10, 1=2"]), context)
    assert scores(output.candidates, "kindness") == pytest.approx([0.4])
    assert context.calls == 1 and node.roles == {"grade_criteria"}
    assert node.calls(3) == (1, 3) and criteria().calls(3) == (2, 4)


def test_equal_texts_are_judged_once() -> None:
    context = FakeContext(reply=judge)
    run(criteria(), make_state(["correctness=1"] * 3), context)
    assert context.calls == 2


def test_inferred_criteria_are_cut_at_the_most() -> None:
    context = FakeContext(reply=judge)
    output = run(criteria(most=1, correctness=0), make_state(["correctness=0, 1=5, 2=0"]), context)
    assert scores(output.candidates) == [1.0]
    assert "Brief" not in asked(context.requests[1][1])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (WRITTEN, [("Units", 3, "Units named: 5."), ("Brief", 1, "One line: 5.")]),
        ("Here they are:\n- **2** | **Clear** | Read at once.", [("Clear", 2, "Read at once.")]),
        ("1. 4 | Deep |", [("Deep", 4, "")]),
        ("Weight: 2.5 | Kind | a | b", [("Kind", 2.5, "a | b")]),
        ("| 5 | Sound | No gaps. |", [("Sound", 5, "No gaps.")]),
        ("weight | name | rubric\n--- | --- | ---\n0 | Nothing | -", []),
        ("3 |  | no name", []),
        ("It should be clear and brief.", []),
    ],
)
def test_reads_criteria_of_many_forms(reply: str, expected: list[tuple[str, float, str]]) -> None:
    assert [(each.name, each.weight, each.rubric) for each in read_criteria(reply)] == expected


def test_without_readable_criteria_correctness_alone_counts() -> None:
    def reply(model: str, request: Request, index: int) -> str:
        return "Grades: correctness=7" if "<solution>" in asked(request) else "Whatever you like."

    context = FakeContext(reply=reply)
    output = run(criteria(), make_state(["a"]), context)
    assert scores(output.candidates) == [0.7]
    assert context.events == [("parse_failed", {"role": "criteria", "reply": "Whatever you like."})]
    assert "criterion" not in asked(context.requests[1][1])


@pytest.mark.parametrize(
    ("reply", "score", "complete"),
    [
        ("correctness=8, 1=5, 2=1", 0.5 * 0.8 + 0.5 * (3 * 1 + 0.2) / 4, True),
        ("Correctness: 8/10\n1: 5\n2: 1", 0.5 * 0.8 + 0.5 * (3 * 1 + 0.2) / 4, True),
        ("correctness=8, 2=1", 0.5 * 0.8 + 0.5 * 0.2, False),
        ("1=5, 2=1", 0.8, False),
        ("correctness=11, 1=6", 0.0, False),
        ("I would rather not.", 0.0, False),
    ],
)
def test_missing_grades_have_no_weight(reply: str, score: float, complete: bool) -> None:
    context = FakeContext(reply=lambda model, request, index: reply if "<solution>" in asked(request) else WRITTEN)
    assert scores(run(criteria(), make_state(["a"]), context).candidates) == pytest.approx([score])
    assert bool(context.events) != complete


def test_the_composite_by_hand() -> None:
    assert composite(0.5, [(1, 1.0), (3, 0.0)], 0.5) == pytest.approx(0.5 * 0.5 + 0.5 * 0.25)
    assert composite(None, [(2, 0.5)], 0.9) == 0.5
    assert composite(0.5, [], 0.1) == 0.5
    assert composite(None, [], 0.5) == 0.0


def test_a_budget_that_ends_after_the_criteria_hands_the_candidates_on() -> None:
    output = run(criteria(), make_state(["b", "a"]), FakeContext(reply=judge, limit=1))
    assert output.stopped == "budget" and output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == ["b", "a"]


def test_a_criterion_has_a_name_and_a_positive_weight() -> None:
    for wrong in ({"name": ""}, {"name": "a", "weight": 0}, {"name": "a", "color": 1}):
        with pytest.raises(ValidationError):
            Criterion.model_validate(wrong)
