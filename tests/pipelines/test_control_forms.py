"""`when`, `loop` and `pipeline` among the steps: what they become, how they run, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.core.errors import SpecError
from inferloom.core.types import Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline, RunResult
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store


def unsure(request: Request, seed: int) -> str:
    """Another answer for every draw; a judge that likes what ends in 7."""
    said = request.messages[-1].content
    if "single digit from 0" in said:
        return "9" if "A: 7" in said else "1"
    return f"A: {seed % 10}"


SURE = register_backend("control-sure", ScriptedBackend(lambda request, seed: "A: 1", name="control-sure"))
UNSURE = register_backend("control-unsure", ScriptedBackend(unsure, name="control-unsure"))

WHEN = """
models: {{m: scripted:control-{kind}, n: scripted:control-sure}}
steps:
  - sample: {{model: m, n: 4}}
  - when:
      if: agreement < 0.9
      then:
        - sample: {{model: n, n: 9}}
  - vote
"""
LOOP = """
models: {m: scripted:control-unsure}
steps:
  - loop:
      do:
        - sample: {model: m, n: 2}
        - score: {model: m, name: judge}
      until: best.judge >= 0.9
      at_most: 5
  - best: {by: judge}
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/control.db") as opened:
        yield opened


async def answer(store: Store, text: str, stream: str = "s") -> RunResult:
    return await Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store)).ainvoke("q", stream=stream)


def paths(store: Store, result: RunResult) -> list[str]:
    return [step.path for step in store.steps(result.run_id)]


async def test_when_goes_one_way_or_straight_on(store: Store) -> None:
    sure = await answer(store, WHEN.format(kind="sure"))
    assert paths(store, sure) == ["steps/0", "steps/2"]
    doubtful = await answer(store, WHEN.format(kind="unsure"))
    assert paths(store, doubtful) == ["steps/0", "steps/1/then/0", "steps/2"]
    assert doubtful.answer == "1" and doubtful.usage.calls == 13


async def test_else_is_the_other_way(store: Store) -> None:
    text = WHEN.replace("  - vote", "      else:\n        - random\n  - vote")
    assert paths(store, await answer(store, text.format(kind="sure"))) == ["steps/0", "steps/1/else/0", "steps/2"]
    assert paths(store, await answer(store, text.format(kind="unsure")))[1] == "steps/1/then/0"


async def test_loop_ends_when_its_condition_holds_or_at_its_limit(store: Store) -> None:
    rounds = []
    for stream in map(str, range(12)):
        result = await answer(store, LOOP, stream)
        went = paths(store, result).count("steps/0/do/0")
        rounds.append(went)
        assert (result.answer == "7") or went == 5
    assert min(rounds) < 5, "no loop ended early"
    assert max(rounds) <= 5 and len(set(rounds)) > 1


async def test_a_loop_without_condition_goes_round_as_often_as_it_may(store: Store) -> None:
    result = await answer(store, LOOP.replace("      until: best.judge >= 0.9\n", ""))
    assert paths(store, result) == ["steps/0/do/0", "steps/0/do/1"] * 5 + ["steps/1"]


async def test_a_pipeline_is_a_step_on_models_of_the_outer_one(store: Store, tmp_path: Path) -> None:
    inner = "models: {writer: pocket:small}\nsteps:\n  - sample: {model: [writer], n: 3}\n  - vote\n"
    (tmp_path / "inner.yaml").write_text(inner)
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        "models: {m: scripted:control-sure}\nsteps:\n"
        "  - pipeline: {of: inner.yaml, models: {writer: m}}\n  - sample: {model: m}\n  - vote\n"
    )
    spec = PipelineSpec.load(outer)
    assert [step.node.name for step in spec.steps] == ["sample", "vote", "sample", "vote"]
    assert spec.models.keys() == {"m"}
    assert (await Pipeline(spec, Gateway(store)).ainvoke("q")).usage.calls == 4
    assert PipelineSpec.from_data(spec.to_data()).hash == spec.hash, "the normal form holds the inner steps"
    (tmp_path / "inner.yaml").write_text(inner.replace("n: 3", "n: 5"))
    assert PipelineSpec.load(outer).hash != spec.hash


def test_a_path_names_the_same_step_after_its_pipeline_became_steps(tmp_path: Path) -> None:
    models = "models: {m: scripted:control-sure}\nsteps:\n"
    (tmp_path / "inner.yaml").write_text(
        models + "  - parallel: [[sample: {model: m}], [sample: {model: m, n: 2}]]\n  - score: {model: m, name: s}\n"
        "  - loop:\n      do: [calibrate: {by: s, reference: steps/0/1, name: c}]\n      at_most: 2\n  - best: c\n"
    )
    (tmp_path / "middle.yaml").write_text(models + "  - sample: {model: m}\n  - pipeline: inner.yaml\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        models + "  - parallel:\n    - [sample: {model: m}, pipeline: middle.yaml]\n    - [sample: {model: m}]\n"
        "  - pipeline: inner.yaml\n"
    )
    spec = PipelineSpec.load(outer)
    named = {step.path: step.node.paths for step in spec.steps if step.node.paths}
    assert named == {
        "steps/0/0/4/do/0": (("reference", "steps/0/0/2/1"),),
        "steps/3/do/0": (("reference", "steps/1/1"),),
    }
    assert spec.step("steps/0/0/2/1/0").node.params.model_dump()["n"] == 2
    assert PipelineSpec.from_data(spec.to_data()).hash == spec.hash


def test_presets_with_control_forms_inside_become_steps_too() -> None:
    spec = PipelineSpec.parse(
        "models: {a: pocket:small, large: pocket:large}\nsteps:\n  - sample: {model: a}\n"
        "  - pipeline: {of: archon_classic, models: {small: a}}\n",
        "test.yaml",
    )
    assert {name for step in spec.steps for name in step.node.model_names} == {"a", "large"}
    assert [step.path for step in spec.steps][:3] == ["steps/0", "steps/1/0/0", "steps/1/1/0"]


@pytest.mark.parametrize("text", [WHEN.format(kind="sure"), LOOP], ids=["when", "loop"])
def test_control_forms_round_trip(text: str) -> None:
    spec = PipelineSpec.parse(text, "test.yaml")
    again = PipelineSpec.parse(spec.to_yaml(), "again.yaml")
    assert again.to_data() == spec.to_data() and again.hash == spec.hash
    assert [step.path for step in again.steps] == [step.path for step in spec.steps]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("- when: {if: agreement < 1, then: [vote]}", r"steps\[0\]\.when: `when` must follow exactly one step"),
        ("- sample: {model: m}\n  - when: {if: agreement < 1}", r"`when` has no `then`"),
        (
            "- sample: {model: m}\n  - when: {if: agreement < 1, than: [vote]}",
            "unknown key `than`; did you mean `then`",
        ),
        ("- sample: {model: m}\n  - when: {if: 3, then: [vote]}", "`if` must be a condition such as"),
        ("- sample: {model: m}\n  - when: {if: agrement < 1, then: [vote]}\n  - vote", "did you mean `agreement`"),
        (
            "- sample: {model: m}\n  - when: {if: agreement < 1, then: []}",
            r"then: must be a list with at least one step",
        ),
        ("- sample: {model: m}\n  - when: {if: agreement < 1, then: [vote]}", "the pipeline ends in 2 branches"),
        ("- loop: {do: [sample: {model: m}]}", "`loop` has no `at_most`"),
        ("- loop: {do: [sample: {model: m}], at_most: 1}", "must be a whole number from 2 to 100, not 1"),
        ("- loop: {do: [sample: {model: m}], at_most: 3, until: candidates == 2}", "use <, <=, > or >= instead of =="),
        ("- loop: {do: [[vote, vote]], at_most: 3}", "must begin and end with a single step"),
        ("- pipeline: best_of_m", "did you mean `best_of_n`"),
        ("- pipeline: {of: best_of_n, models: {smal: m}}", "`best_of_n` has no model `smal`; did you mean `small`"),
        ("- pipeline: self_consistency", "needs a model `small`, which is not under `models`"),
        ("- pipeline: 7", "must be a preset's name, a path"),
    ],
)
def test_mistakes_name_the_place_and_what_is_allowed(steps: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PipelineSpec.parse(f"models: {{m: scripted:echo}}\nsteps:\n  {steps}\n", "test.yaml")


def test_a_pipeline_that_holds_itself_is_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(
            f"models: {{m: scripted:echo}}\nsteps:\n  - sample: {{model: m}}\n  - pipeline: {other}.yaml\n"
        )
    with pytest.raises(SpecError, match=r"`a\.yaml` holds itself"):
        PipelineSpec.load(tmp_path / "a.yaml")


def test_what_belongs_to_a_run_is_not_in_a_step(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(
        "models: {m: scripted:echo}\nbudget: {calls: 3}\nsteps:\n  - sample: {model: m}\n"
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text("models: {m: scripted:echo}\nsteps:\n  - pipeline: inner.yaml\n")
    with pytest.raises(SpecError, match="has `budget`, which only a whole run can have"):
        PipelineSpec.load(outer)
