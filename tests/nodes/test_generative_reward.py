"""Generative reward: grades by letter reach the right candidates, votes are averaged, the trusted ones are kept."""

import re

import pytest
from pydantic import ValidationError

from inferloom.core.errors import UserError
from inferloom.core.types import Candidate, Request
from inferloom.nodes.ballots import Ballot, groups, mean_grade, most_trusted, read_scores
from inferloom.nodes.generative_reward import GenerativeReward, GenerativeRewardParams
from inferloom.nodes.testing import FakeContext, Reply, make_state, run


def reward(**params: object) -> GenerativeReward:
    return GenerativeReward(GenerativeRewardParams.model_validate({"model": "large", "votes": 3, **params}))


def shown(request: Request) -> list[tuple[str, int]]:
    found = re.findall(r'<solution letter="([A-Z])">\n(\d+)\n', request.messages[-1].content)
    return [(letter, int(number)) for letter, number in found]


def grade_as_shown(model: str, request: Request, index: int) -> str:
    """Candidates are numbers and get that many points."""
    return "Principles: ...\nA: 4 is quoted from a solution.\nScores: " + ", ".join(
        f"{a}={n}" for a, n in shown(request)
    )


def scored(candidates: tuple[Candidate, ...] | None) -> dict[str, float]:
    assert candidates is not None
    return {candidate.text: candidate.scores["reward"] for candidate in candidates if "reward" in candidate.scores}


def test_shuffles_are_undone_and_grades_come_to_0_to_1() -> None:
    context = FakeContext(reply=grade_as_shown)
    output = run(reward(votes=6), make_state(["1", "10", "4", "7"]), context)
    assert scored(output.candidates) == pytest.approx({"1": 0, "10": 1, "4": 1 / 3, "7": 2 / 3})
    assert context.calls == 6 and not context.events
    assert len({tuple(number for _, number in shown(request)) for _, request in context.requests}) > 1


def test_votes_are_averaged_over_those_that_grade() -> None:
    seen: list[int] = []

    def reply(model: str, request: Request, index: int) -> str:
        seen.append(1)
        first, second = (f"{letter}={(2, 10, 6)[len(seen) - 1]}" for letter, _ in shown(request))
        return "Scores: " + (first if len(seen) == 3 else f"{first} {second}")

    context = FakeContext(reply=reply, seed=1)
    output = run(reward(), make_state(["1", "2"]), context)
    left_out = shown(context.requests[2][1])[1][1]
    other = 3 - left_out
    assert scored(output.candidates) == pytest.approx({f"{left_out}": 5 / 9, f"{other}": 5 / 9})
    assert [event for event, _ in context.events] == ["parse_failed"]


def test_unreadable_votes_give_the_lowest_score() -> None:
    context = FakeContext(reply=lambda model, request, index: "All are fine.")
    output = run(reward(votes=2, keep_votes=1), make_state(["1", "2"]), context)
    assert scored(output.candidates) == {"1": 0, "2": 0}
    assert [data["role"] for _, data in context.events] == ["reward_vote", "reward_vote"]
    assert context.calls == 2, "a vote that grades nothing is not worth judging"


@pytest.mark.parametrize(
    ("reply", "grades"),
    [
        ("Scores: A=7, B=3", {0: 7, 1: 3}),
        ("**Scores:** **A**: 7/10; B = **10**", {0: 7, 1: 10}),
        ("A: 42 is wrong.\n\nA: 5\nB: 6\n", {0: 5, 1: 6}),
        ("scores come below\nSCORES:\n- A=1\n- B=2\nDone.", {0: 1, 1: 2}),
        ("Scores: A=11 B=0 C=5 D=7.5", {}),
        ("Scores: A=2 A=9", {0: 2}),
        ("scores a=7 BB=3", {}),
        ("", {}),
    ],
)
def test_reads_grades_of_many_forms(reply: str, grades: dict[int, int]) -> None:
    assert read_scores(reply, 2) == grades


def trusting(good: int) -> Reply:
    """Votes grade by value but the `good` first see it; the rest turn it round. Trust says which are which."""
    votes: list[str] = []

    def reply(model: str, request: Request, index: int) -> str:
        asked = request.messages[-1].content
        if "<report>" in asked:
            assert model == "small"
            return "9" if "straight" in asked else "1"
        votes.append("straight" if len(votes) < good else "crooked")
        value = {"straight": lambda n: n, "crooked": lambda n: 11 - n}[votes[-1]]
        return f"{votes[-1]}\nScores: " + " ".join(f"{letter}={value(number)}" for letter, number in shown(request))

    return reply


def test_only_the_most_trusted_votes_count() -> None:
    texts = ["1", "10"]
    context = FakeContext(reply=trusting(1))
    output = run(reward(votes=4, keep_votes=1, meta="small"), make_state(texts), context)
    assert scored(output.candidates) == pytest.approx({"1": 0, "10": 1})
    assert context.calls == 8
    everything = run(reward(votes=4), make_state(texts), FakeContext(reply=trusting(1)))
    assert scored(everything.candidates) == pytest.approx({"1": 0.75, "10": 0.25})


def test_trust_is_the_mean_of_a_votes_groups_and_missing_trust_comes_last() -> None:
    high, low, nobody = Ballot({"a": 9}, 0.9), Ballot({"a": 5}, 0.2), Ballot({"a": 1})
    assert most_trusted([[low], [high], [nobody]], 2) == [[high], [low]]
    assert most_trusted([[high, low], [high, None], [high, high]], 2) == [[high, high], [high, low]]
    assert most_trusted([[nobody], [nobody, None]], 1) == [[nobody]]
    assert mean_grade("a", [[high], [low, None]]) == pytest.approx(6 / 9)
    assert mean_grade("b", [[high]]) is None


def test_what_only_untrusted_votes_graded_keeps_their_grade() -> None:
    def reply(model: str, request: Request, index: int) -> str:
        asked = request.messages[-1].content
        if "<report>" in asked:
            return "9" if "only one" in asked else "0"
        letters = {number: letter for letter, number in shown(request)}
        asked_before.append(1)
        if len(asked_before) == 1:
            return f"only one\nScores: {letters[1]}=10"
        return f"Scores: {letters[1]}=1 {letters[2]}=4"

    asked_before: list[int] = []
    output = run(reward(votes=2, keep_votes=1), make_state(["1", "2"]), FakeContext(reply=reply))
    assert scored(output.candidates) == pytest.approx({"1": 1, "2": 1 / 3})


def test_many_candidates_are_graded_in_groups_of_about_equal_width() -> None:
    assert [len(group) for group in groups(range(9), 4)] == [3, 3, 3]
    assert [number for group in groups(range(11), 4) for number in group] == list(range(11))
    context = FakeContext(reply=grade_as_shown)
    output = run(reward(votes=2, window=4), make_state([str(n) for n in range(1, 10)]), context)
    assert scored(output.candidates) == pytest.approx({str(n): (n - 1) / 9 for n in range(1, 10)})
    assert context.calls == 6


def test_the_budget_keeps_a_vote_whose_trust_it_refused() -> None:
    context = FakeContext(reply=grade_as_shown, limit=1)
    output = run(reward(votes=2, keep_votes=1), make_state(["1", "10"]), context)
    assert output.stopped == "budget" and output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == ["10", "1"]
    assert scored(output.candidates) == {"1": 0, "10": 1}


def test_a_window_wider_than_the_pack_shows_is_refused() -> None:
    with pytest.raises(UserError, match="window is 26; the prompt pack `general` shows at most 20"):
        run(reward(window=26), make_state([str(n) for n in range(21)]), FakeContext())


@pytest.mark.parametrize("params", [{"votes": 4, "keep_votes": 4}, {"votes": 2, "meta": "small"}, {"votes": 0}])
def test_parameters_that_keep_nothing_back_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        reward(**params)
