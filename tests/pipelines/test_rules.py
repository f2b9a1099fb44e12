"""Rules follow from requires, provides and drops; predictions agree with what runs do."""

from __future__ import annotations

import pytest

from inferloom.core.errors import CapabilityError, SpecError
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Candidate, NodeOutput, NodeState
from inferloom.nodes.score import Score
from inferloom.pipelines import presets
from inferloom.pipelines.compile import compile_graph
from inferloom.pipelines.rules import check_capabilities, predict
from inferloom.pipelines.spec import PipelineSpec, StepSpec

MODELS = "models: {small: pocket:small, large: pocket:large}\n"


def steps(*lines: str) -> PipelineSpec:
    return PipelineSpec.parse(MODELS + "steps:\n" + "".join(f"  - {line}\n" for line in lines), "p.yaml")


def nodes(text: str, edges: str) -> PipelineSpec:
    return PipelineSpec.parse(f"{MODELS}nodes: {{{text}}}\nedges: [{edges}]\n", "p.yaml")


def refused(*lines: str) -> str:
    with pytest.raises(SpecError) as caught:
        steps(*lines)
    return caught.value.sentence


SAMPLE, SCORE, CRITIQUE = (
    "{sample: {model: small, n: 4}}",
    "{score: {model: large, name: j}}",
    "{critique: {model: large}}",
)


def test_a_node_without_candidates_is_told_who_makes_them() -> None:
    sentence = refused("rank: {model: large}", "vote")
    assert sentence.startswith("p.yaml:3: steps[0]: `rank` needs candidates, but nothing before it makes any; put ")
    assert "`sample`" in sentence


def test_a_parameter_that_names_a_step_names_one_that_is_there() -> None:
    branches = f"[[{SAMPLE}], [{SAMPLE}]]"
    for path in ("steps/0", "steps/0/1", "steps/0/1/0", "steps/1"):
        assert steps(branches, SCORE, f"{{calibrate: {{by: j, reference: {path}}}}}")
    sentence = refused(branches, SCORE, "{calibrate: {by: j, reference: step/0/1}}")
    assert sentence.startswith("p.yaml:5: steps[2]: `reference` of `calibrate` names the step `step/0/1`, which is not")
    assert "did you mean `steps/0/1`" in sentence
    assert "the paths are steps/0, steps/0/0" in refused(branches, SCORE, "{calibrate: {by: j, reference: xyz}}")
    assert "`steps`" in refused(branches, SCORE, "{calibrate: {by: j, reference: steps}}")


@pytest.mark.parametrize(
    "reader",
    ["best: jo", "vote: {weight: jo}", "top_k: {by: jo, k: 2}", "calibrate: {by: jo}", "rank: {by: jo}"],
)
def test_a_score_is_read_by_a_name_that_a_step_before_provides(reader: str) -> None:
    named = "{score: {model: large, name: joy}}"
    sentence = refused(SAMPLE, named, f"{{{reader}}}", "vote")
    assert sentence.startswith("p.yaml:5: steps[2]: `") and sentence.endswith("did you mean `joy`?")
    assert "reads the score `jo`, which no step before it provides" in sentence
    assert steps(SAMPLE, named, f"{{{reader.replace('jo', 'joy')}}}", "vote")


def test_scores_of_other_steps_are_named_and_those_after_it_do_not_count() -> None:
    sentence = refused(
        SAMPLE, SCORE, CRITIQUE, "{top_k: {by: quality, k: 2}}", "{score: {model: large, name: quality}}"
    )
    assert "`quality`, which no step before it provides; the scores before it are critique, j" in sentence
    assert steps(SAMPLE, "{score: {model: large, name: quality}}", CRITIQUE, "{best: quality}")
    assert steps(SAMPLE, SCORE, "{loop: {do: [{best: j}, {score: {model: large, name: j}}], at_most: 2}}")
    assert "`score` reads the score `logprob`" in refused(SAMPLE, SCORE, "{score: {method: logprob}}", "vote")


def test_a_step_that_does_not_say_its_scores_may_provide_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Score, "scores_out", frozenset())
    assert steps(SAMPLE, SCORE, "{best: whatever}")


def test_scores_do_not_outlive_the_candidates_that_had_them() -> None:
    assert steps(SAMPLE, SCORE, "{best: j}")
    assert steps(SAMPLE, SCORE, CRITIQUE, "{best: j}")
    assert "`best` needs scores, but not every candidate that comes to it has them" in refused(
        SAMPLE, SCORE, "{sample: {model: large}}", "{best: j}"
    )
    assert "`best` needs scores" in refused(SAMPLE, SCORE, "{fuse: {model: large}}", "{best: j}")


def test_joined_branches_share_only_what_all_their_candidates_have() -> None:
    assert steps(f"[[{SAMPLE}, {SCORE}], [{SAMPLE}, {SCORE}]]", "{best: j}")
    assert "`best` needs scores" in refused(f"[[{SAMPLE}, {SCORE}], [{SAMPLE}]]", "{best: j}")
    # The same candidates by two ways: one way scores them all, so all have scores.
    assert steps(SAMPLE, f"[[{SCORE}], [{CRITIQUE}]]", "{best: j}")
    assert steps(SAMPLE, f"[[], [{SCORE}]]", "{best: j}")


def test_a_branch_that_may_be_skipped_promises_nothing() -> None:
    text = "a: {sample: small}, s: {score: {model: large, name: j}}, c: {rank: {model: large}}, b: {best: j}"
    assert nodes(text, "[a, s, c, b]")
    with pytest.raises(SpecError, match="`best` needs scores, but not every candidate"):
        nodes(text, "[a, c], {from: a, to: s, when: agreement < 0.5}, [s, b], [c, b]")


def test_what_a_loop_brings_back_counts_too() -> None:
    text = (
        "a: {sample: small}, s: {score: {model: large, name: j}}, b: {vote: {weight: j}}, m: {sample: small}, e: vote"
    )
    assert nodes(text, "[a, s, b, m, e], {from: m, to: s, at_most: 2}")
    with pytest.raises(SpecError, match="`vote` needs scores"):
        nodes(text, "[a, s, b, m, e], {from: m, to: b, at_most: 2}")


def test_conditions_need_what_they_look_at() -> None:
    text = "a: {sample: small}, s: {score: {model: large, name: j}}, b: vote"
    assert nodes(text, "[a, s, b], {from: s, to: a, when: best.j < 0.5, at_most: 2}")
    with pytest.raises(SpecError, match=r"edges\[1\]\.when: `best.j < 0.5` looks at scores"):
        nodes(text, "[a, s, b], {from: a, to: a, when: best.j < 0.5, at_most: 2}")


def test_a_condition_on_spending_must_not_depend_on_timing() -> None:
    text = "a: {sample: small}, x: {sample: small}, y: {critique: large}, b: vote"
    with pytest.raises(SpecError, match="would depend on timing, since `x` runs beside `a`"):
        nodes(text, "[a, b], {from: a, to: y, when: calls < 5}, [x, b], [y, b]")


def test_a_missing_capability_names_model_node_and_capability() -> None:
    spec = steps("{sample: {model: [small, large], logprobs: true}}")
    everything = Capabilities(n=True, logprobs=True, prefix=True, seed=True)
    check_capabilities(spec, {"small": everything, "large": everything})
    with pytest.raises(CapabilityError) as caught:
        check_capabilities(spec, {"small": everything, "large": Capabilities(n=True)})
    assert caught.value.sentence == (
        "p.yaml:3: steps[0]: `sample` needs `logprobs`, which model `large` (pocket:large) has not (it has n)"
    )


PREDICTABLE = [
    (SAMPLE, "vote"),
    (SAMPLE, CRITIQUE, "{fuse: {model: large, n: 2}}", CRITIQUE, "vote"),
    (
        f"[[{SAMPLE}], [{{sample: {{model: large, n: 2}}}}, {CRITIQUE}]]",
        CRITIQUE,
        "{rank: {model: large, top_k: 3}}",
        "vote",
    ),
    (SAMPLE, f"[[], [{CRITIQUE}]]", CRITIQUE, "vote"),
    (SAMPLE, "[[{fuse: {model: large, n: 2}}], [{fuse: {model: small, n: 3}}]]", CRITIQUE, "vote"),
]


@pytest.mark.parametrize("lines", PREDICTABLE, ids=range(len(PREDICTABLE)))
async def test_static_pipelines_are_predicted_exactly(lines: tuple[str, ...]) -> None:
    spec = steps(*lines)
    forecasts = predict(spec)
    seen: dict[str, tuple[int, int]] = {}

    async def execute(step: StepSpec, state: NodeState) -> NodeOutput:
        incoming = len(state.candidates)
        least, most = step.node.calls(incoming)
        assert least == most
        seen[step.path] = (incoming, least)
        kept = () if step.node.name == "fuse" else state.candidates
        out = step.node.candidates_out(incoming)
        new = tuple(Candidate(id=f"{step.path}#{index}", text="", answer="1") for index in range(out - len(kept)))
        return NodeOutput(candidates=(*kept, *new)[:out])

    await compile_graph(spec, execute).run("q")
    assert {path: (f.candidates_in, f.calls) for path, f in forecasts.items()} == {
        path: ((incoming, incoming), (calls, calls)) for path, (incoming, calls) in seen.items()
    }


def test_branches_that_may_keep_the_same_candidate_count_it_once() -> None:
    forecast = predict(steps(SAMPLE, "[[vote], [{rank: {model: large, top_k: 1}}]]", CRITIQUE, "vote"))["steps/2"]
    assert forecast.candidates_in == (1, 2)
    assert forecast.calls == (1, 2)


def test_loops_and_conditions_are_predicted_as_bounds() -> None:
    forecasts = predict(
        nodes(
            "draw: {sample: {model: small, n: 2}}, check: {critique: large}, more: {sample: small}, pick: vote",
            "[draw, check, pick], {from: check, to: more, when: candidates < 9},"
            "{from: more, to: check, at_most: 2}, [more, pick]",
        )
    )
    assert {path: f.calls for path, f in forecasts.items() if path != "check"} == {
        "draw": (2, 2),
        "more": (0, 3),
        "pick": (0, 0),
    }
    least, most = forecasts["check"].calls
    # Two, then three, then four candidates are reviewed at most; the bound may be higher but not lower.
    assert least == 2
    assert most >= 9
    assert forecasts["check"].executions == (1, 3)


@pytest.mark.parametrize("name", presets.names())
def test_presets_keep_the_rules(name: str) -> None:
    assert predict(PipelineSpec.load(name))
