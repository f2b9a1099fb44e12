"""Vote: majority, weights, ties."""

from dataclasses import replace

import pytest

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.core.types import Candidate, NodeState
from inferloom.nodes.testing import FakeContext, make_state, run
from inferloom.nodes.vote import Vote, VoteParams


def vote(answers: list[str | None], weights: list[float] | None = None) -> tuple[int, Candidate]:
    """The position of the winner among the candidates with these answers, and the winner."""
    state = make_state([f"text {index}" for index in range(len(answers))])
    candidates = tuple(
        replace(candidate, answer=answer, scores={"w": weight})
        for candidate, answer, weight in zip(state.candidates, answers, weights or [1.0] * len(answers), strict=True)
    )
    output = run(
        Vote(VoteParams(weight="w" if weights else None)),
        NodeState(question="", messages=(), candidates=candidates),
        FakeContext(),
    )
    assert output.candidates is not None and len(output.candidates) == 1
    winner = output.candidates[0]
    return [candidate.id for candidate in candidates].index(winner.id), winner


def test_the_majority_wins_by_its_first_candidate() -> None:
    position, winner = vote(["7", "5", "5", "6"])
    assert (position, winner.answer, winner.scores["vote_share"]) == (1, "5", 0.5)


def test_answers_are_compared_by_value() -> None:
    position, winner = vote(["7", "1,000", "1000.0", "$1000"])
    assert (position, winner.scores["vote_share"]) == (1, 0.75)


@pytest.mark.parametrize(
    ("answers", "expected"), [(["3", "4"], 0), (["4", "3", "3", "4"], 0), (["x", "a", "b", "b", "a"], 1)]
)
def test_ties_go_to_the_earliest(answers: list[str | None], expected: int) -> None:
    assert vote(answers)[0] == expected


def test_candidates_without_an_answer_do_not_vote() -> None:
    position, winner = vote([None, None, "5"])
    assert (position, winner.scores["vote_share"]) == (2, 1.0)


def test_cut_answers_vote_only_where_nothing_finished() -> None:
    state = make_state([f"text {index}" for index in range(5)])
    candidates = tuple(
        replace(candidate, answer=answer, finished=answer == "7")
        for candidate, answer in zip(state.candidates, ["Let me think"] * 3 + ["7"] * 2, strict=True)
    )
    output = run(Vote(VoteParams()), replace(state, candidates=candidates), FakeContext())
    assert output.candidates is not None
    assert (output.candidates[0].answer, output.candidates[0].scores["vote_share"]) == ("7", 1.0)
    only_cut = run(Vote(VoteParams()), replace(state, candidates=candidates[:3]), FakeContext())
    assert only_cut.candidates is not None and only_cut.candidates[0].scores["vote_share"] == 1.0


def test_without_any_answer_the_first_candidate_stays() -> None:
    position, winner = vote([None, None])
    assert (position, winner.scores["vote_share"]) == (0, 0.0)


def test_weights_can_turn_a_majority() -> None:
    position, winner = vote(["5", "5", "7"], [0.1, 0.2, 0.9])
    assert position == 2
    assert winner.scores["vote_share"] == pytest.approx(0.75)


def test_weights_of_nothing_go_to_the_earliest() -> None:
    position, winner = vote(["5", "7", "7"], [0.0, 0.0, 0.0])
    assert (position, winner.scores["vote_share"]) == (0, 0.0)


def test_a_negative_weight_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"vote weight `w` is -1\.2.*score: {method: logprob}"):
        vote(["5", "7"], [-1.2, -0.3])


def test_an_unknown_weight_names_the_nearest_score() -> None:
    with pytest.raises(UnknownNameError, match="steps/1: unknown score `juge`; did you mean `judge`"):
        run(Vote(VoteParams(weight="juge")), make_state(["a", "b"]), FakeContext())


def test_without_a_weight_scores_do_not_matter() -> None:
    output = run(Vote(VoteParams()), make_state(["a", "b"], scores=[]), FakeContext())
    assert output.candidates is not None and output.candidates[0].scores == {"vote_share": 0.5}
