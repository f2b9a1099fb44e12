"""Score steps: prefixes, one call for equal ones, and the formulas on numbers worked out by hand."""

import re

import pytest

from inferloom.core.types import Request
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.score_steps import ScoreSteps, ScoreStepsParams, combine, step_prefixes
from inferloom.nodes.testing import FakeContext, make_state, run


def steps(**params: object) -> ScoreSteps:
    return ScoreSteps(ScoreStepsParams.model_validate({"model": "large", **params}))


def last_digit(model: str, request: Request, index: int) -> str:
    """The grade that the last line of the partial solution names."""
    partial = request.messages[-2].content
    return re.findall(r"\d", partial)[-1]


def pocket(**fields: object) -> FakeContext:
    return FakeContext(**{"reply": last_digit, "prompts": load_pack("pocket"), **fields})  # type: ignore[arg-type]  # test shorthand


def graded(context: FakeContext) -> list[str]:
    return [request.messages[-2].content for _, request in context.requests]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("last", 0.6),
        ("min", 0.2),
        ("product", 0.9 * 0.2 * 0.6),
        ("mean", 1.7 / 3),
        ("clip", 1 + (0 - 0.3 + 0) / 3 / 0.5),
        ("delta", 0.6 + 0.25 * ((0.9 - 0.2) + (0.2 - 0.6))),
    ],
)
def test_the_formulas(how: str, expected: float) -> None:
    assert combine([0.9, 0.2, 0.6], how, eta=0.5, alpha=0.25) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["last", "min", "product", "mean", "clip", "delta"])
@pytest.mark.parametrize("grades", [[0.0], [1.0], [0.0] * 7, [1.0] * 7, [1.0, 0.0], [0.0, 1.0], [0.3] * 3])
def test_every_aggregate_stays_within_0_and_1_and_is_no_sum(how: str, grades: list[float]) -> None:
    score = combine(grades, how, eta=0.7, alpha=0.4)  # type: ignore[arg-type]
    assert 0 <= score <= 1
    # Saying the same right thing again must not pay.
    padded = combine([*grades[:-1], *[1.0] * 5, grades[-1]], how, eta=0.7, alpha=0.4)  # type: ignore[arg-type]
    if all(grade == 1.0 for grade in grades):
        assert padded == pytest.approx(score)


def test_prefixes_end_with_lines_or_paragraphs_and_skip_blank_ones() -> None:
    text = "a\n\nb\nc\n \nd\n"
    assert step_prefixes(text, "line", 99) == ["a", "a\n\nb", "a\n\nb\nc", text]
    assert step_prefixes(text, "paragraph", 99) == ["a", "a\n\nb\nc", text]
    assert step_prefixes("", "line", 9) == [""]
    assert step_prefixes("\n\n", "paragraph", 9) == ["\n\n"]
    assert step_prefixes("a", "paragraph", 9) == ["a"]


def test_too_many_steps_are_thinned_out_evenly_and_keep_the_whole() -> None:
    text = "\n".join("abcdefghij")
    assert [prefix[-1] for prefix in step_prefixes(text, "line", 5)] == list("bdfhj")
    assert [prefix[-1] for prefix in step_prefixes(text, "line", 3)] == list("dgj")
    assert len(step_prefixes("x\n" * 50_000, "line", 32)) == 32


def test_steps_are_graded_on_the_partial_text() -> None:
    context = pocket()
    output = run(steps(), make_state(["9\n3\n6"]), context)
    assert output.candidates is not None
    assert output.candidates[0].scores["steps"] == pytest.approx(3 / 9)
    assert graded(context) == ["9", "9\n3", "9\n3\n6"]


def test_equal_prefixes_are_graded_once() -> None:
    context = pocket()
    output = run(steps(aggregate="mean"), make_state(["9\n3", "9\n0", "9\n3", "9"]), context)
    assert output.candidates is not None and context.calls == 3
    assert [c.scores["steps"] for c in output.candidates] == pytest.approx([6 / 9, 4.5 / 9, 6 / 9, 1])


@pytest.mark.parametrize(("how", "asked"), [("last", ["9\n3\n6"]), ("delta", ["9", "9\n3\n6"])])
def test_only_the_grades_that_count_are_asked_for(how: str, asked: list[str]) -> None:
    context = pocket()
    run(steps(aggregate=how), make_state(["9\n3\n6"]), context)
    assert graded(context) == asked


def test_the_budget_scores_only_candidates_with_all_their_grades() -> None:
    output = run(steps(), make_state(["1\n1", "9\n9", "9\n9\n9"]), pocket(limit=4))
    assert output.stopped == "budget" and output.candidates is not None
    assert [(c.text, c.scores.get("steps")) for c in output.candidates] == [
        ("9\n9", 1.0),
        ("1\n1", pytest.approx(1 / 9)),
        ("9\n9\n9", None),
    ]


def test_a_reply_without_a_digit_is_a_zero_and_reported() -> None:
    context = pocket(reply=lambda model, request, index: "fine")
    output = run(steps(aggregate="last"), make_state(["1"]), context)
    assert output.candidates is not None and output.candidates[0].scores["steps"] == 0.0
    assert context.events == [("parse_failed", {"role": "score", "reply": "fine"})]


def test_delta_grades_the_first_step_and_the_whole_of_a_text_with_more_steps_than_the_most() -> None:
    context = pocket()
    node = steps(aggregate="delta", alpha=0.5, max_steps=2)
    output = run(node, make_state(["9\n1\n2\n3"]), context)
    assert graded(context) == ["9", "9\n1\n2\n3"] and node.calls(1)[1] == 2
    assert output.candidates is not None
    assert output.candidates[0].scores["steps"] == pytest.approx((9 + 3) / 18)
