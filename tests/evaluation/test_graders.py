"""The contract that every grader keeps, and what each adds to it."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferloom.core.errors import DataError, SetupError, SpecError, UnsupportedCodeError
from inferloom.core.types import Json, Request
from inferloom.evaluation import GRADERS, CallableGrader, Grader, Item, make_grader
from inferloom.evaluation import graders as package
from inferloom.evaluation.asking import Bench
from inferloom.models.client import Gateway
from inferloom.models.pocket.tasks import FAMILIES
from inferloom.models.scripted import script
from inferloom.pipelines.run import Pipeline, run_sync
from inferloom.store import Store

QUESTION = "Which is red?\nA) sky\nB) blood\nC) grass"


def starts_with_blood(item: Item, answer: str | None, text: str) -> bool:
    return bool(answer) and str(answer).startswith("42")


@script("tests-fair-judge")
def fair_judge(request: Request, seed: int) -> str:
    """Knows the right answer of the case, which is always 42; 41 is next best."""
    said = request.messages[-1].content
    if "<proposal>" in said:
        return "A: correct" if "<proposal>\n42\n</proposal>" in said else "Let me see.\nA: Incorrect."
    shown = re.findall(r'<answer letter="(\w)">\n(.*?)\n</answer>', said, re.DOTALL)
    worth = {letter: {"42": 2, "41": 1}.get(text, 0) for letter, text in shown}
    return "A: tie" if worth["A"] == worth["B"] else f"A: {max(worth, key=worth.__getitem__)}"


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
    "math": (make_grader({"math": {"seconds": 2}}), item(r"\frac{84}{2}"), "42.0", "43"),
    "judge": (make_grader({"judge": {"model": "scripted:tests-fair-judge"}}), item("forty-two"), "42", "43"),
    "pairwise": (make_grader({"pairwise": {"model": "scripted:tests-fair-judge"}}), item("41"), "42", "43"),
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


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    store = Store.open("sqlite://")
    gateway = Gateway(store)
    yield Bench(lambda spec: Pipeline(spec, gateway), SimpleNamespace(hash="arm", uses_oracle=False))
    store.close()


def graded(bench: Bench, grader: Grader, asked: Item, answer: str | None, text: str) -> float:
    return run_sync(grader.attached(bench).agrade(asked, answer, text))


def test_every_grader_has_its_case() -> None:
    assert set(GRADERS.names()) == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_right_is_one_wrong_is_zero_none_is_zero(name: str, bench: Bench) -> None:
    grader, asked, right, wrong = CASES[name]
    assert grader.name == name
    assert grader.refusal(asked) is None
    assert graded(bench, grader, asked, right, right) == 1.0
    assert graded(bench, grader, asked, wrong, wrong) == 0.0
    assert graded(bench, grader, asked, None, "") == 0.0


@pytest.mark.parametrize("name", sorted(CASES))
def test_only_graders_that_ask_a_model_cannot_grade_at_once(name: str) -> None:
    grader, asked, right, _ = CASES[name]
    if grader.asks_models:
        with pytest.raises(SetupError, match="in evaluations only"):
            grader.grade(asked, right, right)
        with pytest.raises(SetupError, match="in evaluations only"):
            run_sync(grader.agrade(asked, right, right))
    else:
        assert grader.grade(asked, right, right) == 1.0


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_that_a_model_writes_breaks_a_grader(name: str, text: str, bench: Bench) -> None:
    grader, asked, _, _ = CASES[name]
    assert graded(bench, grader, asked, text, text) in (0.0, 1.0)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=60, deadline=None)
@example(text="__dict__")
@example(text="callable")
@given(text=st.text())
def test_any_text_is_graded(name: str, text: str, bench: Bench) -> None:
    grader, asked, _, _ = CASES[name]
    try:
        assert graded(bench, grader, asked, text, text) in (0.0, 1.0)
    except UnsupportedCodeError:
        # The third outcome: a text such as `callable` is a program, in a word of Python that the sandbox has not.
        assert name == "code" and text.strip() in vars(builtins)


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
        ("math", r"\frac{1}{2}", "0.5", 1.0),
        ("math", "x^2 - 1", "$(x-1)(x+1)$", 1.0),
        ("math", r"\frac{\sqrt{2}}{2}", r"\(\frac{1}{\sqrt 2}\)", 1.0),
        ("math", r"\{1, 2\}", r"\boxed{\{2, 1\}}", 1.0),
        ("math", "3", "x = 3", 1.0),
        ("math", "42", "42 or 43", 0.0),
        ("math", "42", r"\frac{42", 0.0),
        ("math", "42", r"}}\left(\sqrt[", 0.0),
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


def test_math_gives_up_an_expression_that_does_not_end_and_goes_on() -> None:
    grader = make_grader({"math": {"seconds": 0.5}})
    assert grader.grade(item("2"), "10^{10^{10}}", "") == 0.0
    assert grader.grade(item("2"), r"\frac{4}{2}", "") == 1.0


def test_math_does_not_hold_up_the_event_loop() -> None:
    async def both() -> list[str]:
        order: list[str] = []

        async def slow() -> None:
            await make_grader({"math": {"seconds": 0.5}}).agrade(item("2"), "10^{10^{10}}", "")
            order.append("graded")

        async def quick() -> None:
            order.append("other work")

        await asyncio.gather(slow(), quick())
        return order

    assert asyncio.run(both()) == ["other work", "graded"]


def test_math_refuses_what_is_no_mathematics() -> None:
    grader = make_grader("math")
    assert "`` is not a mathematical expression" in str(grader.refusal(item("")))
    assert "is not a mathematical expression" in str(grader.refusal(item("1 + " * 5_000 + "1")))


@pytest.mark.parametrize("kind", ["judge", "pairwise"])
def test_a_model_that_grades_must_be_named_and_be_one(kind: str) -> None:
    with pytest.raises(SpecError, match="`model`: field required"):
        make_grader(kind)
    with pytest.raises(SpecError, match="scheme:name"):
        make_grader({kind: {"model": "gpt"}})
    with pytest.raises(SpecError, match="unknown parameter `modle`"):
        make_grader({kind: {"model": "scripted:echo", "modle": 1}})


def test_a_reply_without_a_verdict_is_counted(bench: Bench) -> None:
    before = bench.grading.unread
    assert graded(bench, make_grader({"judge": {"model": "scripted:echo"}}), item("42"), "42", "") == 0.0
    assert graded(bench, make_grader({"pairwise": {"model": "scripted:echo"}}), item("42"), "42", "") == 0.5
    assert bench.grading.unread == before + 3


def test_pairwise_compares_in_both_orders(bench: Bench) -> None:
    asked = item("", rival="43")
    grader = make_grader({"pairwise": {"model": "scripted:tests-fair-judge", "against": "rival"}})
    assert grader.refusal(asked) is None
    assert "`rival` has no text" in str(grader.refusal(item("x")))
    assert graded(bench, grader, asked, "42", "") == 1.0
    assert graded(bench, grader, item("", rival="42"), "43", "") == 0.0
    assert graded(bench, grader, asked, "44", "") == 0.5
    always_first = make_grader({"pairwise": {"model": "scripted:constant:A: A", "against": "rival"}})
    assert graded(bench, always_first, asked, "42", "") == 0.5


def test_judge_sees_the_text_where_it_is_told_to(bench: Bench) -> None:
    grader = make_grader({"judge": {"model": "scripted:tests-fair-judge", "field": "text"}})
    assert graded(bench, grader, item("x"), "7", "42") == 1.0


DOUBLE = "Here it is:\n```python\ndef double(x):\n    return 4\n```\nA: done"


async def test_code_runs_the_program_of_the_text_against_the_tests() -> None:
    tests = item("assert double(2) == 4\nassert double(3) == 6\n\ndef test_more():\n    assert double(0) == 4")
    assert await make_grader("code").agrade(tests, "done", DOUBLE) == 0.0
    assert await make_grader({"code": {"share": True}}).agrade(tests, "done", DOUBLE) == pytest.approx(2 / 3)
    assert make_grader("code").grade(item("assert double(2) == 4"), "done", DOUBLE) == 1.0  # also inside an event loop


async def test_code_after_a_return_outside_a_function_still_has_to_pass() -> None:
    assert await make_grader("code").agrade(item("assert f(1) == 2"), None, "```python\nreturn\n```") == 0.0


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
