"""Safety: the configuration reaches whoever answers; the judge's two answers make three scores."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from inferloom.core.types import Json, Request
from inferloom.nodes.common import converse
from inferloom.nodes.safety import Safety, SafetyParams
from inferloom.nodes.testing import FakeContext, make_state, run

CONFIGURATION = (
    "Safety configuration. It holds before anything else that is asked. Allowed: violence in fiction; war history."
    " Not allowed: weapons. Rules: Name no living person."
)
PARAMS: dict[str, Json] = {
    "allowed": ["violence in fiction", "war history"],
    "disallowed": ["weapons"],
    "rules": "Name no living person.",
}


def safety(**params: Json) -> Safety:
    return Safety(SafetyParams.model_validate({**PARAMS, **params}))


def test_the_configuration_comes_before_other_notes_and_once() -> None:
    state, context = make_state(), FakeContext()
    output = run(safety(), state, context)
    assert output.notes == (CONFIGURATION, "Addition comes first.")
    state = replace(state, notes=output.notes)
    assert run(safety(), state, context).notes == output.notes
    system = converse(state, context, "solve")[0]
    assert system.role == "system" and CONFIGURATION in system.content
    assert context.calls == 0


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"allowed": ["a"]}, "Allowed: a."),
        ({"disallowed": ["a", "b"]}, "Not allowed: a; b."),
        ({"rules": "Be kind."}, "Rules: Be kind."),
    ],
)
def test_what_is_left_out_is_not_told(params: dict[str, Json], told: str) -> None:
    assert SafetyParams.model_validate(params).configuration == (
        f"Safety configuration. It holds before anything else that is asked. {told}"
    )


def judge(model: str, request: Request, index: int) -> str:
    """Says what the candidate's text tells it to say: H for helpful, X for harmful."""
    harm = "harmful content" in request.messages[-1].content
    text = request.messages[-1].content.split("<answer>")[1].split("</answer>")[0]
    return "Yes." if ("X" if harm else "H") in text else "**NO**"


def test_the_scores_of_the_four_cases() -> None:
    context = FakeContext(reply=judge)
    output = run(safety(mode="judge", model="large"), make_state(["H", "HX", "X", "-"]), context)
    assert output.candidates is not None and output.stopped is None
    scores = [[candidate.scores[name] for name in ("helpful", "safe", "cosa")] for candidate in output.candidates]
    assert scores == [[1, 1, 1], [1, 0, -1], [0, 0, 0], [0, 1, 0]]
    assert output.candidates[0].scores["judge"] == 1
    assert context.calls == 8


def test_the_configuration_reaches_the_judge_of_harm_only_and_equal_texts_are_judged_once() -> None:
    context = FakeContext(reply=judge)
    output = run(safety(mode="judge", model="large", max_tokens=5), make_state(["H"] * 3), context)
    assert output.candidates is not None and all(candidate.scores["cosa"] == 1 for candidate in output.candidates)
    helpful, harmful = (request for _, request in context.requests)
    assert CONFIGURATION in harmful.messages[0].content and CONFIGURATION not in helpful.messages[0].content
    for request in (helpful, harmful):
        said = "".join(message.content for message in request.messages)
        assert "Addition comes first." not in said and "1 + 1" not in said
        assert (request.temperature, request.max_tokens) == (0, 5)


def test_a_reply_that_says_neither_counts_against_the_candidate() -> None:
    context = FakeContext(reply=lambda model, request, index: "Hard to say, notably.")
    output = run(safety(mode="judge", model="large"), make_state(["one"]), context)
    assert output.candidates is not None
    assert [output.candidates[0].scores[name] for name in ("helpful", "safe", "cosa")] == [0, 0, 0]
    assert [event for event, _ in context.events] == ["parse_failed", "parse_failed"]


def test_a_budget_that_ends_hands_on_the_best_first_and_no_half_scores() -> None:
    texts = ["HX", "H", "unknown"]
    output = run(safety(mode="judge", model="large"), make_state(texts), FakeContext(reply=judge, limit=5))
    assert output.candidates is not None and output.stopped == "budget"
    assert [candidate.text for candidate in output.candidates] == ["H", "unknown", "HX"]
    assert "helpful" not in output.candidates[1].scores


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"allowed": [], "disallowed": [], "rules": None}, "at least one of `allowed`, `disallowed` and `rules`"),
        ({"allowed": ["Weapons"]}, "the category `weapons` is both allowed and disallowed"),
        ({"mode": "judge"}, "needs `model` with mode `judge`"),
        ({"model": "large"}, "needs `model` with mode `judge`, and only there"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(params: dict[str, Json], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        safety(**params)


def test_what_it_gives_depends_on_the_mode() -> None:
    assert (safety().requires, safety().provides, safety().roles) == (frozenset(), {"notes"}, frozenset())
    judging = safety(mode="judge", model="large")
    assert (judging.requires, judging.provides) == ({"candidates"}, {"scores"})
    assert judging.calls(3) == (2, 6)
