"""Sample: what it asks, what it makes of the completions, what it keeps."""

import asyncio

import pytest
from pydantic import ValidationError

from inferloom.core.protocols import SandboxResult
from inferloom.core.types import Completion, FinishReason, Message, NodeState, Request, TokenLogprob
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.sample import Sample, SampleParams
from inferloom.nodes.testing import FakeContext, FakeSandbox, make_state, run


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


@pytest.mark.parametrize(("reason", "finished"), [("stop", True), ("length", False), ("other", False)])
def test_only_a_text_that_came_to_its_end_is_finished(reason: FinishReason, finished: bool) -> None:
    context = FakeContext(reply=lambda model, request, index: Completion(text="A: 1", finish_reason=reason))
    output = run(sample(), make_state(), context)
    assert [candidate.finished for candidate in output.candidates or ()] == [finished]


class SlowFirst(FakeContext):
    """Answers the first request last."""

    async def generate(self, model: str, request: Request) -> list[Completion]:
        first = not self.requests
        completions = await super().generate(model, request)
        for _ in range(20 if first else 0):
            await asyncio.sleep(0)
        return completions


def test_draws_of_a_repeated_model_do_not_depend_on_which_plan_comes_first() -> None:
    def reply(model: str, request: Request, index: int) -> str:
        # The first request brings a plan of its own and one that the second request brings too.
        if "Write a plan" in request.messages[-1].content:
            return ["PLAN-own", "PLAN-both", "PLAN-both", "PLAN-other"][index]
        return f"worked {index}\nA: {index}"

    def drawn(context: FakeContext) -> list[str]:
        output = run(sample(plan=True, model=["small", "small"], n=2), make_state(), context)
        return [candidate.text for candidate in output.candidates or ()]

    expected = ["worked 0\nA: 0", "worked 0\nA: 0", "worked 1\nA: 1", "worked 0\nA: 0"]
    assert drawn(FakeContext(reply=reply)) == expected
    assert drawn(SlowFirst(reply=reply)) == expected


def planner(model: str, request: Request, index: int) -> str:
    asked = request.messages[-1].content
    return f"PLAN-{index}" if "Write a plan" in asked else f"worked {index}\nA: {index}"


def planned(limit: int | None = None, **params: object) -> tuple[list[tuple[str | None, int]], list[str], FakeContext]:
    """(the plan in the prompt, n) of each request; the answers' first lines."""
    context = FakeContext(reply=planner, limit=limit)
    output = run(sample(plan=True, **params), make_state(["old"]), context)
    assert output.candidates is not None
    shown = []
    for _, request in context.requests:
        last = request.messages[-1].content
        plan = last[last.index("PLAN-") :].split("\n")[0] if "PLAN-" in last else None
        shown.append((plan, request.n))
    return shown, [candidate.text.split("\n")[0] for candidate in output.candidates], context


def test_each_draw_has_its_own_plan_in_the_prompt() -> None:
    shown, texts, context = planned(n=3)
    assert shown == [(None, 3), ("PLAN-0", 1), ("PLAN-1", 1), ("PLAN-2", 1)]
    assert texts == ["old", "worked 0", "worked 0", "worked 0"]
    planning, answering = context.requests[0][1], context.requests[1][1]
    assert "What is 2 + 3?" in planning.messages[-1].content and "What is 2 + 3?" in answering.messages[-1].content
    assert "1 + 1" not in "".join(message.content for message in planning.messages)
    assert "1 + 1" in "".join(message.content for message in answering.messages)
    assert answering.messages[-1].role == "user" and "Work the problem out" in answering.messages[0].content


def test_draws_share_plans_where_asked() -> None:
    assert planned(n=5, plans=1)[0] == [(None, 1), ("PLAN-0", 5)]
    assert planned(n=5, plans=2)[0] == [(None, 2), ("PLAN-0", 3), ("PLAN-1", 2)]
    assert planned(n=2, plans=7)[0] == [(None, 2), ("PLAN-0", 1), ("PLAN-1", 1)]
    assert sample(n=5, plan=True, plans=2).calls(0) == (7, 7)


def test_the_plan_is_not_cut_at_the_answers_stop_strings() -> None:
    _, _, context = planned(stop=["\n\n"], logprobs=True)
    planning, answering = context.requests[0][1], context.requests[1][1]
    assert (planning.stop, planning.logprobs) == ((), None) and (answering.stop, answering.logprobs) == (("\n\n",), 0)


def test_a_budget_spent_on_plans_hands_on_what_came_in() -> None:
    shown, texts, _ = planned(n=3, limit=2)
    assert texts == ["old"] and shown[0] == (None, 3)
    shown, texts, _ = planned(n=3, limit=4)
    assert texts == ["old", "worked 0"]


def test_n_are_drawn_from_each_model_in_each_style() -> None:
    context = FakeContext(reply=lambda model, request, index: f"{model}\nA: 1")
    node = sample(model=["small", "large"], style=["plain", "step_by_step"], n=2)
    output = run(node, make_state(), context)
    assert [(model, request.n) for model, request in context.requests] == [
        ("small", 2),
        ("small", 2),
        ("large", 2),
        ("large", 2),
    ]
    asked = [request.messages[-1].content for _, request in context.requests]
    assert asked[0] == asked[2] == "What is 2 + 3?" and asked[1] == asked[3]
    assert asked[1].startswith("What is 2 + 3?\n") and "number your steps" in asked[1]
    assert output.candidates is not None and len(output.candidates) == 8 == node.candidates_out(0)
    assert node.roles == {"solve", "solve_step_by_step"}


def programs(
    reply: str | Completion, result: SandboxResult, **params: object
) -> tuple[FakeContext, FakeSandbox, object]:
    sandbox = FakeSandbox(result=lambda code: result)
    context = FakeContext(reply=lambda model, request, index: reply, sandbox=sandbox)
    output = run(sample(style="program", **params), make_state(), context)
    assert output.candidates is not None
    return context, sandbox, [(candidate.text, candidate.answer) for candidate in output.candidates]


FENCED = "Here:\n```python\nprint(2 + 3)\n```"


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (SandboxResult(outcome="ok", output="working\n5\n\n"), "5"),
        (SandboxResult(outcome="ok", value=5), "5"),
        (SandboxResult(outcome="ok", output="6", value=5), "6"),
        (SandboxResult(outcome="ok", output=" \n"), None),
        (SandboxResult(outcome="error", output="5", error="ZeroDivisionError"), None),
        (SandboxResult(outcome="limit", output="5"), None),
        (SandboxResult(outcome="unsupported", error="no classes"), None),
    ],
)
def test_what_a_program_prints_last_is_the_answer(result: SandboxResult, answer: str | None) -> None:
    context, sandbox, made = programs(FENCED, result)
    assert sandbox.programs == ["print(2 + 3)"]
    assert made == [(f"{FENCED}\n\nA: {answer}" if answer else FENCED, answer)]
    failed = [(event, data["outcome"]) for event, data in context.events]
    assert failed == ([] if answer else [("program_failed", result.outcome)])


def test_a_program_that_was_cut_does_not_run() -> None:
    cut = Completion(text="```python\nprint(2 +", finish_reason="length")
    context, sandbox, made = programs(cut, SandboxResult(outcome="ok", output="5"))
    assert sandbox.programs == [] and made == [(cut.text, None)]
    assert [event for event, _ in context.events] == ["parse_failed"]


def test_only_the_programs_among_several_styles_run() -> None:
    _, sandbox, _ = programs(FENCED, SandboxResult(outcome="ok", output="5"), n=2)
    assert len(sandbox.programs) == 2
    sandbox = FakeSandbox(result=lambda code: SandboxResult(outcome="ok", output="5"))
    context = FakeContext(reply=lambda model, request, index: "print(1)\nA: 7", sandbox=sandbox)
    output = run(sample(style=["plain", "program", "plain"]), make_state(), context)
    assert output.candidates is not None and [one.answer for one in output.candidates] == ["7", "5", "7"]


def test_a_program_is_asked_for_without_worked_examples() -> None:
    context, _, _ = programs(FENCED, SandboxResult(outcome="ok"), examples=[{"question": "1 + 1?", "answer": "A: 2"}])
    assert "1 + 1" not in "".join(message.content for message in context.requests[0][1].messages)


@pytest.mark.parametrize(
    "text",
    ["```python\nprint(5)\n```\nprints\n```\n5\n```", "<think>```\nprint(4)\n```</think>~~~py\nprint(5)\n~~~"],
)
def test_the_program_is_neither_a_draft_nor_what_it_prints(text: str) -> None:
    _, sandbox, _ = programs(Completion(text=text, finish_reason="stop"), SandboxResult(outcome="ok", output="5"))
    assert sandbox.programs == ["print(5)"]


@pytest.mark.parametrize("params", [{"plans": 2}, {"style": []}, {"style": "rhyme"}, {"plan": True, "plans": 0}])
def test_plans_and_styles_that_do_not_fit_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        sample(**params)
