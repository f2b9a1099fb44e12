"""Calibrate: places among reference scores by hand, ties, tilts, references."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.core.types import NodeState
from inferloom.nodes.calibrate import Calibrate, CalibrateParams
from inferloom.nodes.testing import FakeContext, make_state, run


def state_of(scores: list[float], nodes: list[str] | None = None) -> NodeState:
    state = make_state([f"text {index}" for index in range(len(scores))])
    origins = nodes or ["steps/0"] * len(scores)
    candidates = tuple(
        replace(candidate, scores={"s": score}, origin={"node": node})
        for candidate, score, node in zip(state.candidates, scores, origins, strict=True)
    )
    return replace(state, candidates=candidates)


def calibrated(scores: list[float], nodes: list[str] | None = None, **params: object) -> list[float]:
    node = Calibrate(CalibrateParams.model_validate({"by": "s", **params}))
    output = run(node, state_of(scores, nodes), FakeContext())
    assert output.candidates is not None
    assert [candidate.scores["s"] for candidate in output.candidates] == scores
    return [candidate.scores[str(params.get("name", "calibrated"))] for candidate in output.candidates]


@pytest.mark.parametrize(
    ("scores", "quantiles", "ranks"),
    [
        ([0.1, 0.9, 0.5, 0.6], [0.125, 0.875, 0.375, 0.625], [0, 1, 1 / 3, 2 / 3]),
        ([5, 5, 5, 9], [0.375, 0.375, 0.375, 0.875], [0, 0, 0, 1]),
        ([1, 2, 2, 3], [0.125, 0.5, 0.5, 0.875], [0, 0.5, 0.5, 1]),
        ([7, 7, 7], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ([-2], [0.5], [0.5]),
        ([-math.inf, 0, math.inf], [1 / 6, 0.5, 5 / 6], [0, 0.5, 1]),
    ],
)
def test_places_among_all(scores: list[float], quantiles: list[float], ranks: list[float]) -> None:
    assert calibrated(scores) == pytest.approx(quantiles)
    assert calibrated(scores, method="rank") == pytest.approx(ranks)


def test_places_among_the_candidates_of_one_node() -> None:
    nodes = ["steps/0", "steps/0", "steps/0/inner", "steps/01", "steps/1", "steps/1", "steps/1"]
    scores = [10.0, 20.0, 40.0, 5.0, 30.0, 99.0, 40.0]
    assert calibrated(scores, nodes, reference="steps/0") == pytest.approx([1 / 6, 0.5, 5 / 6, 0.0, 2 / 3, 1.0, 5 / 6])
    assert calibrated(scores, nodes, reference="steps/0", method="rank") == pytest.approx(
        [0.0, 0.5, 1.0, 0.0, 0.75, 1.0, 1.0]
    )
    alone = calibrated([3.0, 1.0, 5.0], ["a", "b", "b"], reference="a", method="rank")
    assert alone == [0.5, 0.0, 1.0]


def test_a_tilt_is_exponential_between_0_and_1() -> None:
    whole = math.exp(2.0) - 1
    assert calibrated([1, 2], tilt=2.0) == pytest.approx([(math.exp(0.5) - 1) / whole, (math.exp(1.5) - 1) / whole])
    whole = math.exp(-2.0) - 1
    assert calibrated([1, 2], tilt=-2.0) == pytest.approx([(math.exp(-0.5) - 1) / whole, (math.exp(-1.5) - 1) / whole])
    assert calibrated([1, 2], tilt=0) == [0.25, 0.75]


@pytest.mark.parametrize("tilt", [-30.0, -4.0, -1e-9, 0.0, 1e-9, 4.0, 100.0])
def test_every_tilt_increases_from_0_to_1_and_bends_to_its_side(tilt: float) -> None:
    low, middle, high = calibrated([1, 2, 3], method="rank", tilt=tilt)
    assert (low, high) == (0.0, 1.0)
    assert low < middle < high
    assert middle < 0.5 + 1e-6 if tilt >= 0 else middle > 0.5 - 1e-6


@pytest.mark.parametrize("method", ["quantile", "rank"])
@pytest.mark.parametrize("reference", [None, "a"])
@pytest.mark.parametrize("tilt", [-3.0, 0.0, 3.0])
def test_the_order_is_kept(method: str, reference: str | None, tilt: float) -> None:
    scores = [0.3, -2.0, 0.3, 5.0, 0.31, 1e9, -7.0]
    places = calibrated(scores, list("abababa"), method=method, reference=reference, tilt=tilt)
    for left, left_place in zip(scores, places, strict=True):
        for right, right_place in zip(scores, places, strict=True):
            assert left_place <= right_place or left > right
            assert reference or left_place < right_place or left >= right


def test_the_new_score_may_take_any_name() -> None:
    assert calibrated([1, 2], name="place") == [0.25, 0.75]


def test_a_reference_without_candidates_names_where_they_come_from() -> None:
    with pytest.raises(UnknownNameError, match="unknown origin of candidates `steps/2`; did you mean `steps/0`"):
        calibrated([1, 2], reference="steps/2")


def test_a_score_that_is_missing_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="unknown score `other`"):
        run(Calibrate(CalibrateParams(by="other")), state_of([1, 2]), FakeContext())


@pytest.mark.parametrize(
    "params", [{}, {"by": ""}, {"by": "s", "tilt": 101}, {"by": "s", "tilt": -31}, {"by": "s", "method": "mean"}]
)
def test_parameters_out_of_range_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CalibrateParams.model_validate(params)
