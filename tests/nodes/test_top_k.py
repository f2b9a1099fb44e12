"""Top k: order, ties, fewer than k."""

from dataclasses import replace

import pytest

from inferloom.nodes.testing import FakeContext, make_state, run
from inferloom.nodes.top_k import TopK, TopKParams


@pytest.mark.parametrize(("k", "expected"), [(1, "b"), (2, "bd"), (3, "bda"), (4, "bdac"), (9, "bdac")])
def test_the_highest_stay_best_first_and_ties_as_they_came(k: int, expected: str) -> None:
    state = make_state(list("abcd"), [])
    scores = [0.2, 0.9, 0.2, 0.5]
    scored = tuple(one.with_score("s", score) for one, score in zip(state.candidates, scores, strict=True))
    output = run(TopK(TopKParams(by="s", k=k)), replace(state, candidates=scored), FakeContext())
    assert output.candidates is not None
    assert "".join(candidate.text for candidate in output.candidates) == expected


def test_only_k_of_one_promises_one() -> None:
    assert "one" in TopK(TopKParams(by="s", k=1)).provides
    assert "one" not in TopK(TopKParams(by="s", k=2)).provides
