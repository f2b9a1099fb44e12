"""The protocol finds what is there, and nothing where nothing is."""

from __future__ import annotations

import json

import pytest

from inferloom.routing.baselines import BEST_SINGLE
from inferloom.routing.outcomes import Outcomes
from inferloom.routing.protocol import KNN, ORACLE, ROUTER, Report, evaluate, hold_out, shuffled
from inferloom.routing.synthetic import made_world
from tests.routing.conftest import PLAIN


@pytest.fixture(scope="module")
def truth() -> Outcomes:
    return made_world(900, 0)[1]


@pytest.fixture(scope="module")
def found(seen: Outcomes, truth: Outcomes) -> Report:
    return evaluate(seen, yardstick=truth, options=PLAIN, splits=2, resamples=200)


def test_a_world_with_a_known_oracle_is_recovered(found: Report) -> None:
    by_name = {one.name: one for one in found.contenders}
    assert by_name[ORACLE].figures["gap"].mean == pytest.approx(1)
    assert by_name[ROUTER].figures["gap"].low > 0.5
    assert by_name[BEST_SINGLE].ahead["worth middle"].low > 0
    assert by_name[KNN].ahead["auc"].low > -0.02
    assert by_name["random"].ahead["worth middle"].low > 0
    assert found.calibration.chosen.mean < 0.1
    assert sum(found.share.values()) == pytest.approx(1)


def test_labels_of_other_questions_give_no_gap(seen: Outcomes, truth: Outcomes) -> None:
    null = evaluate(shuffled(seen, 0), yardstick=truth, options=PLAIN, splits=2, resamples=200)
    gap = null.contenders[0].figures["gap"]
    assert null.contenders[0].name == ROUTER
    assert gap.mean < 0.1
    assert gap.low < 0.05


def test_a_held_out_task_loses_little(seen: Outcomes, truth: Outcomes) -> None:
    held = hold_out(seen, yardstick=truth, options=PLAIN, resamples=200)
    assert [one.tag for one in held] == ["add", "multiply", "name", "spell", "all"]
    assert held[-1].ahead.low >= -0.1
    assert all(0 <= one.default <= 1 for one in held)


def test_a_report_is_plain_json(found: Report) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["questions"] == 900
    # Without halves there is no figure against their oracle.
    assert told["contenders"][0]["figures"]["halves"]["mean"] is None
