"""Every point of a space is a plain pipeline; one rule set validates, samples and counts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.core.types import Json
from inferloom.pipelines.document import Document, dump, load_document
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import Count, Space
from tests.search.workload import SPACE

SEARCHED = Space.load(SPACE)
VALID = SEARCHED.valid_points() or []
FREE = "models: {small: scripted:echo}\n"


def anything(document: Document) -> None:
    """A check that takes every document for a pipeline."""


def space(steps: str) -> Space:
    return Space.load(FREE + steps, check=anything)


def test_counts_by_going_through_every_point() -> None:
    # sample: 2 * 4 * 4; the score step is there or not; three ways to decide. Without a score only the plain vote is
    # left (32 points); with one n is at most 4 (24 points, times 3).
    assert Space.load(SPACE).count() == Count(raw=2 * 4 * 4 * 2 * 3, valid=32 + 24 * 3)


def test_a_hole_in_an_absent_step_is_not_asked() -> None:
    found = space("steps: [{optional: {sample: {model: small, n: {int: [1, 3]}}}}, vote]")
    assert found.count() == Count(raw=4, valid=4)
    assert found.point({"steps.0.optional": False})["steps"] == ["vote"]
    with pytest.raises(SpecError, match="not there"):
        found.point({"steps.0.optional": False, "steps.0.sample.n": 2})


def test_a_repeated_step_is_the_same_each_time() -> None:
    found = space("steps: [{repeat: {step: {critique: {model: {choice: [a, b]}}}, times: {int: [0, 2]}}}, vote]")
    values = {"steps.0.repeat.times": 2, "steps.0.critique.model": "b"}
    assert found.point(values)["steps"] == [{"critique": {"model": "b"}}, {"critique": {"model": "b"}}, "vote"]
    assert found.count().raw == 1 + 2 + 2


def test_holes_of_one_name_are_one_hole() -> None:
    found = space("steps: [{a: {choice: [1, 2], name: n}}, {b: {choice: [1, 2], name: n}}]")
    assert found.count().raw == 2
    assert found.point({"n": 2})["steps"] == [{"a": 2}, {"b": 2}]


def test_an_endless_space_is_not_counted() -> None:
    found = space("steps: [{sample: {temperature: {float: [0, 1]}}}]")
    assert found.count() == Count(raw=None, valid=None)
    assert found.is_valid(found.sample(Random(0)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_sampled_point_is_a_pipeline_and_equals_its_yaml(seed: int) -> None:
    values = SEARCHED.sample(Random(seed))
    data = SEARCHED.point(values)
    spec = PipelineSpec.parse(dump(data))
    assert load_document(dump(data)).data == data
    assert PipelineSpec.parse(spec.to_yaml()).hash == PipelineSpec.from_data(data).hash == spec.hash
    rules = values["steps.0.sample.n"] <= 4 or not values["steps.1.optional"]  # type: ignore[operator]  # a number
    assert rules


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_draw_is_valid_exactly_if_the_list_of_valid_points_has_it(seed: int) -> None:
    drawn = SEARCHED.draw(Random(seed))
    assert SEARCHED.is_valid(drawn) == (drawn in VALID)


def test_a_space_without_a_valid_point_says_why() -> None:
    found = Space.load(
        FREE + "steps: [{sample: {model: small, n: {choice: [4, 8]}}}, vote]\nrules: [steps.0.sample.n < 4]"
    )
    with pytest.raises(SpecError, match=r"no valid point: .*breaks the rule `steps\.0\.sample\.n < 4`"):
        found.sample(Random(0))


def test_pipelines_own_rules_hold_in_a_space() -> None:
    # `best` needs scores, which nothing provides.
    with pytest.raises(SpecError, match="no valid point"):
        Space.load(FREE + "steps: [{sample: {model: small, n: {int: [1, 4]}}}, {best: {by: judge}}]").sample(Random(0))


def test_what_looks_at_the_right_answer_is_in_no_space() -> None:
    found = Space.load(FREE + "steps: [{sample: {model: small, n: 4}}, {choice: [vote, oracle], name: how}]")
    assert {found.sample(Random(seed))["how"] for seed in range(8)} == {"vote"}
    with pytest.raises(SpecError, match=r"no valid point: .*`oracle` looks at the right answer"):
        Space.load(FREE + "steps: [{sample: {model: small, n: {int: [1, 4]}}}, oracle]").sample(Random(0))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("steps:\n  - sample: {n: {int: [4, 1]}}", r":3: steps\[0\]\.sample\.n\.int: .*first must not be larger"),
        ("steps: [{sample: {n: {int: 3}}}]", "takes two bounds"),
        ("steps: [{sample: {n: {int: [0, 8], log: true}}}]", "must be above 0"),
        ("steps: [{sample: {n: {choice: []}}}]", "at least one option"),
        ("steps: [{sample: {n: {choice: [1, 1]}}}]", "stands here twice"),
        ("steps: [{repeat: {step: vote}}]", "takes `step` and `times`"),
        ("steps: [{repeat: {step: vote, times: many}}]", "whole number"),
        ("steps: [vote]\nrules: [steps.0 <]", "a value expected before `the end`"),
        ("steps: [vote]\nrules: ['steps.0 & 3']", "cannot read `& 3`"),
        ("steps: [vote]\nrules: 3", "must be a list"),
    ],
)
def test_mistakes_name_place_and_value(steps: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        space(steps)


def test_a_rule_that_names_no_hole_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        space("steps: [{sample: {n: {int: [1, 4]}}}]\nrules: [steps.0.sampel.n < 3]")
    assert raised.value.suggestion == "steps.0.sample.n"


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("a + b * 2 == 7", True),
        ("(a + b) * 2 == 8", True),
        ("a * -1 < 0 and not b == 2", True),
        ("a == 1 or b == 1", True),
        ("c == 'x' and c != \"y\"", True),
        ("a > b", False),
        ("d < 3", True),
    ],
)
def test_rules_are_read_as_written(rule: str, holds: bool) -> None:
    # d is not asked, since e is false: a rule that names it holds.
    found = space(
        "steps: [{choice: [1, 2], name: a}, {choice: [3, 4], name: b}, {choice: [x, y], name: c},"
        f" {{optional: {{int: [5, 9], name: d}}}}]\nrules: ['{rule.replace(chr(39), chr(39) * 2)}']"
    )
    values: dict[str, Json] = {"a": 1, "b": 3, "c": "x", "steps.3.optional": False}
    assert found.is_valid(values) == holds  # type: ignore[arg-type]  # scalars
