"""Beginning a study where earlier ones ended: their best points are its first.

The earlier study may be on other data. So nothing of its scores is taken over; its points are only tried first. On the
same data what they ask stands in the bank and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from inferloom.core.errors import SpecError, UserError
from inferloom.search.aim import Aim, cost
from inferloom.search.record import StudyRecord
from inferloom.search.result import TrialSummary
from inferloom.search.space import Space
from inferloom.search.template import Values
from inferloom.store import Store


def first_points(store: Store, names: Sequence[str], space: Space, aim: Aim, count: int) -> list[Values]:
    """The best points of earlier studies that are points of this space, at most `count`; by turns among the studies.

    Raises:
        UnknownNameError: There is no such study.
        SpecError: A study has no result yet, or none of its points is a point of this space.
    """
    lines = [_of_one(StudyRecord.find(store, name), space, aim) for name in names]
    chosen: list[Values] = []
    for rank in range(max(map(len, lines), default=0)):
        for line in lines:
            if rank < len(line) and line[rank] not in chosen and len(chosen) < count:
                chosen.append(line[rank])
    return chosen


def _of_one(record: StudyRecord, space: Space, aim: Aim) -> list[Values]:
    """A study's points, the best first."""
    result = record.result
    where = f"warm_start: {record.name}"
    if result is None:
        raise SpecError("the study is not finished, so its best points are not known", where=where)

    def rank(trial: TrialSummary) -> tuple[bool, float, int]:
        assert trial.dev is not None and trial.nominal is not None
        over = any(cost(trial.nominal, measure) > limit for measure, limit in aim.limits.items())
        return over, -aim.worth(trial.dev.mean, trial.nominal), trial.number

    done = sorted((trial for trial in result.trials if trial.status == "done" and trial.dev is not None), key=rank)
    points = [point for trial in done if (point := _point_of(space, cast(Values, trial.values))) is not None]
    if not points:
        raise SpecError("none of the study's points is a valid point of this space", where=where)
    return points


def _point_of(space: Space, known: Values) -> Values | None:
    """The valid point of a space that has these values where its holes have these names; None where it has none."""
    try:
        _, values = space.fill(lambda hole: known[hole.name])
        return values if space.is_valid(values) else None
    except (KeyError, UserError):
        return None
