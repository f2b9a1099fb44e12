"""Rerank: relevance decides, criteria add, ties keep their order; what cannot be read changes no order."""

from dataclasses import replace

import pytest

from inferloom.core.errors import BudgetExceededError
from inferloom.core.types import Completion, Json, Request
from inferloom.nodes.rerank import Criterion, Rerank, RerankParams, read_criteria, read_marks
from inferloom.nodes.testing import FakeContext, make_state, run

NOTES = ("note one", "note two", "note three", "note four")
STATE = replace(make_state(), notes=NOTES)


def reranked(*replies: str, **params: Json) -> tuple[tuple[str, ...] | None, FakeContext]:
    said = iter(replies)
    context = FakeContext(reply=lambda model, request, index: next(said))
    output = run(Rerank(RerankParams.model_validate({"model": "large", "keep": 9, **params})), STATE, context)
    return output.notes, context


def test_the_most_relevant_come_first_the_irrelevant_go_and_ties_keep_their_order() -> None:
    notes, context = reranked("1: 5\n2: 2.5\n3: 9\n4: 5")
    assert notes == ("note three", "note one", "note four")
    assert context.events == [] and context.calls == 1
    assert reranked("1: 5\n2: 2.5\n3: 9\n4: 5", keep=1)[0] == ("note three",)
    assert reranked("1: 5\n2: 2.5\n3: 9\n4: 5", least=2.5)[0] == ("note three", "note one", "note four", "note two")
    assert reranked("1: 0\n2: 0\n3: 1\n4: 2")[0] == ()


def test_a_note_that_the_reply_leaves_out_is_not_relevant() -> None:
    assert reranked("3: 8\n9: 9")[0] == ("note three",)
    assert reranked("3: 8", least=0)[0] == ("note three", "note one", "note two", "note four")


def test_marks_count_by_their_weight_but_cannot_save_what_is_not_relevant() -> None:
    criteria: Json = [{"name": "depth", "meaning": "goes to the ground", "weight": 1.0}, {"name": "clarity"}]
    notes, context = reranked("1: 6, 0, 0\n2: 5, 1, 2\n3: 4, 5, 0\n4: 2, 5, 5", criteria=criteria)
    assert notes == ("note three", "note two", "note one")
    [(model, request)] = context.requests
    asked = request.messages[-1].content
    assert model == "large" and "depth (goes to the ground)" in asked and "clarity" in asked and "`1: 7, 3, 3`" in asked


def test_marks_are_held_to_their_scale() -> None:
    criteria: Json = [{"name": "depth", "weight": 1.0}]
    assert reranked("1: 9, 0\n2: 4, 99\n3: 99, 0", criteria=criteria)[0] == ("note three", "note one", "note two")


def test_criteria_can_be_inferred_from_the_question_first() -> None:
    first = "recency | 1 | of this year\n- **depth** | 0.5 | goes to the ground\nThat is all."
    notes, context = reranked(first, "1: 6, 0, 0\n2: 5, 3, 0\n3: 1, 5, 5", criteria="inferred")
    assert notes == ("note two", "note one")
    questions, judging = (request.messages[-1].content for _, request in context.requests)
    assert "note one" not in questions
    assert "recency (of this year)" in judging and "depth (goes to the ground)" in judging
    notes, context = reranked("No.", "1: 6\n2: 7", criteria="inferred")
    assert notes == ("note two", "note one")
    assert context.events == [("parse_failed", {"role": "rerank_criteria", "reply": "No."})]


def test_a_reply_without_marks_keeps_the_order() -> None:
    notes, context = reranked("All of them are good.", keep=2)
    assert notes == ("note one", "note two")
    assert context.events == [("parse_failed", {"role": "rerank", "reply": "All of them are good."})]


def test_notes_are_shown_as_material_only_and_only_the_first_of_them() -> None:
    notes, context = reranked("1: 8\n2: 9\n3: 9", batch=2)
    assert notes == ("note two", "note one")
    [(_, request)] = context.requests
    said = [message.content for message in request.messages]
    assert sum(text.count("note one") for text in said) == 1 and "note three" not in "".join(said)
    assert "1 + 1" not in "".join(said), "examples are for those who answer"
    assert request.temperature == 0


def test_without_notes_nothing_is_asked() -> None:
    context = FakeContext()
    assert run(Rerank(RerankParams(model="large")), replace(STATE, notes=()), context).notes is None
    assert context.calls == 0


def test_the_last_line_of_a_cut_reply_is_not_trusted() -> None:
    def cut(model: str, request: Request, index: int) -> Completion:
        return Completion(text="1: 5\n2: 8\n3: 1", finish_reason="length")

    output = run(Rerank(RerankParams(model="large", least=1)), STATE, FakeContext(reply=cut))
    assert output.notes == ("note two", "note one")


def test_a_budget_that_ends_between_the_turns_keeps_the_first_notes() -> None:
    node = Rerank(RerankParams(model="large", keep=2, criteria="inferred"))
    output = run(node, STATE, FakeContext(limit=1))
    assert (output.notes, output.stopped) == (NOTES[:2], "budget")
    with pytest.raises(BudgetExceededError):
        run(Rerank(RerankParams(model="large")), STATE, FakeContext(limit=0))


@pytest.mark.parametrize(
    ("line", "marks"),
    [
        ("2: 7", [7.0]),
        ("2: 7/10, 3/5", [7.0, 3.0]),
        ("2: 7 out of 10, 3 of 5", [7.0, 3.0]),
        ("Document 2: relevance 7, depth 3", [7.0, 3.0]),
        ("Doc: 2, Relevance: 7", [7.0]),
        ("**2** | 6.5 | 3", [6.5, 3.0]),
        ("2: 70", [10.0]),
        ("5: 7", None),
        ("2", None),
        ("2: high", None),
    ],
)
def test_marks_are_read_from_the_lines_that_models_write(line: str, marks: list[float] | None) -> None:
    assert read_marks(line, 4) == ({} if marks is None else {1: marks})


def test_the_first_line_about_a_note_counts() -> None:
    assert read_marks("1: 3\n1: 9", 4) == {0: [3.0]}


def test_lines_that_are_no_criteria_are_passed_over() -> None:
    assert read_criteria("Here:\n1. recency | 0.8 | new\nx | 7 | too heavy\n| 1 | no name\ndepth | 1 |") == (
        Criterion(name="recency", weight=0.8, meaning="new"),
    )
