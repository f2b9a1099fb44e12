"""Unit tests: a model's tests are run against every candidate, and the share passed orders them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferloom.core.protocols import SandboxResult
from inferloom.core.types import Completion, NodeOutput
from inferloom.nodes.testing import FakeContext, FakeSandbox, make_state, run
from inferloom.nodes.unit_tests import UnitTests, UnitTestsParams
from inferloom.sandbox import Limits, MontySandbox

TESTS = "Here:\n```python\nassert double(2) == 4\nassert double(0) == 0\nassert double('a') == 'aa'\n```"
RIGHT = "```python\ndef double(x):\n    return x + x\n```"
HALF = "```python\ndef double(x):\n    return 4 if x == 2 else 'aa'\n```"
WRONG = "```python\ndef double(x):\n    return None\n```"
LACKING = "```python\nimport numpy\ndef double(x):\n    return 2 * x\n```"


def ran(texts: list[str], tests: str = TESTS, **params: object) -> tuple[NodeOutput, FakeContext]:
    context = FakeContext(reply=lambda model, request, index: tests, sandbox=MontySandbox(Limits(seconds=20)))
    node = UnitTests(UnitTestsParams.model_validate({"model": "large", **params}))
    return run(node, make_state(texts), context), context


def scores(output: NodeOutput, name: str = "tests") -> dict[str, float]:
    assert output.candidates is not None
    return {candidate.text: candidate.scores[name] for candidate in output.candidates}


def test_programs_are_run_and_the_best_comes_first() -> None:
    output, context = ran([WRONG, HALF, RIGHT])
    assert output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == [RIGHT, HALF, WRONG]
    assert [candidate.tests for candidate in output.candidates] == [
        (True, True, True),
        (True, False, True),
        (False, False, False),
    ]
    assert list(scores(output).values()) == pytest.approx([1, 2 / 3, 0])
    assert context.events == [("tested", {"tests": 3, "runs": 9, "unsupported": 0})]


def test_what_the_sandbox_cannot_run_counts_neither_way() -> None:
    output, _ = ran([WRONG, LACKING, RIGHT])
    assert scores(output) == {RIGHT: 1.0, LACKING: 0.5, WRONG: 0.0}
    assert output.candidates is not None and output.candidates[1].tests == ()


def test_a_single_unsupported_test_leaves_the_share_of_the_others() -> None:
    def result(code: str) -> SandboxResult:
        return SandboxResult(outcome="unsupported" if "double(0)" in code else "ok" if "'aa'" in code else "limit")

    context = FakeContext(reply=lambda model, request, index: TESTS, sandbox=FakeSandbox(result))
    output = run(UnitTests(UnitTestsParams(model="large")), make_state(["x"]), context)
    assert output.candidates is not None
    assert output.candidates[0].tests == (False, True) and output.candidates[0].scores["tests"] == 0.5


def test_equals_keep_their_order_and_equal_programs_run_once() -> None:
    again = "The same:\n" + RIGHT
    output, context = ran([RIGHT, again, RIGHT])
    assert output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == [RIGHT, again, RIGHT]
    assert context.events[0][1]["runs"] == 3


def test_the_cap_and_the_name() -> None:
    output, context = ran([HALF], cap=1, name="passed")
    assert scores(output, "passed") == {HALF: 1.0}
    assert context.events[0][1]["tests"] == 1
    assert "up to 1 tests" in context.requests[0][1].messages[-1].content


def test_a_program_that_ends_itself_passes_nothing() -> None:
    output, _ = ran(["```python\nraise SystemExit\n```"])
    assert list(scores(output).values()) == [0.0]


@pytest.mark.parametrize("reply", ["", "I cannot write tests.", "```python\nx = 1\n```"])
def test_a_reply_without_tests_is_reported_and_decides_nothing(reply: str) -> None:
    output, context = ran([WRONG, RIGHT], tests=reply)
    assert [event for event, _ in context.events] == ["parse_failed"]
    assert scores(output) == {WRONG: 0.5, RIGHT: 0.5}
    assert output.candidates is not None and output.candidates[0].text == WRONG


def test_a_cut_reply_loses_its_last_test() -> None:
    cut = Completion(text="```python\nassert double(2) == 4\nassert double(0) == ", finish_reason="length")
    context = FakeContext(reply=lambda *asked: cut, sandbox=MontySandbox(Limits(seconds=20)))
    output = run(UnitTests(UnitTestsParams(model="large")), make_state([RIGHT]), context)
    assert output.candidates is not None and output.candidates[0].tests == (True,)


def test_a_candidate_that_was_cut_inside_its_program_passes_none() -> None:
    cut = "```python\ndef double(x):\n    return x + x\n# and"
    state = make_state([cut, RIGHT])
    state = replace(state, candidates=(replace(state.candidates[0], finished=False), state.candidates[1]))
    context = FakeContext(reply=lambda *asked: TESTS, sandbox=MontySandbox(Limits(seconds=20)))
    assert scores(run(UnitTests(UnitTestsParams(model="large")), state, context)) == {RIGHT: 1.0, cut: 0.0}


def test_a_return_outside_a_function_does_not_skip_the_tests() -> None:
    output, _ = ran(["```python\ndef double(x):\n    return x\nreturn\n```"])
    assert list(scores(output).values()) == [0.0]
