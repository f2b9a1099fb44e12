"""Reading studies: their evaluations, and how often test splits were touched."""

from __future__ import annotations

from sqlalchemy import func, select

from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.codec import read_evaluation, read_study
from inferloom.store.rows import EvaluationRow, StudyRow

_SEARCHES = tables.table(tables.SearchTable)
_EVALUATIONS = tables.table(tables.EvaluationTable)
_TOUCHES = tables.table(tables.TouchTable)


class Studies:
    """The reading half of the store that concerns studies."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def study(self, name: str) -> StudyRow | None:
        """A study by name, or None."""
        row = self._access.row(select(_SEARCHES).where(_SEARCHES.c.name == name))
        return None if row is None else read_study(row)

    def studies(self) -> list[StudyRow]:
        """Every study, newest first."""
        statement = select(_SEARCHES).order_by(_SEARCHES.c.created.desc(), _SEARCHES.c.name)
        return [read_study(row) for row in self._access.rows(statement)]

    def evaluations(self, study: str, split: str | None, trial: int | None) -> list[EvaluationRow]:
        """A study's scores by (trial, split, item)."""
        columns = _EVALUATIONS.c
        statement = select(_EVALUATIONS).where(columns.study == study)
        if split is not None:
            statement = statement.where(columns.split == split)
        if trial is not None:
            statement = statement.where(columns.trial == trial)
        statement = statement.order_by(columns.trial, columns.split, columns.item)
        return [read_evaluation(row) for row in self._access.rows(statement)]

    def touches(self, dataset: str) -> int:
        """How often a test split of a data set was looked at."""
        row = self._access.row(
            select(func.count().label("touches")).select_from(_TOUCHES).where(_TOUCHES.c.dataset == dataset)
        )
        return 0 if row is None else int(row["touches"])
