"""Sample: what it asks, what it makes of the completions, what it keeps."""

import pytest
from pydantic import ValidationError

from inferloom.core.types import Completion, Message, NodeState, Request, TokenLogprob
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.sample import Sample, SampleParams
from inferloom.nodes.testing import FakeContext, make_state, run


def sample(**params: object) -> Sample:
    return Sample(SampleParams.model_validate({"model": "small", **params}))


def test_draws_n_from_each_model_in_order_after_what_came_in() -> None:
    context = FakeContext(reply=lambda model, request, index: f"{model} {index}\nA: {index}")
    output = run(sample(model=["small", "large"], n=2), make_state(["old"]), context)
    assert output.candidates is not None
    assert [candidate.text.split("\n")[0] for candidate in output.candidates] == [
        "old",
        "small 0",
        "small 1",
        "large 0",
        "large 1",
    ]
    assert [candidate.answer for candidate in output.candidates[1:]] == ["0", "1", "0", "1"]
    assert [candidate.origin["model"] for candidate in output.candidates[1:]] == ["small", "small", "large", "large"]
    assert output.candidates[1].origin["node"] == "steps/1" and output.candidates[1].parents == ()


def test_the_conversation_is_system_notes_examples_earlier_turns_question() -> None:
    context = FakeContext(prompts=load_pack("pocket"))
    run(sample(system="Be brief.", examples=[{"question": "Q1", "answer": "A: 1"}]), make_state(), context)
    assert context.requests[0][1].messages == (
        Message("system", "Be brief.\n\nAddition comes first."),
        Message("user", "Q1"),
        Message("assistant", "A: 1"),
        Message("user", "What is 1 + 1?"),
        Message("assistant", "1 + 1 = 2\nA: 2"),
        Message("user", "Hello."),
        Message("assistant", "Hello, what can I do?"),
        Message("user", "What is 2 + 3?"),
    )


def test_system_messages_of_the_conversation_become_one_with_ours() -> None:
    context = FakeContext(prompts=load_pack("general"))
    state = NodeState(question="Q", messages=(Message("system", "You are Ann."), Message("user", "Q")))
    run(sample(system="Be brief."), state, context)
    told, asked = context.requests[0][1].messages
    assert told.role == "system" and asked == Message("user", "Q")
    assert told.content.startswith("Be brief.\n\nYou are Ann.\n\nWork the problem out")


def test_the_bare_question_is_asked_where_there_is_no_conversation() -> None:
    context = FakeContext(prompts=load_pack("pocket"))
    run(sample(), NodeState(question="count a in banana", messages=()), context)
    assert context.requests[0][1].messages == (Message("user", "count a in banana"),)


def test_sampling_parameters_reach_the_request() -> None:
    context = FakeContext()
    run(sample(n=3, temperature=0.3, top_p=0.9, max_tokens=77, stop=["\n\n"]), make_state(), context)
    request = context.requests[0][1]
    assert (request.n, request.temperature, request.top_p, request.max_tokens, request.stop, request.logprobs) == (
        3,
        0.3,
        0.9,
        77,
        ("\n\n",),
        None,
    )


def test_cut_and_empty_completions_are_candidates() -> None:
    replies = [Completion(text="12 + 3", finish_reason="length"), Completion(text="", finish_reason="stop")]
    output = run(sample(n=2), make_state(), FakeContext(reply=lambda model, request, index: replies[index]))
    assert output.candidates is not None
    assert [(c.text, c.answer, c.finished) for c in output.candidates] == [
        ("12 + 3", "12 + 3", False),
        ("", None, True),
    ]


def test_logprobs_are_recorded_as_a_score_and_need_the_capability() -> None:
    def reply(model: str, request: Request, index: int) -> Completion:
        assert request.logprobs == 0
        tokens = [(), (TokenLogprob("a", -1.0), TokenLogprob("b", -2.0)), (TokenLogprob("c", -0.25),)][index]
        return Completion(text="abc"[: len(tokens)], finish_reason="stop", logprobs=tokens)

    node = sample(n=3, logprobs=True)
    assert node.needs == {"logprobs"} and "scores" in node.provides
    output = run(node, make_state(), FakeContext(reply=reply))
    assert output.candidates is not None
    assert [candidate.scores["logprob"] for candidate in output.candidates] == [-1.5, -1.5, -0.25]
    assert [candidate.scores["min_logprob"] for candidate in output.candidates] == [-2.0, -2.0, -0.25]


def test_the_budget_lets_through_what_fits() -> None:
    context = FakeContext(limit=3)
    output = run(sample(n=8), make_state(), context)
    assert output.candidates is not None and len(output.candidates) == 3
    assert output.stopped == "budget"
    assert context.events[0][1]["limit"] == "calls"


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 0), ("model", []), ("model", ""), ("temperature", 2.5), ("top_p", 0), ("max_tokens", 0), ("stop", [""])],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        sample(**{field: value})
