"""Score: reading grades, expected digits, one call per text, log-probabilities."""

import asyncio
import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from inferloom.core.errors import UserError
from inferloom.core.types import Candidate, Completion, Request, TokenLogprob
from inferloom.nodes.grading import expected_digit, greedy_digit
from inferloom.nodes.score import Score, ScoreParams
from inferloom.nodes.scorers import register_scorer
from inferloom.nodes.testing import FakeContext, make_state, run


def score(**params: object) -> Score:
    return Score(ScoreParams.model_validate({"model": "large", **params}))


def grade_by_text(model: str, request: Request, index: int) -> str:
    """The digit that stands in the candidate's text."""
    return next(digit for digit in "0123456789" if f"grade {digit}" in request.messages[-1].content)


def test_the_digit_becomes_a_score_from_0_to_1() -> None:
    context = FakeContext(reply=grade_by_text)
    output = run(score(), make_state(["grade 0", "grade 9", "grade 3"]), context)
    assert output.candidates is not None
    assert [candidate.scores["judge"] for candidate in output.candidates] == pytest.approx([0, 1, 1 / 3])
    assert {request.temperature for _, request in context.requests} == {0.0}


def test_the_name_can_be_chosen_and_other_scores_stay() -> None:
    output = run(score(name="grade"), make_state(["grade 1"]), FakeContext(reply=grade_by_text))
    assert output.candidates is not None and set(output.candidates[0].scores) == {"judge", "logprob", "grade"}


def test_equal_texts_are_judged_once() -> None:
    context = FakeContext(reply=grade_by_text)
    output = run(score(), make_state(["grade 4", "grade 5", "grade 4", "grade 4"]), context)
    assert context.calls == 2
    assert output.candidates is not None
    assert [round(candidate.scores["judge"] * 9) for candidate in output.candidates] == [4, 5, 4, 4]


def test_a_reply_without_a_digit_scores_lowest_and_is_reported() -> None:
    context = FakeContext(reply=lambda model, request, index: "I cannot say.")
    output = run(score(), make_state(["a"]), context)
    assert output.candidates is not None and output.candidates[0].scores["judge"] == 0.0
    assert context.events == [("parse_failed", {"role": "score", "reply": "I cannot say."})]


@pytest.mark.parametrize(
    ("reply", "digit"),
    [
        ("7", 7),
        ("7/9", 7),
        ("Score: 7.", 7),
        (" 0\n", 0),
        ("**8**", 8),
        ("10", None),
        ("0.7", None),
        ("", None),
        ("٣", None),
    ],
)
def test_reads_a_digit_that_stands_alone(reply: str, digit: float | None) -> None:
    assert greedy_digit(reply) == digit


def digit_reply(text: str, tokens: list[tuple[str, dict[str, float]]]) -> Completion:
    """A reply of tokens, each with the chances of the tokens that could stand there."""
    logprobs = tuple(
        TokenLogprob(token, math.log(chances[token]), tuple((t, math.log(c)) for t, c in chances.items()))
        for token, chances in tokens
    )
    return Completion(text=text, finish_reason="stop", logprobs=logprobs)


def test_expected_weighs_the_digits_by_their_chances() -> None:
    reply = digit_reply("9", [("9", {"9": 0.6, " 9": 0.1, "0": 0.2, "x": 0.1})])
    assert expected_digit(reply) == pytest.approx(9 * 0.7 / 0.9)


def test_expected_finds_the_digit_after_words_and_reasoning() -> None:
    reply = digit_reply(
        "Grade: 6",
        [("<think>2</think>", {"<think>2</think>": 1.0}), ("Grade: ", {"Grade: ": 1.0}), ("6", {"6": 0.5, "8": 0.5})],
    )
    assert expected_digit(reply) == pytest.approx(7)


def test_expected_takes_a_digit_inside_a_longer_token_as_it_is() -> None:
    assert expected_digit(digit_reply("6.", [("6.", {"6.": 1.0})])) == 6


@pytest.mark.parametrize(
    "reply", [Completion(text="7", finish_reason="stop"), digit_reply("no", [("no", {"no": 1.0})])]
)
def test_expected_without_log_probabilities_or_digits_is_a_parse_failure(reply: Completion) -> None:
    assert expected_digit(reply) is None


def test_expected_asks_for_alternatives_and_needs_the_capability() -> None:
    context = FakeContext(reply=lambda model, request, index: digit_reply("9", [("9", {"9": 0.75, "0": 0.25})]))
    node = score(expected=True)
    output = run(node, make_state(["a"]), context)
    assert node.needs == {"logprobs"} and score().needs == frozenset()
    assert context.requests[0][1].logprobs == 20
    assert output.candidates is not None and output.candidates[0].scores["judge"] == pytest.approx(0.75)


def test_when_the_budget_ends_the_best_of_the_judged_comes_first() -> None:
    output = run(score(), make_state(["grade 2", "grade 7", "grade 9"]), FakeContext(reply=grade_by_text, limit=2))
    assert output.candidates is not None and output.stopped == "budget"
    assert [candidate.text for candidate in output.candidates] == ["grade 7", "grade 2", "grade 9"]
    assert output.candidates[2].scores.keys() == {"judge", "logprob"} or "judge" not in output.candidates[2].scores


def test_logprob_turns_a_mean_into_a_probability_without_calls() -> None:
    context = FakeContext()
    node = Score(ScoreParams(method="logprob"))
    output = run(node, make_state(["a", "b", "c"]), context)
    assert output.candidates is not None and context.calls == 0
    assert [candidate.scores["confidence"] for candidate in output.candidates] == pytest.approx(
        [1.0, math.exp(-0.25), math.exp(-0.5)]
    )


def test_logprob_without_recorded_ones_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="unknown score `logprob`"):
        run(Score(ScoreParams(method="logprob")), make_state(["a"], scores=["judge"]), FakeContext())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"method": "logprob", "model": "large"},
        {"method": "logprob", "expected": True},
        {"method": "vibes"},
        {"model": "large", "tokens": "min"},
        {"model": "large", "scorer": "test/length"},
        {"method": "callable"},
        {"method": "callable", "scorer": "test/length", "model": "large"},
    ],
)
def test_parameters_that_do_not_fit_the_method_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScoreParams.model_validate(params)


def test_the_least_likely_token_may_count_instead_of_the_mean() -> None:
    candidates = tuple(
        candidate.with_score("min_logprob", logprob)
        for candidate, logprob in zip(make_state(["a", "b"]).candidates, (-2.0, -0.5), strict=True)
    )
    state = replace(make_state(), candidates=candidates)
    output = run(Score(ScoreParams(method="logprob", tokens="min")), state, FakeContext())
    assert output.candidates is not None
    assert [candidate.scores["confidence"] for candidate in output.candidates] == pytest.approx(
        [math.exp(-2), math.exp(-0.5)]
    )


@register_scorer("test/length")
def length(question: str, candidate: Candidate) -> float:
    assert question == "What is 2 + 3?"
    return len(candidate.text) + candidate.scores["judge"]


@register_scorer("test/waiting")
async def waiting(question: str, candidate: Candidate) -> float:
    await asyncio.sleep(0)
    return {"a": 1.5, "b": math.inf}.get(candidate.text, -0.5)


@register_scorer("test/broken")
def broken(question: str, candidate: Candidate) -> float:
    return 1 / len(candidate.text[1:])


def call(scorer: str, texts: list[str]) -> list[float]:
    context = FakeContext()
    output = run(Score(ScoreParams(method="callable", scorer=scorer)), make_state(texts), context)
    assert output.candidates is not None and context.calls == 0
    return [candidate.scores["callable"] for candidate in output.candidates]


def test_a_registered_function_scores_each_whole_candidate() -> None:
    assert call("test/length", ["ab", "ab", ""]) == pytest.approx([3, 2.5, 1 / 3])
    assert call("test/waiting", ["a", "c"]) == [1.5, -0.5]


def test_a_function_that_fails_or_gives_no_number_is_named() -> None:
    with pytest.raises(UserError, match="steps/1: the scorer `test/broken` failed: ZeroDivisionError"):
        call("test/broken", ["ab", "a"])
    with pytest.raises(UserError, match="steps/1: the scorer `test/waiting` gave inf; must be a finite number"):
        call("test/waiting", ["a", "b"])


def test_an_unknown_function_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="unknown scorer `test/lenght`; did you mean `test/length`"):
        ScoreParams(method="callable", scorer="test/lenght")
    with pytest.raises(ValidationError, match="unknown scorer `os:getcwd`"):
        ScoreParams(method="callable", scorer="os:getcwd")
