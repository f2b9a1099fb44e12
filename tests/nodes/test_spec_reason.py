"""Drafts that are graded, kept or rewritten; what is recorded of them; how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferloom.core.errors import BudgetExceededError, CapabilityError
from inferloom.core.types import Candidate, Completion, Json, NodeOutput, Request, TokenLogprob
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.nodes.base import NODES
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.testing import FakeContext, run
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.steps import QUESTION, written

Said = str | Completion
Texts = dict[str, Said]
DRAFTS: Texts = {"": "a\n", "a\n": "bad\n", "a\nB\n": "A: 1"}
WRITER: Texts = {"a\n": "B\n"}


def pair(drafts: Texts, writer: Texts, grades: dict[str, Said]) -> Callable[[str, Request, int], Said]:
    """A small model `s`, a large one `l` and its grades; 9 where none is given. Other texts are never asked."""

    def reply(model: str, request: Request, index: int) -> Said:
        text = written(request)
        if text is None:
            return grades.get(request.messages[-2].content, "9")
        return (drafts if model == "s" else writer)[text]

    return reply


def reason(context: FakeContext, **params: Json) -> NodeOutput:
    node = NODES.get("spec_reason")
    made = node(node.Params.model_validate({"draft": "s", "model": "l", **params}))
    output = run(made, QUESTION, context)
    least, most = made.calls(0)
    assert context.calls <= most
    assert output.stopped or context.calls >= least
    return output


def one(context: FakeContext, **params: Json) -> Candidate:
    output = reason(context, **params)
    assert output.candidates
    return output.candidates[0]


def context(grades: dict[str, Said], drafts: Texts = DRAFTS, writer: Texts = WRITER, **more: int) -> FakeContext:
    return FakeContext(reply=pair(drafts, writer, grades), prompts=load_pack("pocket"), **more)


def asked(context: FakeContext) -> list[tuple[str, str]]:
    """(model, text gone on from, or `?` with the text judged) of every request."""
    found = []
    for model, request in context.requests:
        text = written(request)
        found.append((model, "?" + request.messages[-2].content if text is None else text))
    return found


def length(text: str, tokens: int) -> Completion:
    return Completion(text=text, finish_reason="length", completion_tokens=tokens)


def test_a_rejected_draft_is_rewritten_once_and_not_graded_again() -> None:
    seen = context({"a\nbad": "2"})
    made = one(seen)
    assert (made.text, made.answer, made.finished) == ("a\nB\nA: 1", "1", True)
    assert asked(seen) == [
        ("s", ""),
        ("l", "?a"),
        ("s", "a\n"),
        ("l", "?a\nbad"),
        ("l", "a\n"),
        ("s", "a\nB\n"),
        ("l", "?a\nB\nA: 1"),
    ]
    assert {request.max_tokens for _, request in seen.requests if written(request) is None} == {1}


def test_the_story_of_every_step_is_kept() -> None:
    steps = one(context({"a\nbad": "2"})).origin["steps"]
    assert [step["model"] for step in steps] == ["s", "l", "s"]
    assert steps[1]["grade"] == pytest.approx(2 / 9) and "rejected" in steps[1]
    assert "rejected" not in steps[0] and steps[0]["grade"] == 1.0


@pytest.mark.parametrize(("threshold", "kept"), [(0.78, False), (0.77, True), (0.0, True)])
def test_the_threshold_decides(threshold: float, kept: bool) -> None:
    drafts: Texts = {"": "A: 1"}
    made = one(context({"A: 1": "7"}, drafts, {"": "A: 2"}), threshold=threshold)
    assert made.text == ("A: 1" if kept else "A: 2")


def test_expected_grades_by_the_digits_chances() -> None:
    top = (("9", -0.6931471805599453), ("0", -0.6931471805599453))
    half = Completion(text="9", finish_reason="stop", logprobs=(TokenLogprob("9", top[0][1], top),))
    texts: tuple[Texts, Texts] = ({"": "A: 1"}, {"": "A: 2"})
    assert one(context({"A: 1": half}, *texts), threshold=0.6).text == "A: 1"
    assert one(context({"A: 1": half}, *texts), threshold=0.6, expected=True).text == "A: 2"


def test_a_judge_without_a_digit_rejects_and_is_reported() -> None:
    seen = context({"A: 1": "hm"}, {"": "A: 1"}, {"": "A: 2"})
    assert one(seen).text == "A: 2"
    assert ("parse_failed", {"role": "score_step", "reply": "hm"}) in seen.events


def test_the_first_steps_are_the_large_models_and_not_graded() -> None:
    seen = context({}, {"a\n": "A: 1"}, {"": "a\n"})
    assert one(seen, first=1).text == "a\nA: 1"
    assert asked(seen) == [("l", ""), ("s", "a\n"), ("l", "?a\nA: 1")]


def test_another_model_may_judge() -> None:
    seen = context({"a\nbad": "2"})
    one(seen, judge="j")
    assert {model for model, text in asked(seen) if text.startswith("?")} == {"j"}


def test_drafts_ahead_are_used_when_accepted_and_thrown_away_when_not() -> None:
    drafts: Texts = {**DRAFTS, "a\nbad\n": "wasted\n"}
    plain, ahead = context({"a\nbad": "2"}, drafts), context({"a\nbad": "2"}, drafts)
    assert one(plain).text == one(ahead, ahead=True).text
    assert sorted([*asked(plain), ("s", "a\nbad\n")]) == sorted(asked(ahead))


def test_a_trusted_draft_is_not_graded() -> None:
    sure = Completion(text="A: 1", finish_reason="stop", logprobs=(TokenLogprob("A: 1", -0.01),))
    unsure = Completion(text="A: 1", finish_reason="stop", logprobs=(TokenLogprob("A: 1", -1.0),))
    for said, calls in ((sure, 1), (unsure, 2)):
        seen = context({}, {"": said})
        one(seen, trust=0.9)
        assert seen.calls == calls
    node = NODES.get("spec_reason")
    made = node(node.Params.model_validate({"draft": "s", "model": "l", "trust": 0.9}))
    assert (made.needs_of("s"), made.needs_of("l")) == ({"prefix", "logprobs"}, {"prefix"})


def test_a_small_model_that_never_ends_a_step_is_held_by_the_limits() -> None:
    drafts: Texts = {"": length("aa", 4), "aa": length("bb", 4)}
    made = one(context({}, drafts), step_tokens=4, max_tokens=8)
    assert (made.text, made.finished) == ("aabb", False)


def test_a_step_said_twice_in_a_row_ends_it() -> None:
    seen = context({}, {"": "a\n", "a\n": "a\n"})
    made = one(seen)
    assert (made.text, made.finished) == ("a\na", False)
    longer = context({}, {"": "a\n", "a\n": "a\n", "a\na\n": "A: 1"})
    assert one(longer, repeats=3).finished


def test_the_small_model_may_end_steps_its_own_way() -> None:
    seen = context({"a;bad": "0"}, {"": "a;", "a;": "bad;", "a;B\n": "A: 1"}, {"a;": "B\n"})
    assert one(seen, draft_step=";").text == "a;B\nA: 1"


def test_chains_go_on_together_and_finished_ones_come_first() -> None:
    replies = iter(["a\n", "A: 1"])
    seen = context({}, {"a\n": length("b", 9)})
    inner = seen.reply
    seen.reply = lambda model, request, index: next(replies) if written(request) == "" else inner(model, request, index)
    output = reason(seen, n=2, max_tokens=9)
    assert output.candidates is not None
    assert [(made.text, made.finished) for made in output.candidates] == [("A: 1", True), ("a\nb", False)]


def test_a_budget_leaves_the_best_so_far_at_every_call() -> None:
    whole = context({"a\nbad": "2"})
    one(whole)
    texts = []
    for limit in range(1, whole.calls):
        output = reason(context({"a\nbad": "2"}, limit=limit))
        assert output.stopped == "budget" and output.candidates
        texts.append(output.candidates[0].text)
    assert texts == ["a", "a", "a\nbad", "a\nbad", "a\nB", "a\nB\nA: 1"]
    with pytest.raises(BudgetExceededError):
        reason(context({}, limit=0))


def test_first_must_fit() -> None:
    with pytest.raises(ValueError, match="first is 9; must be at most max_steps, 8"):
        NODES.get("spec_reason").Params.model_validate({"draft": "s", "model": "l", "first": 9, "max_steps": 8})


def test_a_model_that_cannot_do_its_part_is_refused_by_name(tmp_path: Path) -> None:
    from inferloom.core.protocols import Capabilities

    register_backend("plain-chat", ScriptedBackend(lambda *_: "9", name="plain-chat", capabilities=Capabilities()))
    start = "models: {s: 'scripted:constant', l: 'scripted:constant', j: 'scripted:plain-chat'}\nsteps:\n"
    with Store.open("sqlite://") as store:
        step = "  - spec_reason: {draft: s, model: l, judge: j}\n"
        Pipeline(PipelineSpec.parse(start + step, "x.yaml"), Gateway(store))  # a judge need not continue
        with pytest.raises(CapabilityError, match="needs `logprobs`, which model `j`"):
            Pipeline(PipelineSpec.parse(start + step.replace("}", ", expected: true}"), "x.yaml"), Gateway(store))
        with pytest.raises(CapabilityError, match="needs `prefix`, which model `j`"):
            Pipeline(PipelineSpec.parse(start + "  - spec_reason: {draft: j, model: l}\n", "x.yaml"), Gateway(store))


def test_on_the_pocket_pair_every_token_at_the_backends_is_in_the_ledger(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = (
        "models: {small: pocket:small, large: pocket:large}\nprompts: pocket\n"
        "steps: [{spec_reason: {draft: small, model: large, n: 3, threshold: 0.9, ahead: true}}, vote]\n"
    )
    with Store.open(f"{tmp_path}/run.db") as store:
        flow = Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))
        counted = {"small": [0, 0], "large": [0, 0]}
        for name, model in flow._models.items():
            inner = model.backend.generate

            async def counting(request, seeds, on_token=None, inner=inner, name=name):  # type: ignore[no-untyped-def]
                made = await inner(request, seeds, on_token)
                counted[name][0] += sum(one.prompt_tokens for one in made)
                counted[name][1] += sum(one.completion_tokens for one in made)
                return made

            model.backend.generate = counting  # type: ignore[method-assign]
        result = flow.invoke("311+682+782+546=?")
        calls = store.calls(result.run_id)
        for name, (prompt, completion) in counted.items():
            own = [call.billed for call in calls if call.model == name]
            assert (sum(b.prompt_tokens for b in own), sum(b.completion_tokens for b in own)) == (prompt, completion)
        rejected = [s for made in result.candidates for s in made.origin.get("steps", ()) if "rejected" in s]
        for step in rejected:
            assert store.completion(step["rejected"]) is not None
        cut = flow.invoke("311+682+782+546=?", budget=Budget(calls=5))
        assert cut.stopped == "budget" and cut.usage.calls <= 5
