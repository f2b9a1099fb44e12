"""The pocket models' data sets, conversations and measurements, and the models themselves."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from pathlib import Path

import pytest

from inferloom.core.errors import DataError, UnknownNameError
from inferloom.core.types import Completion, TokenLogprob
from inferloom.models.pocket.asking import ask, check, combine, digit_score, is_right, rank, revise, score, solve
from inferloom.models.pocket.jobs import Curriculum, attempt_of, check_report, marks_of
from inferloom.models.pocket.measure import tables, write_card
from inferloom.models.pocket.measuring import Case, Replies, Share, attempts, auc, measure
from inferloom.models.pocket.suite import SUITE_LEVELS, parse_name, pocket_items, stream_items
from inferloom.models.pocket.tasks import FAMILIES, Item
from inferloom.models.scripted import ScriptedBackend
from inferloom.models.spec import ModelSpec
from inferloom.models.transformers import POCKET_FOLDER, POCKET_SIZES, open_pocket

THERE = [size for size in POCKET_SIZES if (POCKET_FOLDER / size / "config.json").is_file()]


class TestSuite:
    def test_items_follow_from_the_seed_and_differ(self) -> None:
        items = pocket_items("pocket", None, 180, 7)
        assert items == pocket_items("pocket", None, 180, 7)
        assert items[:50] == pocket_items("pocket", None, 50, 7)
        assert len({(item.question, item.notes) for item in items}) == 180
        assert set(Counter(item.family for item in items).values()) == {20}
        for family, levels in SUITE_LEVELS.items():
            assert {item.level for item in items if item.family == family} == set(levels)

    def test_seeds_and_purposes_draw_apart(self) -> None:
        questions = [
            {item.question for item in pocket_items("pocket:reverse", [3], 50, seed, purpose=purpose)}
            for seed, purpose in ((0, "measure"), (1, "measure"), (0, "sweep"))
        ]
        assert not questions[0] & questions[1]
        assert not questions[0] & questions[2]

    def test_every_item_is_right_by_its_own_family(self) -> None:
        for item in pocket_items("pocket", None, 90, 3):
            assert is_right(item, item.solution)
            assert attempt_of(item, item.solution).verdicts == (True,) * len(item.solution.split("\n"))

    def test_names(self) -> None:
        assert parse_name("pocket:sum") == ("sum",)
        assert parse_name("pocket") == tuple(FAMILIES)
        with pytest.raises(UnknownNameError, match="did you mean `pocket:sum`"):
            parse_name("pocket:sums")

    def test_levels_out_of_range_and_too_many_items_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"sum: .* must be from 1 to 6"):
            pocket_items(["sum"], {"sum": (0, 7)}, 3, 0)
        with pytest.raises(DataError, match="too few different questions"):
            pocket_items("pocket:target", [1], 5000, 0)

    @pytest.mark.parametrize("family", ["operator", "code"])
    def test_a_stream_keeps_to_one_world(self, family: str) -> None:
        items = stream_items(family, None, 40, 5)
        assert len({(item.question, item.notes) for item in items}) == 40
        told = {note.split("=")[0]: note for item in items for note in item.notes}
        assert all(told[note.split("=")[0]] == note for item in items for note in item.notes)
        other = stream_items(family, None, 40, 6)
        assert {note for item in other for note in item.notes} != {note for item in items for note in item.notes}

    def test_a_stream_of_a_family_without_worlds_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown memory stream `sum`"):
            stream_items("sum", None, 3, 0)


class TestAsking:
    """The conversations are those of training: each request is the beginning of a training document."""

    item = Item(family="sum", level=2, question="1+2+3=?", steps=("1+2=3", "3+3=6"), answer="6")

    def test_each_job_asks_as_it_was_taught(self) -> None:
        text = self.item.solution
        shown = [(m.role, m.content) for m in revise(self.item, text, "1 ok").messages]
        assert shown == [
            ("user", "1+2+3=?"),
            ("assistant", text),
            ("user", "check"),
            ("assistant", "1 ok"),
            ("user", "revise"),
        ]
        assert [m.content for m in score(self.item, "1+2=3").messages] == ["1+2+3=?", "1+2=3", "score"]
        assert [m.content for m in check(self.item, text).messages] == ["1+2+3=?", text, "check"]
        assert rank(self.item, ["x", "y"]).messages[0].content == "1+2+3=?\nA)\nx\nB)\ny\nrank"
        assert combine(self.item, ["x", "y"]).messages[0].content == "1+2+3=?\nA)\nx\nB)\ny\ncombine"

    def test_notes_and_examples_stand_in_front(self) -> None:
        item = stream_items("code", [2], 1, 1)[0]
        examples = stream_items("code", [1], 1, 1)
        roles = [m.role for m in solve(item, examples=examples).messages]
        assert roles == ["system", "user", "assistant", "user"]
        assert [m.role for m in solve(item, notes=False).messages] == ["user"]

    def test_the_digit_score_is_the_expected_digit(self) -> None:
        top = (("9", math.log(0.5)), ("0", math.log(0.25)), ("x", math.log(0.2)), ("3", math.log(0.05)))
        reply = Completion(text="9", finish_reason="stop", logprobs=(TokenLogprob("9", math.log(0.5), top),))
        assert digit_score(reply) == pytest.approx((9 * 0.5 + 3 * 0.05) / (9 * 0.8))
        assert digit_score(Completion(text="", finish_reason="stop")) == 0.5


class TestMeasuring:
    def test_the_area_under_the_curve_counts_ties_half(self) -> None:
        assert auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
        assert auc([1, 1, 1], [True, False, False]) == 0.5
        assert auc([3, 2, 1], [False, False, True]) == 0.0
        assert math.isnan(auc([1, 2], [True, True]))

    def test_a_share_has_the_usual_interval(self) -> None:
        share = Share.of([1.0] * 30 + [0.0] * 70)
        assert share.value == pytest.approx(0.3)
        assert share.margin == pytest.approx(1.96 * math.sqrt(0.21 / 99), rel=1e-6)
        assert math.isnan(Share.of([]).value)

    async def test_a_model_that_knows_everything_scores_full_marks(self, tmp_path: Path) -> None:
        items = pocket_items(["sum", "code"], {"sum": (2,), "code": (1,)}, 12, 0)
        backend = _oracle(items)
        report, _, _ = await measure(backend, "small", items, await _half_right(items))
        assert report.one_try["all"] == Share(1.0, 0.0, 12)
        assert report.any_try["code"].value == 1.0
        assert report.answer_auc["small's"]["all"] == report.within_auc["small's"]["sum"] == 1.0
        assert report.choices["the best by the judge"]["all"] == Share(1.0, 0.0, 12)
        assert report.jobs["check: whole report right"].value == 1.0
        assert report.jobs["revise: after"].value == 1.0
        assert report.jobs["code: bare"].value == 0.0
        assert report.jobs["code: with notes"].value == 1.0
        text = tables([report], "measure")
        card = tmp_path / "README.md"
        card.write_text("# Card\n\nWritten by hand.\n")
        write_card(text, card)
        write_card(text, card)
        assert card.read_text().startswith("# Card\n\nWritten by hand.\n")
        assert card.read_text().count("| small |") == text.count("| small |")


async def _half_right(items: list[Item]) -> tuple[list[Case], list[Replies]]:
    by_question = {item.question: item for item in items}

    def reply(request, seed):  # type: ignore[no-untyped-def]  # a script
        item = by_question[request.messages[-1].content]
        return item.solution if seed % 2 else "A: -1"

    return await attempts(ScriptedBackend(reply), items, 16, "half")


def _oracle(items: list[Item]) -> ScriptedBackend:
    """Answers, judges and revises without a mistake; knows no convention untold."""
    by_question = {item.question: item for item in items}

    def reply(request, seed):  # type: ignore[no-untyped-def]  # a script
        messages = [m for m in request.messages if m.role != "system"]
        job = messages[-1].content
        # An item may be asked by itself, at the head of its options, or after solved examples.
        asked = [m.content.split("\n")[0] for m in messages if m.role == "user"]
        item = next(by_question[one] for one in reversed(asked) if one in by_question)
        if job == "score":
            attempt = attempt_of(item, messages[1].content)
            right = attempt.right or (not attempt.text.split("\n")[-1].startswith("A") and all(attempt.verdicts))
            digit = "9" if right else "0"
            token = TokenLogprob(digit, 0.0, ((digit, 0.0),))
            return Completion(text=digit, finish_reason="stop", logprobs=(token,))
        if job == "check":
            return check_report(attempt_of(item, messages[1].content).verdicts)
        told = not item.notes or len(request.messages) > 1
        return item.solution if told else "A: -1"

    return ScriptedBackend(reply)


def test_the_curriculum_makes_every_job() -> None:
    from random import Random

    curriculum = Curriculum(Random(0))
    last = Counter(
        turn.content.split("\n")[-1]
        for _ in range(400)
        for d in [curriculum.document()]
        for turn in d.trunk
        if turn.role == "user"
    )
    assert {"rank", "combine"} <= set(last)


@pytest.mark.skipif(not THERE, reason="the weights are not part of this checkout")
@pytest.mark.parametrize("size", THERE)
async def test_a_pocket_model_answers_easy_items_and_knows_its_jobs(size: str) -> None:
    pytest.importorskip("transformers")
    backend = open_pocket(size, ModelSpec(model=f"pocket:{size}"))
    items = pocket_items(["sum"], [1], 40, 11)
    replies = await ask(backend, [solve(item) for item in items])
    assert sum(is_right(item, reply[0].text) for item, reply in zip(items, replies, strict=True)) >= 20
    reports = await ask(backend, [check(item, item.solution) for item in items[:8]])
    assert all(reply[0].text.split("\n")[0] in ("1 ok", "1 wrong") for reply in reports)
    digits = await ask(backend, [score(item, item.solution) for item in items[:8]])
    assert all(reply[0].text in ("0", "9") for reply in digits)
    texts = await asyncio.gather(*(backend.generate(solve(item), [1]) for item in items))
    alone = [await backend.generate(solve(item), [1]) for item in items[:10]]
    assert [one[0].text for one in alone] == [one[0].text for one in texts[:10]]
    await backend.aclose()


@pytest.mark.skipif(len(THERE) < 2, reason="needs two pocket models")
async def test_two_models_asked_at_once_are_both_loaded() -> None:
    backends = [open_pocket(size, ModelSpec.parse(f"pocket:{size}")) for size in THERE[:2]]
    item = pocket_items("pocket:sum", [1], 1, 0)[0]
    answers = await asyncio.gather(*(backend.generate(solve(item), [1]) for backend in backends))
    assert all(answer[0].text for answer in answers)
    for backend in backends:
        await backend.aclose()


def test_a_mistake_is_marked_at_its_first_wrong_character() -> None:
    [item] = pocket_items(["sum"], [2], 1, 0)
    wrong = item.solution.replace("=", "=9", 1)
    marks = marks_of(item, attempt_of(item, wrong), turn=1, start=10)
    assert [mark.at for mark in marks] == list(range(10, 10 + item.solution.index("=") + 2))
    assert [mark.right for mark in marks] == [True] * (len(marks) - 1) + [False]
    cut = item.solution[:-1]
    assert marks_of(item, attempt_of(item, cut), turn=1)[-1].at == len(cut), "an end that comes too early"
    assert all(mark.right for mark in marks_of(item, attempt_of(item, item.solution), turn=1))


def test_where_many_solutions_are_right_only_lines_are_marked() -> None:
    [item] = pocket_items(["target"], [2], 1, 0)
    lines = item.solution.split("\n")
    marks = marks_of(item, attempt_of(item, "\n".join((*lines[:-1], "A: 1"))), turn=1)
    ends = [len("\n".join(lines[:index])) for index in range(1, len(lines))]
    assert [mark.at for mark in marks[:-1]] == ends
    assert [mark.right for mark in marks] == [True] * len(ends) + [False]
