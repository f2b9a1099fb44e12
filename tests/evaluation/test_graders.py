"""The contract that every grader keeps, and what each adds to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferloom.core.errors import DataError, SetupError, SpecError, UnsupportedCodeError
from inferloom.core.types import Json
from inferloom.evaluation import GRADERS, CallableGrader, Grader, Item, make_grader
from inferloom.evaluation import graders as package
from inferloom.models.pocket.tasks import FAMILIES

QUESTION = "Which is red?\nA) sky\nB) blood\nC) grass"


def starts_with_blood(item: Item, answer: str | None, text: str) -> bool:
    return bool(answer) and str(answer).startswith("42")


def item(answer: str, question: str = "q", **meta: Json) -> Item:
    return Item(id="i", question=question, answer=answer, meta=meta)


# One case for every grader: (grader, item, a right answer, a wrong answer).
CASES: dict[str, tuple[Grader, Item, str, str]] = {
    "exact": (make_grader("exact"), item("New York"), " new  york.", "York"),
    "numeric": (make_grader("numeric"), item("1,250.0"), "$1250", "1251"),
    "contains": (make_grader("contains"), item("13"), "it is 13, I think", "it is 130"),
    "regex": (make_grader("regex"), item(r"4\d"), "42", "142"),
    "choice": (make_grader("choice"), item("B", QUESTION), "B)", "C"),
    "code": (make_grader("code"), item("assert double(2) == 4"), "def double(x):\n    return 2 * x", "double = abs"),
    "pocket": (
        make_grader("pocket"),
        item("(2+3)*4", "make 20 from 2 3 4", family="target", level=2),
        "4*(3+2)",
        "20",
    ),
    "callable": (CallableGrader(starts_with_blood), item(""), "42!", "24"),
}
HOSTILE = [
    "",
    " ",
    "\0",
    "\ud800",
    "A) B) C)",
    "1/0",
    "1e999999999",
    "9" * 100_000,
    "(" * 100_000,
    "٣",
    "-",
    "1/",
    "x" * 100_000,
]


def test_every_grader_has_its_case() -> None:
    assert set(GRADERS.names()) == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_right_is_one_wrong_is_zero_none_is_zero(name: str) -> None:
    grader, asked, right, wrong = CASES[name]
    assert grader.name == name
    assert grader.refusal(asked) is None
    assert grader.grade(asked, right, right) == 1.0
    assert grader.grade(asked, wrong, wrong) == 0.0
    assert grader.grade(asked, None, "") == 0.0


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_that_a_model_writes_breaks_a_grader(name: str, text: str) -> None:
    grader, asked, _, _ = CASES[name]
    assert grader.grade(asked, text, text) in (0.0, 1.0)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_is_graded(name: str, text: str) -> None:
    grader, asked, _, _ = CASES[name]
    assert grader.grade(asked, text, text) in (0.0, 1.0)


def test_a_grader_is_one_file_one_export_and_one_case() -> None:
    folder = Path(str(package.__file__)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert files == set(GRADERS.names())
    for name, kind in GRADERS:
        assert Path(inspect.getfile(kind)).stem == name
        assert getattr(package, kind.__name__) is kind


@pytest.mark.parametrize(
    ("spec", "right", "answer", "grade"),
    [
        ({"numeric": {"tolerance": 0.01}}, "3.14", "3.15", 1.0),
        ({"numeric": {"tolerance": 0.01}}, "3.14", "3.16", 0.0),
        ({"numeric": {"relative": 0.1}}, "-200", "-185", 1.0),
        ("numeric", "1/2", "0.5", 1.0),
        ("numeric", "42", "42 apples", 1.0),
        ("numeric", "42", "42 or 43", 0.0),
        ("numeric", "42", "step 2: 42", 0.0),
        ("contains", "3", "3.5 or 13", 0.0),
        ("contains", "3", "so 3.", 1.0),
        ("contains", "a b", "A\n B", 1.0),
        ({"regex": {"pattern": "yes|ja"}}, "", "ja", 1.0),
        ({"regex": {"pattern": "yes|ja"}}, "", "yes!", 0.0),
        ({"regex": {"pattern": "yes", "field": "text"}}, "", "oh yes!", 1.0),
    ],
)
def test_parameters_do_what_they_say(
    spec: str | Mapping[str, Mapping[str, str | float]], right: str, answer: str, grade: float
) -> None:
    assert make_grader(spec).grade(item(right), answer, answer) == grade


@pytest.mark.parametrize(
    ("right", "answer", "grade"),
    [
        ("blood", "b", 1.0),
        ("B", "Blood", 1.0),
        ("B", "(B)", 1.0),
        ("B", "B. blood", 1.0),
        ("B", "option B: blood", 1.0),
        ("B", "Bananas", 0.0),
        ("B", "D", 0.0),
        ("sky", "a blue thing", 0.0),
    ],
)
def test_choices_by_letter_or_text(right: str, answer: str, grade: float) -> None:
    assert make_grader("choice").grade(item(right, QUESTION), answer, answer) == grade


def test_choices_from_a_field() -> None:
    grader = make_grader("choice")
    assert grader.grade(item("two", options=["one", "two"]), "B", "B") == 1.0
    assert grader.grade(item("two", options="one|two"), "one", "one") == 0.0
    assert "neither the letter nor the text" in str(grader.refusal(item("three", options=["one", "two"])))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_pocket_takes_every_familys_own_answer(family: str) -> None:
    from random import Random

    made = FAMILIES[family].make(Random(1), 2)
    asked = Item(id="i", question=made.question, answer=made.answer, meta={"family": family}, notes=made.notes)
    assert make_grader("pocket").grade(asked, made.answer, made.solution) == 1.0
    assert make_grader("pocket").grade(asked, made.answer + "1", "") == 0.0


def test_refusals_name_what_is_wrong() -> None:
    assert "`family` is `smu`" in str(make_grader("pocket").refusal(item("x", family="smu")))
    assert "not a regular expression" in str(make_grader("regex").refusal(item("(")))
    with pytest.raises(SpecError, match="not a regular expression"):
        make_grader({"regex": {"pattern": "("}})
    with pytest.raises(SpecError, match="greater than or equal to 0"):
        make_grader({"numeric": {"tolerance": -1}})


def test_a_python_function_as_a_grader() -> None:
    grader = CallableGrader(f"{__name__}:starts_with_blood")
    assert grader.grade(item(""), "42", "") == 1.0
    with pytest.raises(SpecError, match="made in Python"):
        make_grader("callable")
    with pytest.raises(SetupError, match="module:function"):
        CallableGrader("nowhere_at_all:f")
    with pytest.raises(DataError, match="gave 7 for item `i`"):
        CallableGrader(lambda item, answer, text: 7).grade(item(""), "x", "x")
    with pytest.raises(DataError, match="failed on item `i`: ZeroDivisionError"):
        CallableGrader(lambda item, answer, text: 1 / 0).grade(item(""), "x", "x")


DOUBLE = "Here it is:\n```python\ndef double(x):\n    return 4\n```\nA: done"


async def test_code_runs_the_program_of_the_text_against_the_tests() -> None:
    tests = item("assert double(2) == 4\nassert double(3) == 6\n\ndef test_more():\n    assert double(0) == 4")
    assert await make_grader("code").agrade(tests, "done", DOUBLE) == 0.0
    assert await make_grader({"code": {"share": True}}).agrade(tests, "done", DOUBLE) == pytest.approx(2 / 3)
    assert make_grader("code").grade(item("assert double(2) == 4"), "done", DOUBLE) == 1.0  # also inside an event loop


async def test_code_that_the_sandbox_cannot_run_is_neither_right_nor_wrong() -> None:
    tests = item("assert double(2) == 4\nassert True")
    for grader in (make_grader("code"), make_grader({"code": {"share": True}})):
        with pytest.raises(UnsupportedCodeError, match=r"item `i`.*numpy"):
            await grader.agrade(tests, None, "import numpy\ndef double(x): return 4")


@pytest.mark.parametrize(
    ("answer", "share", "why"),
    [(" ", False, "empty"), ("assert (", False, "not Python"), ("check(double)", True, "no `assert`")],
)
def test_code_refuses_items_without_tests(answer: str, share: bool, why: str) -> None:
    assert why in str(make_grader({"code": {"share": share}}).refusal(item(answer)))
    assert make_grader("code").refusal(item("check(double)")) is None
