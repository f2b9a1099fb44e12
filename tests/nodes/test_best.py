"""Best: the highest score, the earliest of equals."""

from dataclasses import replace

import pytest

from inferloom.core.errors import UserError
from inferloom.core.types import NodeState
from inferloom.nodes.best import Best, BestParams
from inferloom.nodes.testing import FakeContext, make_candidates, run


def best(values: list[float | None]) -> int:
    candidates = tuple(
        replace(candidate, scores={} if value is None else {"s": value})
        for candidate, value in zip(make_candidates([str(v) for v in values]), values, strict=True)
    )
    output = run(Best(BestParams(by="s")), NodeState(question="", messages=(), candidates=candidates), FakeContext())
    assert output.candidates is not None and len(output.candidates) == 1
    return candidates.index(output.candidates[0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.1, 0.9, 0.5], 1), ([0.5, 0.9, 0.9], 1), ([-3.0, -1.0, -2.0], 1), ([1.0], 0), ([0.0, float("inf")], 1)],
)
def test_the_highest_score_wins_and_ties_go_to_the_earliest(values: list[float | None], expected: int) -> None:
    assert best(values) == expected


def test_a_score_that_some_lack_is_refused() -> None:
    with pytest.raises(UserError, match="1 of 3 candidates have no score `s`"):
        best([0.1, None, 0.5])


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="not a number"):
        best([0.1, float("nan")])
