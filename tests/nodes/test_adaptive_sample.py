"""Adaptive sampling: where each rule stops, what a prompted judge and pruning do."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from inferloom.core.types import Completion, Message, NodeOutput, Request
from inferloom.nodes.adaptive_sample import AdaptiveSample, AdaptiveSampleParams
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.pruning import kept_of
from inferloom.nodes.stopping import beta_confidence, enough, leader_first, top_two
from inferloom.nodes.testing import FakeContext, make_candidates, make_state, run
from inferloom.nodes.vote import Vote, VoteParams


def adaptive(**params: object) -> AdaptiveSample:
    return AdaptiveSample(AdaptiveSampleParams.model_validate({"model": "small", **params}))


def answering(answers: Sequence[str]) -> FakeContext:
    """A model whose draws have these answers, in order; an empty one has none."""

    def reply(model: str, request: Request, index: int) -> str:
        return f"draw {index}\nA: {answers[index]}" if answers[index] else ""

    return FakeContext(reply=reply)


def drawn(answers: str, **params: object) -> tuple[list[int], NodeOutput]:
    """The sizes of the requests and the output when the draws have the letters as answers."""
    context = answering([letter.strip() for letter in answers])
    output = run(adaptive(**params), make_state(), context)
    return [request.n for _, request in context.requests], output


def answers_of(output: NodeOutput) -> str:
    assert output.candidates is not None
    return "".join(candidate.answer or " " for candidate in output.candidates)


@pytest.mark.parametrize(("first", "second"), [(4, 0), (6, 1), (8, 2), (9, 3)])
def test_the_smallest_leads_at_which_the_beta_rule_stops(first: int, second: int) -> None:
    assert beta_confidence(first, second) >= 0.95 > beta_confidence(first - 1, second)


def test_the_beta_posterior_is_the_share_of_coin_rows() -> None:
    assert beta_confidence(0, 0) == 0.5
    assert float(beta_confidence(4, 0)) == 1 - 1 / 32
    assert float(beta_confidence(6, 1)) == 1 - 9 / 256


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ("aaaa" + "b" * 60, [4]),
        ("abaaaaa" + "b" * 60, [4, 3]),
        ("abbaaaaaaa" + "b" * 60, [4, 6]),
        ("abab" + "abaaaaaa" + "b" * 60, [4, 6, 2]),
    ],
)
def test_beta_stops_at_once_where_it_may_and_asks_for_no_more_than_it_needs(answers: str, requests: list[int]) -> None:
    sizes, output = drawn(answers, n=64)
    assert sizes == requests
    assert answers_of(output)[0] == "a" and output.stopped is None


@pytest.mark.parametrize("seed", range(20))
def test_batches_stop_exactly_where_one_by_one_would(seed: int) -> None:
    rng = random.Random(seed)
    answers = "".join(rng.choices("abcd ", weights=[4, 2, 1, 1, 1], k=24))
    _, output = drawn(answers, n=24, threshold=0.9)
    for count in range(1, 25):
        counts = sorted((answers[:count].count(letter) for letter in "abcd"), reverse=True)
        if enough("beta", 0.9, counts[0], counts[1], count, 24 - count) or count == 24:
            break
    assert len(answers_of(output)) == count


def test_drawing_ends_where_the_rest_could_not_change_the_leader() -> None:
    assert drawn("aab", n=3) == drawn("aac", n=3)
    assert drawn("aab", n=3)[0] == [2]
    assert drawn("abcd", n=4)[0] == [3, 1]
    assert enough("beta", 0.95, 5, 3, 8, 1) and not enough("beta", 0.95, 5, 3, 8, 2)
    assert enough("agreement", 0.75, 5, 3, 9, 1) and not enough("agreement", 0.75, 5, 3, 9, 2)


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ("aabbbbbbbbbbbbbb", [2]),
        ("abaabbbbbbbbbbbb", [2, 2]),
        ("ababaaaabbbbbbbb", [2, 2, 4]),
        ("ababababababaaaa", [2, 2, 4, 8]),
        ("a " + "aa" + "b" * 12, [2, 2]),
    ],
)
def test_agreement_doubles_until_three_quarters_agree(answers: str, requests: list[int]) -> None:
    sizes, _ = drawn(answers, stop="agreement")
    assert sizes == requests


def test_least_and_batch_hold_the_stop_back() -> None:
    assert drawn("a" * 16, stop="agreement", least=5)[0] == [5]
    assert drawn("a" * 16, least=7)[0] == [7]
    assert drawn("ab" + "a" * 14, batch=6, n=7)[0] == [6]
    assert drawn("ab" * 8, batch=6, n=8)[0] == [6, 2]


@pytest.mark.parametrize("stop", ["agreement", "beta", "self_eval", "prune"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("options", [1, 2, 9])
def test_calls_lie_in_what_was_predicted_and_draws_below_n(stop: str, n: int, options: int) -> None:
    def reply(model: str, request: Request, index: int) -> str | Completion:
        if model == "large":
            return str(rng.randrange(10))
        answer = f"A: {rng.randrange(options)}"
        cut = request.max_tokens < 100 and rng.random() < 0.5
        return Completion(text=answer, finish_reason="length" if cut else "stop")

    rng = random.Random(f"{stop}{n}{options}")
    for _ in range(20):
        judge = {"judge": "large"} if stop in ("self_eval", "prune") else {}
        node, context = adaptive(n=n, stop=stop, **judge), FakeContext(reply=reply)
        output = run(node, make_state(["old"]), context)
        least, most = node.calls(1)
        assert least <= context.calls <= most
        assert output.candidates is not None and len(output.candidates) <= node.candidates_out(1)
        fresh = [r for m, r in context.requests if m == "small" and not r.continues]
        assert sum(request.n for request in fresh) <= n


def test_the_least_is_reached_where_all_agree() -> None:
    for stop in ("agreement", "beta"):
        node, context = adaptive(stop=stop), answering(["a"] * 16)
        run(node, make_state(), context)
        assert context.calls == node.calls(0)[0]


def test_the_leader_comes_first_the_rest_in_order_and_a_later_vote_agrees() -> None:
    context = answering(list("bacaca"))
    state = make_state(["old"])
    output = run(adaptive(n=6), state, context)
    assert output.candidates is not None
    assert [candidate.answer for candidate in output.candidates] == ["a", "b", "c", "a", "c", "a", "0"]
    assert output.candidates[-1] == state.candidates[0]
    voted = run(Vote(VoteParams()), replace(state, candidates=output.candidates), FakeContext())
    assert voted.candidates is not None and voted.candidates[0].id == output.candidates[0].id


def test_cut_and_empty_draws_count_but_do_not_vote() -> None:
    first, second, third = make_candidates(["x", "y", "z"])
    cut = replace(first, answer="7", finished=False)
    assert top_two([cut, replace(cut, id="c"), replace(second, answer="5"), replace(third, answer=None)]) == (1, 0)
    assert leader_first([cut, third]) == [third, cut]
    assert leader_first([cut]) == [cut]
    assert top_two([cut, replace(cut, id="c")]) == (0, 0)
    assert leader_first([third, cut, replace(cut, id="c")])[0] == third
    assert drawn("  aaaa", n=6)[0] == [4, 1]


def test_a_budget_that_ends_hands_on_the_leader_so_far() -> None:
    context = FakeContext(reply=lambda model, request, index: f"{index}\nA: {'baab'[index]}", limit=3)
    output = run(adaptive(n=8), make_state(), context)
    assert output.stopped == "budget" and answers_of(output) == "aba"


def judged(grades: Sequence[int], **params: object) -> tuple[FakeContext, NodeOutput]:
    """Draws 0, 1, ... that the judge `large` grades with these digits."""

    def reply(model: str, request: Request, index: int) -> str:
        if model == "small":
            return f"draw {index}\nA: {index}"
        shown = request.messages[-1].content
        return next(str(digit) for place, digit in enumerate(grades) if f"draw {place}\n" in shown)

    context = FakeContext(reply=reply)
    node = adaptive(stop="self_eval", judge="large", **params)
    return context, run(node, make_state(), context)


def test_self_evaluation_draws_until_one_is_good_enough_and_puts_the_best_first() -> None:
    context, output = judged([3, 6, 9, 9], threshold=0.9, n=4)
    assert [model for model, _ in context.requests] == ["small", "large"] * 3
    assert output.candidates is not None
    assert [(one.answer, round(one.scores["self_eval"] * 9)) for one in output.candidates] == [
        ("2", 9),
        ("1", 6),
        ("0", 3),
    ]


def test_self_evaluation_draws_to_the_end_where_none_is_and_judges_by_itself_without_a_judge() -> None:
    context, output = judged([3, 6, 5], n=3)
    assert context.calls == 6 and answers_of(output) == "120"
    alone = FakeContext(reply=lambda model, request, index: "9")
    run(adaptive(stop="self_eval"), make_state(), alone)
    assert [model for model, _ in alone.requests] == ["small", "small"]


def test_a_reply_without_a_grade_is_an_event_and_never_good_enough() -> None:
    context = FakeContext(reply=lambda model, request, index: "fine" if model == "large" else f"A: {index}")
    output = run(adaptive(stop="self_eval", judge="large", n=2), make_state(), context)
    assert [event for event, _ in context.events] == ["parse_failed"] * 2
    assert output.candidates is not None and [one.scores["self_eval"] for one in output.candidates] == [0.0, 0.0]


PREFIXES = ["bad start\nab", "good start\nab", "good start\nab", "A: done", "worst start\nab"]
GRADES = {"bad start": "3", "good start": "8", "A: done": "6", "worst start": "0"}


def pruning(limit: int | None = None, **params: object) -> tuple[FakeContext, NodeOutput]:
    def reply(model: str, request: Request, index: int) -> str | Completion:
        if model == "large":
            (seen,) = (text for text in GRADES if f"{text}\n</solution>" in request.messages[-1].content)
            return GRADES[seen]
        if request.continues:
            return f"cd\nA: {index}"
        text = PREFIXES[index]
        return Completion(text=text, finish_reason="stop" if text == "A: done" else "length")

    context = FakeContext(reply=reply, limit=limit)
    node = adaptive(stop="prune", judge="large", n=5, prefix_tokens=10, max_tokens=50, **params)
    return context, run(node, make_state(), context)


def test_pruning_continues_the_best_that_have_not_ended_and_only_those() -> None:
    context, output = pruning(keep=0.6)
    drawing = [request for model, request in context.requests if model == "small"]
    assert [(request.n, request.max_tokens) for request in drawing] == [(5, 10), (2, 40)]
    assert drawing[1].messages[-1].content == "good start\nab" and drawing[1].messages[-1].role == "assistant"
    assert drawing[1].messages[:-1] == drawing[0].messages
    assert output.candidates is not None
    assert [(one.text, one.finished) for one in output.candidates] == [
        ("good start\nabcd\nA: 0", True),
        ("good start\nabcd\nA: 1", True),
        ("A: done", True),
    ]


def test_pruning_judges_whole_lines_and_equal_ones_once() -> None:
    context, _ = pruning(keep=0.2)
    assert sum(model == "large" for model, _ in context.requests) == 4  # the fake judge refuses a half line


def test_pruning_cut_short_hands_on_an_answer_before_a_cut_text() -> None:
    _, output = pruning(keep=0.6, limit=8)
    assert output.stopped == "budget" and output.candidates is not None
    assert [one.finished for one in output.candidates] == [True, False, False]
    _, output = pruning(keep=0.6, limit=10)  # prefixes, judgements and one of two continuations
    assert output.stopped == "budget" and output.candidates is not None
    assert [one.finished for one in output.candidates] == [True, False, True]


def test_pruning_goes_on_inside_an_answer_that_the_pack_opens(tmp_path: Path) -> None:
    pack = tmp_path / "begun.yaml"
    pack.write_text('solve:\n  - user: "{{ question }}"\n  - assistant: "Let us see. "\n')

    def reply(model: str, request: Request, index: int) -> str | Completion:
        if model == "large":
            return "5"
        goes_on = request.messages[-1].content != "Let us see. "
        return "A: 1" if goes_on else Completion(text="so", finish_reason="length")

    context = FakeContext(reply=reply, prompts=load_pack(pack))
    run(adaptive(stop="prune", judge="large", n=2, prefix_tokens=10, max_tokens=50), make_state(), context)
    last = [request for model, request in context.requests if model == "small"][-1]
    assert last.messages[-1] == Message("assistant", "Let us see. so")
    assert [message.role for message in last.messages[-2:]] == ["user", "assistant"]


def test_a_share_of_the_samples_is_rounded_up() -> None:
    assert [kept_of(5, 0.5), kept_of(10, 0.3), kept_of(100, 0.07), kept_of(4, 0.01), kept_of(3, 1)] == [3, 3, 7, 1, 3]


def test_capabilities_roles_and_scores_follow_the_rule() -> None:
    assert adaptive().needs == frozenset() and adaptive().roles == {"solve"}
    assert adaptive(stop="prune").needs == {"prefix"}
    assert adaptive(stop="self_eval", expected=True).needs == {"logprobs"}
    assert adaptive(stop="self_eval").roles == {"solve", "score"}
    assert "scores" in adaptive(stop="self_eval").provides and "scores" in adaptive().drops


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"judge": "large"}, "stop `beta` calls no judge"),
        ({"stop": "agreement", "expected": True}, "stop `agreement` calls no judge"),
        ({"threshold": 0.5}, "threshold is 0.5; for stop `beta` it must be above 0.5"),
        ({"stop": "prune", "max_tokens": 64}, "prefix_tokens is 64; must be below max_tokens, 64"),
        ({"n": 0}, "n\n"),
        ({"keep": 0}, "keep\n"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        adaptive(**params)
