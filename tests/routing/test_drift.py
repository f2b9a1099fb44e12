"""The monitors: quiet on a sound window, loud on a changed one."""

from __future__ import annotations

import numpy as np

from inferloom.routing import drift


def alarms(readings: list[drift.Reading]) -> set[str]:
    return {reading.monitor for reading in readings if reading.alarm}


def test_questions_of_the_same_kind_raise_no_alarm_and_others_do() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(800, 12)) * np.linspace(2, 0.3, 12)
    false = [
        alarms(drift.questions(reference, rng.normal(size=(300, 12)) * np.linspace(2, 0.3, 12))) for _ in range(15)
    ]
    assert sum(bool(found) for found in false) <= 2
    shifted = rng.normal(size=(300, 12)) * np.linspace(2, 0.3, 12)
    shifted[:, 0] += 3
    assert alarms(drift.questions(reference, shifted)) == {"psi", "mmd"}


def test_the_stability_index_is_nothing_for_the_same_and_much_for_another() -> None:
    rng = np.random.default_rng(1)
    same = drift.psi(rng.normal(size=5000), rng.normal(size=5000))
    assert same < 0.02
    assert drift.psi(rng.normal(size=5000), rng.normal(1, 1, 5000)) > 0.5


def test_calibration_sees_a_loss_of_twenty_points_and_rarely_cries_wolf() -> None:
    rng = np.random.default_rng(2)

    def window(loss: float) -> set[str]:
        predicted = rng.uniform(0.3, 0.9, 1000)
        worse = predicted - np.where(np.arange(1000) >= 500, loss, 0)
        return alarms(drift.calibration(predicted, (rng.random(1000) < worse).astype(float)))

    assert sum(bool(window(0.0)) for _ in range(200)) <= 4
    assert sum(bool(window(0.2)) for _ in range(40)) >= 36


def test_costs_errors_and_shares() -> None:
    rng = np.random.default_rng(3)
    predicted = np.full(300, 100.0)
    assert not alarms(drift.costs(predicted, rng.lognormal(np.log(100), 0.2, 300)))
    assert alarms(drift.costs(predicted, rng.lognormal(np.log(150), 0.2, 300))) == {"cost"}
    assert not alarms(drift.errors([False] * 97 + [True] * 3, "a"))
    assert alarms(drift.errors([False] * 80 + [True] * 20, "a")) == {"errors"}
    planned = np.array([0.5, 0.3, 0.2])
    assert not alarms(drift.shares(planned, rng.choice(3, size=400, p=planned), ["a", "b", "c"]))
    assert alarms(drift.shares(planned, np.zeros(400, dtype=int), ["a", "b", "c"])) == {"shares", "collapse"}


def test_too_few_records_say_nothing() -> None:
    few = np.ones(5)
    assert drift.calibration(few, few) == drift.costs(few, few) == drift.errors([True] * 5, "a") == []
    assert drift.shares(np.array([1.0]), np.zeros(5, dtype=int), ["a"]) == []
    assert drift.questions(np.ones((5, 2)), np.ones((5, 2))) == []
