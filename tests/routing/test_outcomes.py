"""Outcomes: cells, groups and splits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from inferloom.core.errors import DataError, UnknownNameError
from inferloom.routing.outcomes import Gatherer, Outcomes, merged, names_arm
from inferloom.routing.synthetic import made_world


def test_results_of_one_cell_are_averaged_and_a_cell_without_any_is_not_zero() -> None:
    gatherer = Gatherer()
    for name in ("a", "b"):
        gatherer.add_arm(names_arm(name))
    gatherer.add(names_arm("a").id, "q", 1.0, 10)
    gatherer.add(names_arm("a").id, "q", 0.0, 40, runs=2)
    made = gatherer.outcomes()
    assert made.quality[0, 0] == pytest.approx(1 / 3)
    assert made.cost[0, 0] == pytest.approx(30)
    assert made.count.tolist() == [[3, 0]]
    assert np.isnan(made.quality[0, 1])


def test_a_split_never_tears_a_group_and_follows_its_seed() -> None:
    gatherer = Gatherer()
    gatherer.add_arm(names_arm("a"))
    for number in range(200):
        # Two wordings of one question each.
        gatherer.add(names_arm("a").id, f"What is {number // 2}?" if number % 2 else f"what is  {number // 2}", 1, 1)
    made = gatherer.outcomes()
    split = made.split(3)
    groups = [{made.groups[row] for row in part} for part in (split.train, split.calibration, split.test)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert [len(part) for part in groups] == [60, 15, 25]
    assert made.split(3).test.tolist() == split.test.tolist()
    assert made.split(4).test.tolist() != split.test.tolist()


def test_a_held_out_task_is_the_whole_test() -> None:
    made, _ = made_world(200, 0)
    split = made.hold_out("spell", 0)
    assert {made.tags[row] for row in split.test} == {"spell"}
    assert "spell" not in {made.tags[row] for row in [*split.train, *split.calibration]}
    assert len(split.test) == made.tags.count("spell")


def test_no_data_one_arm_and_an_arm_never_run_are_refused() -> None:
    made, _ = made_world(60, 0)
    with pytest.raises(DataError, match="no scored runs"):
        Gatherer().outcomes().check_trainable()
    with pytest.raises(DataError, match="at least two arms; there is 1"):
        made.take_arms([0]).check_trainable()
    gatherer = Gatherer()
    for arm in [*made.arms, names_arm("idle")]:
        gatherer.add_arm(arm)
    for row in range(len(made)):
        for column, arm in enumerate(made.arms):
            gatherer.add(arm.id, made.texts[row], made.quality[row, column], made.cost[row, column])
    with pytest.raises(DataError, match=r"`idle` .* was never run"):
        gatherer.outcomes().check_trainable()


def test_arms_are_found_by_id_beginning_or_label_and_the_nearest_is_named(seen: Outcomes) -> None:
    assert seen.arm("middle") == seen.arm(seen.arms[1].id) == seen.arm(seen.arms[1].id[:6]) == 1
    with pytest.raises(UnknownNameError, match="did you mean `middle`"):
        seen.arm("midle")


def test_sources_merge_by_arm_and_units_must_agree() -> None:
    a, b = made_world(30, 0)[0], made_world(30, 0)[0]
    both = merged([a, b])
    assert both.count.tolist() == (a.count + b.count).tolist()
    from dataclasses import replace

    with pytest.raises(DataError, match="one router has one unit"):
        merged([a, replace(b, unit="usd")])
