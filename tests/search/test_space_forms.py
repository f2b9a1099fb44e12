"""The forms of a space: parts under a condition, the first of a list, options by name; what is next to a point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.vote import Vote
from inferloom.pipelines.document import Document
from inferloom.pipelines.rules import check_rules, shape
from inferloom.pipelines.shape import Shapes
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.job import load_job
from inferloom.search.space import Count, Space

FREE = "models: {small: scripted:echo, large: scripted:echo}\n"

MIXED = Space.load(
    FREE
    + """\
steps:
  - sample: {model: {first: {int: [1, 2], name: models}, of: [small, large]}, n: {int: [1, 3], name: n}}
  - optional: {score: {model: large, name: judge}}
  - given: n > 1
    steps:
      - optional: {critique: {model: small}}
      - choice: {fine: {rank: {model: large, top_k: {choice: [1, 2]}}}, wrong: {rank: {by: nobody}}}
  - choice: [vote, {best: {by: judge}}, fuse: {model: small}, loop: {do: [sample: small], at_most: 3}]
    name: end
  - choice: {none: {steps: []}, twice: {steps: [{top_k: {by: judge, k: 1}}, vote]}, oracle: oracle}
"""
)


def anything(document: Document) -> None:
    """A check that takes every document for a pipeline."""


def space(steps: str) -> Space:
    return Space.load(FREE + steps, check=anything)


def test_the_first_of_a_list() -> None:
    found = space("steps: [{sample: {model: {first: {int: [0, 2], name: n}, of: [a, {choice: [b, c], name: x}, d]}}}]")
    assert found.count().raw == 1 + 1 + 2
    assert found.point({"n": 2, "x": "c"})["steps"] == [{"sample": {"model": ["a", "c"]}}]
    assert space("steps: [{a: {first: 1, of: [1, 2]}}]").point({})["steps"] == [{"a": [1]}]


def test_steps_under_a_condition_ask_for_the_holes_of_its_rule() -> None:
    found = space("steps: [{given: n > 1, steps: [{a: {int: [1, 3], name: n}}, {b: {choice: [x, y]}}]}, vote]")
    assert found.count().raw == 1 + 2 * 2
    assert found.point({"n": 1})["steps"] == ["vote"]
    assert found.point({"n": 2, "steps.0.steps.1.b": "y"})["steps"] == [{"a": 2}, {"b": "y"}, "vote"]


def test_options_have_names_and_may_be_several_steps_or_none() -> None:
    found = space("steps: [{choice: {none: {steps: []}, two: {steps: [a, b]}, same: a}, name: how}, c]")
    points = [found.point(values)["steps"] for values in found.valid_points() or []]
    assert points == [["c"], ["a", "b", "c"], ["a", "c"]]
    assert found.is_valid({"how": "two"})
    with pytest.raises(SpecError, match="one of 'none', 'two', 'same'"):
        found.point({"how": 1})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "steps:\n  - a: {first: 3, of: [1, 2]}",
            r":3: steps\[0\]\.a\.first: `first` may be 3; it must be from 0 to 2",
        ),
        ("steps: [{a: {first: {int: [-1, 2]}, of: [1, 2]}}]", "`first` may be -1"),
        ("steps: [{a: {first: many, of: [1, 2]}}]", "`first` must be a whole number"),
        ("steps: [{a: {first: 1, of: 2}}]", "`of` must be a list"),
        ("steps: [{steps: a}]", r"steps\[0\]\.steps: `steps` among steps must be a list, not `a`"),
        ("steps: [{given: 3, steps: [a]}]", "`given` must be a rule"),
        ("steps:\n  - {given: n <, steps: [{a: {int: [1, 3], name: n}}]}", r":3: steps\[0\]\.given: rule `n <`"),
        ("steps: [{choice: {}}]", "at least one option"),
    ],
)
def test_mistakes_in_forms_name_place_and_value(steps: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        space(steps)


def test_a_condition_that_names_no_hole_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        space("steps: [{given: widht > 1, steps: [{a: {int: [1, 3], name: width}}]}]")
    assert raised.value.suggestion == "width"


def test_neighbours_drop_holes_that_vanish_and_fill_those_that_appear() -> None:
    found = space(
        "steps: [{choice: [{a: {int: [1, 3], name: n}}, {b: {int: [5, 9], name: m}}, c], name: how}]\n"
        "rules: [m > 6, how < 2 or how == 2]"
    )
    assert found.neighbours({"how": 0, "n": 2}, "how") == [{"how": 1, "m": 7}, {"how": 2}]
    assert found.neighbours({"how": 0, "n": 2}, "n") == [{"how": 0, "n": 1}, {"how": 0, "n": 3}]
    assert found.neighbours({"how": 1, "m": 7}, "m") == [{"how": 1, "m": 8}]
    with pytest.raises(SpecError, match="not there"):
        found.neighbours({"how": 2}, "n")
    with pytest.raises(UnknownNameError, match="hwo"):
        found.neighbours({"how": 2}, "hwo")


@pytest.mark.parametrize(
    ("hole", "value", "beside"),
    [
        ("{int: [2, 8], step: 2}", 4, [2, 6]),
        ("{int: [1, 64], log: true}", 8, [4, 16]),
        ("{int: [1, 50], log: true}", 40, [20, 50]),
        ("{int: [1, 64], log: true}", 1, [2]),
        ("{float: [0, 1]}", 0.05, [0.0, 0.15]),
        ("{float: [0, 1], step: 0.25}", 1.0, [0.75]),
        ("{float: [0.1, 10], log: true}", 0.1, [0.2]),
    ],
)
def test_the_next_values_of_a_range(hole: str, value: float, beside: list[float]) -> None:
    found = space(f"steps: [{{a: {hole}}}]").neighbours({"steps.0.a": value}, "steps.0.a")
    assert [point["steps.0.a"] for point in found] == beside


def test_a_space_that_is_too_large_says_so() -> None:
    large = space("steps: [{a: {int: [1, 100]}}, {b: {int: [1, 100]}}]")
    assert large.count(limit=9_999) == Count(None, None)
    assert large.count(limit=10_000).raw == 10_000
    assert "more than 9,999 ways" in large.uncounted(9_999).message
    assert "no end of values" in space("steps: [{a: {float: [0, 1]}}]").uncounted().message


@pytest.mark.parametrize("which", [MIXED, load_job("demo").space], ids=["mixed", "demo"])
def test_a_verdict_by_shape_is_the_verdict_of_the_point_itself(which: Space) -> None:
    agreed = []
    for values in which.valid_points() or []:
        PipelineSpec.from_data(which.point(values))
    for values in (which.draw(rng) for rng in [Random(1)] for _ in range(150)):
        alone = Space(which.document).why_not(values)
        said = which.why_not(values)
        assert which.is_valid(values) == (alone is None)
        assert (said and said.sentence) == (alone and alone.sentence)
        agreed.append(alone is None)
    assert 0 < sum(agreed) < len(agreed)


class _Watched:
    """A node that writes down what is read of it."""

    def __init__(self, node: object, seen: set[str]) -> None:
        self._node, self._seen = node, seen

    def __getattr__(self, name: str) -> object:
        self._seen.add(name)
        return getattr(self._node, name)


def test_the_rules_look_at_nothing_of_a_node_that_its_shape_leaves_out() -> None:
    by_rules: set[str] = set()
    by_shape: set[str] = set()
    for values in (MIXED.draw(rng) for rng in [Random(2)] for _ in range(60)):
        if not MIXED.is_valid(values):
            continue
        spec = PipelineSpec.from_data(MIXED.point(values))
        for step in spec.steps:
            shape(_Watched(step.node, by_shape))  # type: ignore[arg-type]  # stands in for a node
        spec.steps = tuple(replace(step, node=_Watched(step.node, by_rules)) for step in spec.steps)  # type: ignore[arg-type]
        spec._by_path = {step.path: step for step in spec.steps}
        check_rules(spec)
    assert "provides" in by_rules
    assert by_rules <= by_shape


class _Few(Vote):
    """Hands on all but three."""

    def candidates_out(self, candidates: int) -> int:
        return max(0, candidates - 3)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Vote, "candidates_out", _Few.candidates_out)
    yield


def test_where_numbers_count_only_equal_documents_share_a_verdict(few: None) -> None:
    found = Space.load(FREE + "steps: [{sample: {model: small, n: {int: [1, 6], name: n}}}, vote, {fuse: large}]")
    assert [values["n"] for values in found.valid_points() or []] == [4, 5, 6]
    assert shape(Vote(Vote.Params())) is None


def test_shapes_tell_apart_what_the_rules_tell_apart() -> None:
    one, two, three = (shape(Fuse(Fuse.Params(model="small", n=n))) for n in (1, 2, 3))  # type: ignore[call-arg]
    assert one != two == three
    shapes = Shapes()
    base = {"models": {"small": "scripted:echo"}, "steps": [{"sample": {"model": "small", "n": 2}}, "vote"]}
    same = {**base, "steps": [{"sample": {"model": "small", "n": 3}}, "vote"]}
    assert shapes.key(base) == shapes.key(same)  # type: ignore[arg-type]  # plain data
    for other in (
        {**base, "budget": {"calls": 3}},
        {**base, "models": {"large": "scripted:echo"}},
        {**base, "steps": [{"sample": {"model": "small", "n": 0}}, "vote"]},
        {**base, "steps": [[{"sample": {"model": "small", "n": 2}}, "vote"]]},
        {**base, "steps": [{"sample": {"model": "small", "n": 2}}, {"pipeline": "vote"}]},
        {"models": base["models"], "nodes": {"a": {"sample": {"model": "small", "n": 2}}}},
    ):
        assert shapes.key(other) != shapes.key(base)  # type: ignore[arg-type]  # plain data
