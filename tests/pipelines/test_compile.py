"""The compiled graph, run with a stand-in for the runner: what each node reads, in what order, and where runs go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random

import pytest

from inferloom.core.errors import SetupError, SpecError
from inferloom.core.types import Candidate, Message, NodeOutput, NodeState, Usage
from inferloom.pipelines.compile import ancestors, compile_graph, lanes
from inferloom.pipelines.spec import PipelineSpec, StepSpec

MODELS = "models: {small: pocket:small, large: pocket:large}\n"


class Runner:
    """Stands in for the runner: `sample` makes candidates, all else passes on; notes what each node read."""

    def __init__(
        self, delays: Random | None = None, outputs: dict[str, Callable[[NodeState], NodeOutput]] | None = None
    ):
        self.read: list[tuple[str, list[str]]] = []
        self.delays = delays
        self.outputs = outputs or {}
        self.runs: dict[str, int] = {}

    async def __call__(self, step: StepSpec, state: NodeState) -> NodeOutput:
        if self.delays is not None:
            await asyncio.sleep(self.delays.random() / 200)
        turn = self.runs[step.path] = self.runs.get(step.path, 0) + 1
        self.read.append((step.path, [candidate.id for candidate in state.candidates]))
        if step.path in self.outputs:
            return self.outputs[step.path](state)
        if step.node.name == "sample":
            new = Candidate(id=f"{step.path}#{turn}", text=f"text of {step.path}", answer="4")
            return NodeOutput(candidates=(*state.candidates, new))
        return NodeOutput()


def nodes(text: str, edges: str) -> PipelineSpec:
    return PipelineSpec.parse(f"{MODELS}nodes: {{{text}}}\nedges: [{edges}]\n", "p.yaml")


def answers(*texts: str) -> Callable[[NodeState], NodeOutput]:
    made = tuple(Candidate(id=f"c{index}", text=text, answer=text) for index, text in enumerate(texts))
    return lambda state: NodeOutput(candidates=made)


async def test_a_chain_hands_on_candidates_and_ends_with_the_first_one() -> None:
    spec = PipelineSpec.parse(MODELS + "steps: [{sample: small}, {critique: large}, vote]\n")
    runner = Runner()
    candidates, stopped = await compile_graph(spec, runner).run("2+2")
    assert runner.read == [("steps/0", []), ("steps/1", ["steps/0#1"]), ("steps/2", ["steps/0#1"])]
    assert [candidate.answer for candidate in candidates] == ["4"]
    assert stopped is None


async def test_the_state_is_plain_json_and_carries_the_conversation() -> None:
    spec = PipelineSpec.parse(MODELS + "steps: [{sample: small}, vote]\n")
    seen: list[NodeState] = []

    async def execute(step: StepSpec, state: NodeState) -> NodeOutput:
        seen.append(state)
        made = Candidate(id="c", text="t", answer="4", scores={"s": 0.5}, parents=("p",), tests=(True,))
        return NodeOutput(candidates=(made,), notes=("n2",)) if step.path == "steps/0" else NodeOutput()

    app = compile_graph(spec, execute).app
    given = {
        "question": "q",
        "turns": [{"role": "user", "content": "q"}],
        "notes": ["n1"],
        "examples": [["eq", "ea"]],
    }
    state = await app.ainvoke(given)
    assert json.loads(json.dumps(state)) == state
    assert state["answer"] == "4"
    assert (seen[0].notes, seen[1].notes) == (("n1",), ("n2",))
    assert all(one.messages == (Message("user", "q"),) and one.examples == (("eq", "ea"),) for one in seen)
    assert seen[1].candidates[0].scores == {"s": 0.5}


@pytest.mark.parametrize("seed", range(6))
async def test_joins_read_in_declared_order_whatever_arrives_first(seed: int) -> None:
    spec = nodes(
        "a: {sample: small}, b: {sample: small}, c: {sample: large}, d: {critique: large}, e: vote",
        "[c, e], [a, d], [b, d], [d, e]",
    )
    runner = Runner(delays=Random(seed))
    await compile_graph(spec, runner).run("q")
    read = dict(runner.read)
    assert read["d"] == ["a#1", "b#1"]
    assert read["e"] == ["c#1", "a#1", "b#1"]
    assert len(runner.read) == 5


async def test_a_candidate_that_comes_by_two_ways_keeps_what_both_added() -> None:
    spec = PipelineSpec.parse(
        MODELS + "steps: [{sample: small}, [{critique: large}, {score: {model: large, name: s}}], {best: s}]\n"
    )

    def criticise(state: NodeState) -> NodeOutput:
        return NodeOutput(candidates=tuple(candidate.with_critique("hm") for candidate in state.candidates))

    def score(state: NodeState) -> NodeOutput:
        return NodeOutput(candidates=tuple(candidate.with_score("s", 1.0) for candidate in state.candidates))

    runner = Runner(outputs={"steps/1/0/0": criticise, "steps/1/1/0": score})
    candidates, _ = await compile_graph(spec, runner).run("q")
    assert len(candidates) == 1
    assert candidates[0].critiques == ("hm",)
    assert candidates[0].scores == {"s": 1.0}


async def test_a_node_may_be_called_like_a_key_of_the_state() -> None:
    spec = nodes("question: {sample: small}, outputs: {critique: large}, answer: vote", "[question, outputs, answer]")
    candidates, _ = await compile_graph(spec, Runner()).run("q")
    assert candidates[0].id == "question#1"


async def test_stopped_passes_what_is_there_through_the_rest() -> None:
    spec = PipelineSpec.parse(MODELS + "steps: [[{sample: small}, {sample: large}], {critique: large}, vote]\n")
    stop = {"steps/0/1/0": lambda state: NodeOutput(candidates=state.candidates, stopped="budget")}
    runner = Runner(outputs=stop)
    candidates, stopped = await compile_graph(spec, runner).run("q")
    assert [path for path, _ in runner.read] == ["steps/0/0/0", "steps/0/1/0"]
    assert [candidate.id for candidate in candidates] == ["steps/0/0/0#1"]
    assert stopped == "budget"


async def test_the_whole_text_is_the_answer_where_the_pipeline_says_so() -> None:
    spec = PipelineSpec.parse(MODELS + "answer: text\nsteps: [{sample: small}]\n")
    state = await compile_graph(spec, Runner()).app.ainvoke({"question": "q"})
    assert state["answer"] == "text of steps/0"


@pytest.mark.parametrize(("given", "path"), [(("1", "1", "2"), "more"), (("1", "1", "1"), "pick")])
async def test_a_condition_chooses_the_way_and_plain_edges_are_for_otherwise(given: tuple[str, ...], path: str) -> None:
    spec = nodes(
        "draw: {sample: small}, more: {sample: large}, pick: vote",
        "[draw, pick], {from: draw, to: more, when: agreement < 0.9}, [more, pick]",
    )
    runner = Runner(outputs={"draw": answers(*given)})
    await compile_graph(spec, runner).run("q")
    assert [name for name, _ in runner.read] == ["draw", *dict.fromkeys([path, "pick"])]


async def test_every_condition_that_holds_is_taken_and_the_join_waits_for_all() -> None:
    spec = nodes(
        "draw: {sample: small}, x: {sample: small}, y: {sample: large}, yy: {critique: large}, pick: vote",
        "[draw, pick], {from: draw, to: x, when: candidates > 0}, {from: draw, to: y, when: candidates == 1},"
        "[x, pick], [y, yy, pick]",
    )
    runner = Runner(delays=Random(1))
    await compile_graph(spec, runner).run("q")
    picked = [ids for name, ids in runner.read if name == "pick"]
    # `x` is done two steps before `yy`, and draw's own edge was not taken; one run of `pick` reads both.
    assert picked == [["draw#1", "x#1", "y#1"]]


async def test_a_loop_goes_round_until_its_condition_fails_or_its_bound_is_reached() -> None:
    spec = nodes(
        "draw: {sample: small}, check: {critique: large}, more: {sample: small}, pick: vote",
        "[draw, check, pick], {from: check, to: more, when: candidates < 10},"
        "{from: more, to: check, at_most: 2}, [more, pick]",
    )
    runner = Runner()
    await compile_graph(spec, runner).run("q")
    assert [name for name, _ in runner.read] == ["draw", "check", "more", "check", "more", "check", "more", "pick"]
    assert runner.read[-1] == ("pick", ["draw#1", "more#1", "more#2", "more#3"])
    short = nodes(
        "draw: {sample: small}, check: {critique: large}, more: {sample: small}, pick: vote",
        "[draw, check, pick], {from: check, to: more, when: candidates < 2},"
        "{from: more, to: check, at_most: 9}, [more, pick]",
    )
    runner = Runner()
    await compile_graph(short, runner).run("q")
    assert [name for name, _ in runner.read] == ["draw", "check", "more", "check", "pick"]


async def test_a_loop_back_to_the_start_and_one_onto_itself() -> None:
    back = nodes(
        "draw: {sample: small}, check: {critique: large}",
        "[draw, check], {from: check, to: draw, when: candidates < 3, at_most: 9}",
    )
    runner = Runner()
    candidates, _ = await compile_graph(back, runner).run("q")
    assert [name for name, _ in runner.read] == ["draw", "check"] * 3
    assert [candidate.id for candidate in candidates] == ["draw#1", "draw#2", "draw#3"]
    itself = nodes("draw: {sample: small}, pick: vote", "{from: draw, to: draw, at_most: 3}, [draw, pick]")
    runner = Runner()
    await compile_graph(itself, runner).run("q")
    assert [name for name, _ in runner.read] == ["draw"] * 4 + ["pick"]


async def test_a_join_waits_for_a_join_before_it() -> None:
    # Both joins are ready once `a` and `b` are done; `last` must not run before `first` has.
    spec = nodes(
        "a: {sample: small}, b: {sample: large}, side: {sample: small}, first: {critique: large}, last: vote",
        "[a, first, last], [b, first], [b, last], {from: a, to: side, when: candidates > 5}, [side, last]",
    )
    runner = Runner(delays=Random(3))
    await compile_graph(spec, runner).run("q")
    assert [ids for name, ids in runner.read if name == "last"] == [["a#1", "b#1"]]
    assert [name for name, _ in runner.read].count("first") == 1


async def test_stopped_ends_a_loop_at_once() -> None:
    spec = nodes(
        "draw: {sample: small}, check: {critique: large}, pick: vote",
        "[draw, check, pick], {from: check, to: draw, at_most: 50}",
    )
    runner = Runner(outputs={"check": lambda state: NodeOutput(stopped="budget")})
    state = await compile_graph(spec, runner).app.ainvoke({"question": "q"})
    assert [name for name, _ in runner.read] == ["draw", "check"]
    assert (state["answer"], state["stopped"]) == ("4", "budget")
    assert {path: record["count"] for path, record in state["outputs"].items()} == {"draw": 1, "check": 1, "pick": 1}


async def test_the_longest_loop_stays_below_the_recursion_limit() -> None:
    spec = nodes(
        "draw: {sample: small}, check: {critique: large}, more: {critique: small}, pick: vote",
        "[draw, check, more, pick], {from: more, to: check, at_most: 100}, {from: pick, to: draw, at_most: 3}",
    )
    runner = Runner()
    await compile_graph(spec, runner).run("q")
    assert runner.runs == {"draw": 4, "check": 104, "more": 104, "pick": 4}


async def test_conditions_on_scores_and_on_what_was_spent() -> None:
    spec = nodes(
        "draw: {sample: small}, judge: {score: {model: large}}, more: {sample: large}, pick: vote",
        "[draw, judge, pick], {from: judge, to: more, when: best.j < 0.5}, [more, pick]",
    )
    low = {"judge": lambda state: NodeOutput(candidates=tuple(c.with_score("j", 0.4) for c in state.candidates))}
    runner = Runner(outputs=low)
    await compile_graph(spec, runner).run("q")
    assert "more" in runner.runs
    with pytest.raises(SpecError, match=r"no candidate with the score `j`; the scores are k"):
        odd = {"judge": lambda state: NodeOutput(candidates=tuple(c.with_score("k", 0.4) for c in state.candidates))}
        await compile_graph(spec, Runner(outputs=odd)).run("q")
    spending = nodes(
        "draw: {sample: small}, more: {sample: large}, pick: vote",
        "[draw, pick], {from: draw, to: more, when: tokens < 100}, [more, pick]",
    )
    with pytest.raises(SetupError, match="spent"):
        compile_graph(spending, Runner())
    for tokens, names in ((99, ["draw", "more", "pick"]), (100, ["draw", "pick"])):
        runner = Runner()
        usage = Usage(prompt_tokens=tokens)
        await compile_graph(spending, runner, spent=lambda usage=usage: usage).run("q")
        assert [name for name, _ in runner.read] == names


async def test_an_error_of_a_node_comes_out_as_it_is() -> None:
    def fail(state: NodeState) -> NodeOutput:
        raise SpecError("broken", where="here")

    spec = PipelineSpec.parse(MODELS + "steps: [[{sample: small}, {sample: large}], vote]\n")
    with pytest.raises(SpecError, match="here: broken"):
        await compile_graph(spec, Runner(outputs={"steps/0/1/0": fail})).run("q")


def test_lanes_keep_parallel_twins_apart() -> None:
    spec = PipelineSpec.parse(
        MODELS + "steps:\n  - parallel:\n    - [{sample: small}, {critique: small}]\n    - [{sample: small}]\n"
        "    - [{sample: large}]\n    - [{sample: [large, small]}, {sample: small}]\n  - {sample: small}\n"
    )
    assert lanes(spec) == {
        "steps/0/0/0": 0,
        "steps/0/0/1": 0,
        "steps/0/1/0": 1,
        "steps/0/2/0": 0,
        "steps/0/3/0": 3,
        "steps/0/3/1": 2,
        "steps/1": 0,
    }
    before = ancestors(spec)
    assert before["steps/0/3/1"] == {"steps/0/3/0"}
    assert before["steps/1"] == set(lanes(spec)) - {"steps/1"}


def test_nodes_of_a_loop_are_one_anothers_ancestors() -> None:
    spec = nodes(
        "draw: {sample: small}, more: {sample: small}",
        "[draw, more], {from: more, to: draw, at_most: 2}",
    )
    assert ancestors(spec) == {"draw": {"more"}, "more": {"draw"}}
    assert lanes(spec) == {"draw": 0, "more": 0}
