# ruff: noqa: E501 - tables of texts and the errors they give
from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.core.errors import SpecError
from inferloom.models.budget import Budget
from inferloom.pipelines import presets
from inferloom.pipelines.spec import PipelineSpec

MODELS = "models: {small: pocket:small, large: pocket:large}\n"
STEPS = MODELS + "steps:\n"
NODES = MODELS + "nodes:\n  a: {sample: small}\n  b: {critique: large}\n  c: vote\n"
BACK = NODES + "edges: [[a, b, c], {from: b, to: a, "


def test_the_three_short_forms_are_one_pipeline() -> None:
    short = PipelineSpec.parse(STEPS + "  - sample: small\n  - vote\n")
    long = PipelineSpec.parse(STEPS + "  - sample: {model: small}\n  - vote: {}\n")
    bare = PipelineSpec.parse(STEPS + "  - {sample: {model: small}}\n  - vote:\n")
    assert short.to_data() == long.to_data() == bare.to_data()
    assert short.hash == long.hash == bare.hash
    assert short.to_data()["steps"] == [{"sample": {"model": "small"}}, "vote"]


@pytest.mark.parametrize(
    "text",
    [
        *(presets.path(name).read_text() for name in presets.names()),
        NODES + "edges: [[a, b, c]]\n",
        BACK + "when: 'agreement<0.5', at_most: 3}]\n",
        STEPS + "  - [{sample: small}, [{sample: large}, {critique: small}]]\n  - vote\n",
        STEPS + "  - {sample: small}\n  - parallel: [[], [{critique: large}]]\n  - vote\n",
        "name: n\ndescription: d\n" + MODELS + "budget: {calls: 4, usd: 0.5}\nanswer: text\nsteps: [{sample: small}]\n",
    ],
)
def test_the_normal_form_round_trips_exactly(text: str) -> None:
    spec = PipelineSpec.parse(text)
    again = PipelineSpec.from_data(spec.to_data())
    assert again.to_data() == spec.to_data()
    assert again.hash == spec.hash
    yaml = spec.to_yaml()
    assert PipelineSpec.parse(yaml).to_yaml() == yaml
    assert [step.path for step in again.steps] == [step.path for step in spec.steps]


def test_the_order_of_nodes_is_a_part_of_the_pipeline() -> None:
    # It decides which of two twins draws first.
    one = PipelineSpec.parse(
        MODELS + "nodes: {a: {sample: small}, b: {sample: small}, c: vote}\nedges: [[a, c], [b, c]]\n"
    )
    two = PipelineSpec.parse(
        MODELS + "nodes: {b: {sample: small}, a: {sample: small}, c: vote}\nedges: [[a, c], [b, c]]\n"
    )
    assert one.hash != two.hash


def test_paths_and_edges_of_branches() -> None:
    spec = PipelineSpec.parse(
        STEPS + "  - [{sample: small}, [{sample: large}, {critique: large}]]\n"
        "  - parallel: [[], [{critique: small}]]\n  - vote\n"
    )
    assert [step.path for step in spec.steps] == [
        "steps/0/0/0", "steps/0/1/0", "steps/0/1/1", "steps/1/1/0", "steps/2",
    ]  # fmt: skip
    assert [(edge.source, edge.target) for edge in spec.graph.edges] == [
        ("steps/0/1/0", "steps/0/1/1"),
        ("steps/0/0/0", "steps/1/1/0"),
        ("steps/0/1/1", "steps/1/1/0"),
        ("steps/0/0/0", "steps/2"),
        ("steps/0/1/1", "steps/2"),
        ("steps/1/1/0", "steps/2"),
    ]
    assert spec.graph.starts == ("steps/0/0/0", "steps/0/1/0")
    assert spec.graph.end == "steps/2"


def test_the_head_of_the_document(tmp_path: Path) -> None:
    spec = PipelineSpec.parse(MODELS + "budget: {calls: 4, usd: 0.5}\nanswer: text\nsteps: [{sample: small}]\n")
    assert (spec.name, spec.answer, spec.prompts) == ("pipeline", "text", "pocket")
    assert spec.budget == Budget(calls=4, usd=0.5)
    general = "models: {a: pocket:small, b: scripted:echo}\nsteps: [{sample: a}]\n"
    assert PipelineSpec.parse(general).prompts == "general"
    file = tmp_path / "mine.yaml"
    file.write_text(MODELS + "prompts: pack.yaml\nsteps: [{sample: small}]\n")
    (tmp_path / "pack.yaml").write_text("solve:\n  - user: '{{ question }}'\n")
    loaded = PipelineSpec.load(file)
    assert (loaded.name, loaded.prompts) == ("mine", str(tmp_path / "pack.yaml"))
    assert loaded.where("models", "small") == f"{file}:1: models.small"


ERRORS = [
    ("[1]", "p.yaml:1: a pipeline must be a mapping"),
    ("steps: [vote]", "`models` is missing"),
    (MODELS, "`steps` is missing"),
    (MODELS + "steps: []", "p.yaml:2: steps: `steps` must be a list with at least one step, not an empty list"),
    (STEPS + "  - rnak\n", "p.yaml:3: steps[0]: unknown node `rnak`; did you mean `rank`?"),
    (STEPS + "  - {sample: {model: small, nn: 3}}\n", "steps[0].sample.nn: unknown parameter `nn` of `sample`; did you mean `n`?"),
    (STEPS + "  - {sample: {model: smal}}\n", "p.yaml:3: steps[0].sample.model: unknown model `smal`; did you mean `small`?"),
    (STEPS + "  - {sample: smal}\n", "p.yaml:3: steps[0].sample: unknown model `smal`; did you mean `small`?"),
    (STEPS + "  - sample: [small, lrge]\n", "steps[0].sample[1]: unknown model `lrge`; did you mean `large`?"),
    (STEPS + "  - sample:\n      model: small\n      n: 0\n", "p.yaml:5: steps[0].sample.n: `n` of `sample` must be a whole number from 1 to 1024, not 0"),
    (STEPS + "  - sample: {model: small, n: '4'}\n", "must be a whole number from 1 to 1024, not `4`"),
    (STEPS + "  - sample: {model: small, logprobs: 1}\n", "`logprobs` of `sample` must be true or false, not 1"),
    (STEPS + "  - sample: {model: small, stop: [1]}\n", "steps[0].sample.stop[0]: `stop[0]` of `sample` is wrong: must be text, not 1"),
    (STEPS + "  - sample\n", "p.yaml:3: steps[0]: `sample` needs the parameter `model`"),
    (STEPS + "  - {sample: small}\n  - {score: {model: large, method: jugde}}\n", "`method` of `score` must be one of `judge`, `logprob`, `callable`, not `jugde`; did you mean `judge`?"),
    (STEPS + "  - {sample: small}\n  - rank\n", "p.yaml:4: steps[1]: `rank`: needs exactly one of"),
    (STEPS + "  - sample: small\n    n: 4\n", "a step must be one node, not 2 keys (sample, n); indent the parameters under `sample`"),
    (STEPS + "  - 3\n", "a step must be `name` or"),
    (STEPS + "  - parallel: [[], [{sample: small}]]\n  - vote\n", "an empty branch has nothing to pass on"),
    (STEPS + "  - parallel: [[{sample: small}]]\n  - vote\n", "at least two branches, not one branch"),
    (STEPS + "  - [{sample: small}, {sample: large}]\n", "the pipeline ends in 2 branches"),
    ("model: {}\n", "p.yaml:1: model: unknown key `model`; did you mean `models`?"),
    (MODELS + "steps: [vote]\nnodes: {}", "either `steps` or `nodes` and `edges`"),
    ("models: {small: pokcet:small}\nsteps: [vote]", "p.yaml:1: models.small: unknown model scheme `pokcet`; did you mean `pocket`?"),
    (MODELS + "budget: {cals: 3}\nsteps: [vote]", "p.yaml:2: budget.cals: unknown limit `cals`; did you mean `calls`?"),
    (MODELS + "budget: {calls: 0}\nsteps: [vote]", "the limit `calls` must be a number above 0, not 0"),
    (MODELS + "answer: boxed\nsteps: [vote]", "`answer` must be `marked` or `text`, not `boxed`"),
    (MODELS + "prompts: pokcet\nsteps: [{sample: small}]", "p.yaml:2: prompts: unknown prompt pack `pokcet`; did you mean `pocket`?"),
    (NODES, "p.yaml:3: nodes.a: node `a` cannot be reached"),
    (NODES + "edges: [[a, b, x]]", "p.yaml:6: edges[0][2]: unknown node id `x`; the nodes are a, b, c"),
    (NODES + "edges: [[a, b], [a, c]]", "the pipeline has 2 ends (`b`, `c`)"),
    (NODES + "edges: [[a, b, c], [a, b]]", "the edge from `a` to `b` stands there twice"),
    (NODES + "edges: [[a, b, a], [b, c]]", "the loop `a` -> `b` -> `a` has no exit"),
    (BACK + "when: agreement < 1}]", "the loop `a` -> `b` -> `a` has no exit"),
    (BACK + "at_most: 0}]", "p.yaml:6: edges[1].at_most: `at_most` must be a whole number from 1 to 100, not 0"),
    (BACK + "at_most: 2, when: agrement < 1}]", "p.yaml:6: edges[1].when: the condition `agrement < 1` has the unknown subject"),
    (BACK + "at_most: 2, when: agreement < 3}]", "it must be from 0 to 1"),
    (BACK + "at_most: 2, when: 'agreement != 1'}]", "has the operator `!=`"),
    (BACK + "at_most: 2, when: best < 1}]", "`best` must name a score"),
    (BACK + "at_most: 2, when: __import__('os')}]", "must read `subject operator number`"),
    (BACK + "atmost: 2}]", "unknown key `atmost`; did you mean `at_most`?"),
    (NODES + "edges: [[a, b], {from: b, to: c, when: agreement < 1}]", "every edge on from `b` has a condition"),
    (NODES + "edges: [[a, b], {from: b, to: c, at_most: 2}]", "`at_most` is for an edge that leads back"),
    (NODES + "edges: [[a, b], {from: b}]", "the edge has no `to`"),
    (MODELS + "nodes: {a b: vote}", "`a b` cannot be a node's id"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), ERRORS, ids=range(len(ERRORS)))
def test_a_mistake_gets_one_sentence_with_its_place(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        PipelineSpec.parse(text, "p.yaml")
    sentence = caught.value.sentence
    assert words in sentence
    assert sentence.startswith("p.yaml:")
    assert "\n" not in sentence
    assert "pydantic" not in sentence


def test_data_without_a_file_names_what_stands_for_it() -> None:
    with pytest.raises(SpecError, match=r"^trial 7: steps\[0\]: unknown node `rnak`"):
        PipelineSpec.from_data({"models": {"m": "pocket:small"}, "steps": ["rnak"]}, "trial 7")


def test_yaml_never_imports_by_path() -> None:
    with pytest.raises(SpecError, match="unknown node"):
        PipelineSpec.parse(STEPS + "  - os.system\n", "p.yaml")
