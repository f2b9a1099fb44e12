"""`gauge`: what it looks at, whose votes count how much, and what it hands on."""

from __future__ import annotations

import math

import pytest

from inferloom.core.types import Candidate, Message, NodeState, Origin
from inferloom.nodes.gauge import Gauge, GaugeParams
from inferloom.nodes.looking import chance, look
from inferloom.nodes.testing import FakeContext, run


def candidate(answer: str | None, model: str = "small", **scores: float) -> Candidate:
    return Candidate(
        id=f"{answer}{model}{scores}",
        text=f"A: {answer}",
        answer=answer,
        origin=Origin(node="s", model=model),
        scores=scores,
    )


def scored(candidates: list[Candidate], **params: object) -> list[Candidate]:
    state = NodeState(question="?", messages=(Message("user", "?"),), candidates=tuple(candidates))
    output = run(Gauge(GaugeParams.model_validate(params)), state, FakeContext())
    assert output.candidates is not None
    return list(output.candidates)


def test_the_leading_answer_has_the_chance_and_comes_first() -> None:
    out = scored([candidate("1"), candidate("2"), candidate(None), candidate("2")], bias=-1, lead=4)
    assert [one.answer for one in out] == ["2", "1", None, "2"]
    expected = 1 / (1 + math.exp(1 - 4 * (2 - 1) / 4))
    assert [one.scores["sure"] for one in out] == pytest.approx([expected, 0, 0, expected])


def test_a_dearer_model_may_outvote_a_cheap_one() -> None:
    two_and_one = [candidate("1"), candidate("1"), candidate("2", "large")]
    assert scored(two_and_one)[0].answer == "1"
    assert scored(two_and_one, votes={"large": 3.0})[0].answer == "2"


def test_every_weight_counts_what_it_names() -> None:
    seen = look(["1", "2", "1"], [1, 1, 1], [-0.2, -9, -0.4], [0.5, 0.9, 0.7])
    assert (seen.leader, seen.agreement, seen.lead) == ("1", 2 / 3, 1 / 3)
    assert (seen.logprob, seen.grade) == pytest.approx((-math.log(0.302), 0.6))
    base = {"bias": 0.0, "agreement": 0.0, "lead": 0.0, "logprob": 0.0, "grade": 0.0}
    assert chance(seen, base) == 0.5
    for name, value in (("agreement", 2 / 3), ("lead", 1 / 3), ("logprob", -math.log(0.302)), ("grade", 0.6)):
        assert chance(seen, {**base, name: 2.0}) == pytest.approx(1 / (1 + math.exp(-2 * value)))


def test_no_answer_is_no_confidence() -> None:
    assert [one.scores["sure"] for one in scored([candidate(None), candidate(None)], bias=5)] == [0, 0]


def test_it_asks_for_the_scores_that_it_weighs() -> None:
    assert Gauge(GaugeParams()).scores_in == frozenset()
    assert Gauge(GaugeParams(logprob=1.0, grade=1.0, by="judge")).scores_in == {"logprob", "judge"}
