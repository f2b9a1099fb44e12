"""A request's parameters reach the steps that write answers, wherever they stand, and no others."""

from __future__ import annotations

import pytest

from inferloom.pipelines.spec import PipelineSpec
from inferloom.serving.errors import ApiError
from inferloom.serving.overrides import Overrides, overridden

FORMS = """\
models: {s: pocket:small}
steps:
  - parallel:
      - [sample: {model: s, n: 2}]
      - [sample: {model: s, n: 3}]
  - score: {model: s, name: judge}
  - when:
      if: agreement < 0.5
      then: [sample: {model: s}, score: {model: s, name: judge}]
      else: [top_k: {by: judge, k: 1}]
  - loop: {do: [critique: {model: s, temperature: 0.1}, fuse: {model: s, max_tokens: 50}], at_most: 2}
"""


def test_only_the_steps_that_write_answers_change() -> None:
    spec = PipelineSpec.parse(FORMS)
    changed = overridden(spec, Overrides(temperature=0.3, max_tokens=100))
    assert [step.path for step in changed.steps] == [step.path for step in spec.steps]
    for before, after in zip(spec.steps, changed.steps, strict=True):
        if after.node.name in ("sample", "fuse"):
            assert after.node.params.temperature == 0.3  # type: ignore[attr-defined]  # both have it
            assert after.node.params.max_tokens == (50 if after.node.name == "fuse" else 100)  # type: ignore[attr-defined]
        else:
            assert after.node.params == before.node.params
    assert overridden(spec, Overrides()) is spec


def test_steps_under_nodes_change_too() -> None:
    text = "models: {s: pocket:small}\nnodes: {a: {sample: {model: s, n: 2}}, b: vote}\nedges: [[a, b]]\n"
    changed = overridden(PipelineSpec.parse(text), Overrides(top_p=0.5))
    assert changed.step("a").node.params.top_p == 0.5  # type: ignore[attr-defined]  # it is a `sample`
    with pytest.raises(ApiError, match="compares 2 draws"):
        overridden(changed, Overrides(temperature=0))
