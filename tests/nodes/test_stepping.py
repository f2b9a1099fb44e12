"""What all searches over steps promise: how steps end and go on, who is judged, what is handed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from inferloom.core.errors import BudgetExceededError
from inferloom.core.types import Completion, Json, Message, Request, TokenLogprob
from inferloom.models.client import Gateway
from inferloom.nodes.base import NODES, Node
from inferloom.nodes.common import open_turn
from inferloom.nodes.stepping import Aggregate, Partial, StepSearch, aggregated
from inferloom.nodes.testing import FakeContext, make_state
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.steps import (
    PocketContext,
    StepTree,
    assert_walked_by_steps,
    drawn,
    graded,
    plain,
    pocket_states,
    search,
    search_output,
    written,
)

CHAINS: dict[str, dict[str, Json]] = {
    "beam_search": {"n": 1, "width": 1},
    "dvts": {"n": 1, "width": 1},
    "particle_filter": {"n": 1},
    "mcts": {"simulations": 12, "width": 1},
}
"""Parameters with which each search writes one solution."""


def step(text: str, ended: str = "separator", tokens: int = 0) -> Completion:
    reason = {"separator": ("stop", "\n"), "text": ("stop", None), "length": ("length", None)}[ended]
    return Completion(
        text=text,
        finish_reason="length" if reason[0] == "length" else "stop",
        stop_reason=reason[1],
        completion_tokens=tokens,
    )


def test_the_table_names_every_search() -> None:
    assert {name for name, node in NODES if issubclass(node, StepSearch)} == set(CHAINS)


class TestPartial:
    def grown(self, part: Partial, completion: Completion, last_step: bool = False) -> Partial:
        return part.grown(completion, "\n", last_step=last_step, max_tokens=100)

    def test_the_separator_is_put_back_but_not_shown(self) -> None:
        part = self.grown(self.grown(Partial(), step("a")), step("b"))
        assert (part.text, part.shown, part.end, part.steps) == ("a\nb\n", "a\nb", "", 2)

    def test_the_end_of_the_text_ends_it(self) -> None:
        part = self.grown(self.grown(Partial(), step("a")), step("b", "text"))
        assert (part.shown, part.end) == ("a\nb", "finished")

    def test_a_step_cut_at_its_limit_goes_on_in_its_middle(self) -> None:
        part = self.grown(Partial(), step("a", "length", tokens=60))
        assert (part.text, part.end) == ("a", "")
        assert self.grown(part, step("b")).text == "ab\n"

    @pytest.mark.parametrize("ended", ["length", "separator"])
    def test_at_the_limit_of_the_whole_it_is_cut(self, ended: str) -> None:
        part = self.grown(Partial(tokens=60, steps=1), step("a", ended, tokens=40))
        assert part.end == "cut"
        assert self.grown(Partial(), step("a", ended, tokens=1), last_step=True).end == "cut"

    def test_another_reason_to_end_is_a_cut(self) -> None:
        part = self.grown(self.grown(Partial(), step("a")), replace(step("b", "text"), finish_reason="other"))
        assert (part.shown, part.end) == ("a\nb", "cut")
        assert self.grown(Partial(), replace(step("", "text"), finish_reason="other")).end == "cut"

    def test_an_end_behind_a_separator_is_no_step_of_its_own(self) -> None:
        first = self.grown(Partial(), step("a")).with_score(0.5)
        part = self.grown(first, step("", "text"))
        assert (part.shown, part.end, part.judged) == ("a", "finished", False)
        assert part.with_score(0.5).scores == (0.5,)
        second = self.grown(first, step("b"))  # was not judged itself
        assert self.grown(second, step("", "text")).scores == (0.5,)

    def test_an_empty_answer_is_finished(self) -> None:
        assert self.grown(Partial(), step("", "text")) == Partial(end="finished", steps=1)

    @pytest.mark.parametrize(("how", "score"), [("last", 0.5), ("min", 0.2), ("product", 0.08), ("mean", 0.5)])
    def test_step_scores_become_one(self, how: Aggregate, score: float) -> None:
        part = Partial(scores=(0.8, 0.2, 0.5), judged=True)
        assert aggregated(part, how) == pytest.approx(score)
        assert aggregated(Partial(scores=(0.8,)), how) < 0


def test_the_first_step_is_the_ordinary_question_and_later_ones_an_open_turn() -> None:
    opening = (Message("user", "?"),)
    assert open_turn(opening, "") == opening
    assert open_turn(opening, "a\n") == (*opening, Message("assistant", "a\n"))
    begun = (*opening, Message("assistant", "Let us see. "))
    assert open_turn(begun, "a\n") == (*opening, Message("assistant", "Let us see. a\n"))


@pytest.mark.parametrize("name", CHAINS)
class TestEverySearch:
    CHAIN = StepTree({"": ["a\n"], "a\n": ["b\n"], "a\nb\n": ["A: 1"]}, {"a": 9, "a\nb": 3, "a\nb\nA: 1": 6})

    def test_writes_a_solution_by_steps(self, name: str) -> None:
        context = self.CHAIN.context()
        [candidate] = search(name, context, **CHAINS[name])
        assert (candidate.text, candidate.answer, candidate.finished) == ("a\nb\nA: 1", "1", True)
        assert drawn(context) == [("", 1), ("a\n", 1), ("a\nb\n", 1)]
        assert graded(context) == ["a", "a\nb", "a\nb\nA: 1"]
        steps = [request for _, request in context.requests if written(request) is not None]
        assert {request.stop for request in steps} == {("\n",)}
        assert {request.max_tokens for request in steps} == {128}

    @pytest.mark.parametrize(("how", "score"), [("last", 6 / 9), ("min", 3 / 9), ("product", 2 / 9), ("mean", 6 / 9)])
    def test_leaves_the_score_under_its_name(self, name: str, how: str, score: float) -> None:
        [candidate] = search(name, self.CHAIN.context(), aggregate=how, name="mine", **CHAINS[name])
        assert candidate.scores == {"mine": pytest.approx(score)}

    def test_a_text_is_judged_once_also_over_the_steps(self, name: str) -> None:
        tree = StepTree({"": ["A: 1\n"], "A: 1\n": [""]}, {"A: 1": 8})
        context = tree.context()
        [candidate] = search(name, context, aggregate="product", **CHAINS[name])
        assert graded(context) == ["A: 1"]
        assert (candidate.text, candidate.finished) == ("A: 1", True)
        assert candidate.scores == {"step": pytest.approx(8 / 9)}

    def test_another_model_may_judge(self, name: str) -> None:
        context = self.CHAIN.context()
        search(name, context, judge="j", judge_tokens=3, **CHAINS[name])
        assert {model for model, request in context.requests if written(request) is None} == {"j"}
        assert {model for model, request in context.requests if written(request) is not None} == {"m"}
        assert {request.max_tokens for _, request in context.requests if written(request) is None} == {3}

    def test_the_last_step_runs_to_the_end(self, name: str) -> None:
        context = self.CHAIN.context()
        [candidate] = search(name, context, max_steps=2, **CHAINS[name])
        assert candidate.text == "a\nb\nA: 1"
        assert drawn(context) == [("", 1), ("a\n", 1)]
        last = next(request for _, request in context.requests if written(request) == "a\n")
        assert (last.stop, last.max_tokens) == ((), 512)

    def test_one_step_needs_no_open_turn(self, name: str) -> None:
        node = NODES.get(name)
        assert node(node.Params.model_validate({"model": "m", "max_steps": 1})).needs == frozenset()
        context = self.CHAIN.context()
        search(name, context, max_steps=1, **CHAINS[name])
        assert drawn(context) == [("", 1)]

    def test_what_met_the_limit_of_the_whole_is_cut_and_not_finished(self, name: str) -> None:
        endless = StepTree({"": [step("aa", "length", 4)], "aa": [step("bb", "length", 4)]})
        context = endless.context()
        [candidate] = search(name, context, step_tokens=4, max_tokens=8, **CHAINS[name])
        assert (candidate.text, candidate.finished) == ("aabb", False)
        assert [text for text, _ in drawn(context)] == ["", "aa"]

    def test_finished_solutions_come_before_cut_ones(self, name: str) -> None:
        tree = StepTree({"": [step("good", "length", 9), "A: 1"]}, {"good": 9, "A: 1": 1})
        params: dict[str, Json] = {"width": 2} if name == "mcts" else {"n": 2}
        made = search(name, tree.context(), max_tokens=9, **params)
        assert [(candidate.text, candidate.finished) for candidate in made] == [("A: 1", True), ("good", False)]

    def test_the_separator_can_be_a_paragraph(self, name: str) -> None:
        def reply(model: str, request: Request, index: int) -> str:
            said = written(request)
            return "7" if said is None else "b\nA: 2" if said else "a\n\nb\nA: 2"

        context = StepTree({}).context()
        context.reply = reply
        [candidate] = search(name, context, step="\n\n", **CHAINS[name])
        assert candidate.text == "a\n\nb\nA: 2"
        assert [text for text, _ in drawn(context)] == ["", "a\n\n"]

    def test_a_reply_without_a_digit_grades_lowest_and_is_reported(self, name: str) -> None:
        context = self.CHAIN.context()
        tree = context.reply
        context.reply = lambda model, request, index: "hm" if written(request) is None else tree(model, request, index)
        [candidate] = search(name, context, **CHAINS[name])
        assert candidate.scores == {"step": 0.0}
        assert context.events == [("parse_failed", {"role": "score", "reply": "hm"})] * 3

    def test_expected_reads_the_digits_chances(self, name: str) -> None:
        top = (("9", -0.6931471805599453), ("0", -0.6931471805599453))
        reply = Completion(text="9", finish_reason="stop", logprobs=(TokenLogprob("9", top[0][1], top),))
        context = self.CHAIN.context()
        tree = context.reply
        context.reply = lambda model, request, index: reply if written(request) is None else tree(model, request, index)
        [candidate] = search(name, context, expected=True, **CHAINS[name])
        assert candidate.scores == {"step": pytest.approx(0.5)}

    def test_old_candidates_stay_only_if_wished(self, name: str) -> None:
        state = make_state(["old"])
        texts = [[one.text for one in search(name, FakeContext(), state, keep=keep)] for keep in (False, True)]
        assert "old" not in texts[0]
        assert texts[1] == [*texts[0], "old"]
        node = NODES.get(name)
        kept = node(node.Params.model_validate({"model": "m", "keep": True}))
        assert (kept.provides, "scores" in kept.drops) == ({"candidates"}, True)

    def test_when_the_budget_ends_finished_ones_come_first_then_partial_ones(self, name: str) -> None:
        tree = StepTree({"": ["a\n", "A: 1"], "a\n": ["b\n"], "a\nb\n": ["c\n"]}, {"a": 9, "A: 1": 2, "a\nb": 8})
        params: dict[str, Json] = {"width": 2} if name == "mcts" else {"n": 2}
        if name == "particle_filter":
            params["ess"] = 0
        output = search_output(name, tree.context(limit=5), **params)
        assert output.stopped == "budget" and output.candidates
        first, second = output.candidates[:2]
        assert (first.text, first.finished) == ("A: 1", True)
        assert second.text.startswith("a") and not second.finished
        with pytest.raises(BudgetExceededError):
            search(name, tree.context(limit=0), **params)

    def test_pocket_model_writes_by_steps_what_it_writes_in_one_piece(self, name: str) -> None:
        for state in pocket_states():
            context = PocketContext()
            [candidate] = search(name, context, state, temperature=0, **CHAINS[name])
            assert candidate.text == plain(state)
            assert candidate.text.count("\n") >= 2
            assert_walked_by_steps(context)

    def test_pocket_model_answers_and_what_ended_is_not_extended(self, name: str) -> None:
        params: dict[str, Json] = {"simulations": 6, "width": 3} if name == "mcts" else {"n": 4}
        for seed, state in enumerate(pocket_states()):
            context = PocketContext(seed=1000 * seed)
            made = search(name, context, state, **params)
            assert made[0].finished and "A: " in made[0].text
            assert_walked_by_steps(context)
            assert len(graded(context)) == len(set(graded(context)))
            ends = {(written(request) or "") + end.text for request, end in context.drew if end.stop_reason is None}
            assert {candidate.text for candidate in made if candidate.finished} <= ends


@pytest.mark.parametrize("name", CHAINS)
def test_in_a_pipeline_the_ledger_counts_every_draw_and_a_stream_repeats(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    size = "simulations: 5, width: 3" if name == "mcts" else "n: 4"
    text = f"models: {{m: pocket:small}}\nsteps: [{{{name}: {{model: m, expected: true, {size}}}}}, {{best: step}}]\n"
    with Store.open(f"{tmp_path}/run.db") as store:
        flow = Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))
        first, second = (flow.invoke("12+34+56=?", stream="s") for _ in range(2))
        assert first.answer is not None
        assert store.usage(first.run_id).nominal.calls == first.usage.calls > 5
        assert (second.text, second.usage) == (first.text, first.usage)
        assert first.billed.calls > 0 == second.billed.calls


def most_calls(name: str, **params: Json) -> tuple[int, int]:
    """The calls of a tree in which every step is new and nothing ends early, and the bound."""

    def reply(model: str, request: Request, index: int) -> str:
        said = written(request)
        return "5" if said is None else f"{index}{len(context.requests)}\n" if request.stop else f"A: {index}{said}"

    context = StepTree({}).context()
    context.reply = reply
    search(name, context, **params)
    node: type[Node] = NODES.get(name)
    return context.calls, node(node.Params.model_validate({"model": "m", **params})).calls(0)[1]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("beam_search", {"n": 4, "width": 2, "max_steps": 3}),
        ("beam_search", {"n": 3, "width": 1, "max_steps": 1}),
        ("dvts", {"n": 6, "width": 3, "max_steps": 4}),
        ("particle_filter", {"n": 3, "max_steps": 3, "ess": 0}),
        ("mcts", {"simulations": 1, "width": 2, "max_steps": 1}),
    ],
)
def test_the_most_calls_are_reached(name: str, params: dict[str, Json]) -> None:
    calls, most = most_calls(name, **params)
    assert calls == most


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("beam_search", {"n": 4}),
        ("dvts", {"n": 4}),
        ("particle_filter", {"n": 4}),
        ("mcts", {"width": 4}),
        ("mcts", {"width": 4, "value": "rollout"}),
    ],
)
def test_the_least_calls_are_reached(name: str, params: dict[str, Json]) -> None:
    context = StepTree({"": ["A: 1"]}).context()
    made = search(name, context, **params)
    assert context.calls == 5
    assert {candidate.text for candidate in made} == {"A: 1"}


@pytest.mark.parametrize("name", ["beam_search", "dvts"])
def test_trees_must_be_whole(name: str) -> None:
    with pytest.raises(ValidationError, match="n is 5; must be a multiple of width, which is 2"):
        NODES.get(name).Params.model_validate({"model": "m", "n": 5, "width": 2})
