"""Oracle: a right candidate first, inside an evaluation only."""

import asyncio

import pytest

from inferloom.core.errors import UserError
from inferloom.core.types import Candidate
from inferloom.nodes.oracle import Oracle, OracleParams
from inferloom.nodes.testing import FakeContext, make_state, run


def ordered(grades: dict[str, float]) -> str:
    def grade(candidate: Candidate) -> float:
        return grades[candidate.text]

    state = make_state(list(grades))
    output = run(Oracle(OracleParams()), state, FakeContext(oracle=grade))
    assert output.candidates is not None
    assert sorted(output.candidates, key=lambda one: one.text) == list(state.candidates)  # no score gives it away
    return "".join(candidate.text for candidate in output.candidates)


def test_the_first_right_one_comes_first_and_the_rest_stay() -> None:
    assert ordered({"a": 0, "b": 0, "c": 1, "d": 1}) == "cabd"
    assert ordered({"a": 0, "b": 0}) == "ab"
    assert ordered({"a": 0.2, "b": 0.7, "c": 0.5}) == "bac"


def test_it_is_marked() -> None:
    assert Oracle(OracleParams()).oracle


def test_outside_an_evaluation_it_says_so() -> None:
    with pytest.raises(UserError, match="steps/1: `oracle` looks at the right answer, so it works only inside an eval"):
        asyncio.run(Oracle(OracleParams()).run(make_state(["a"]), FakeContext()))
