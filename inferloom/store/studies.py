"""Studies: their evaluations, how often test splits were touched, and deleting one."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select, update

from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.bank import run_job
from inferloom.store.codec import read_evaluation, read_study
from inferloom.store.rows import EvaluationRow, SplitScore, StudyRow
from inferloom.store.writer import Writer

_SEARCHES = tables.table(tables.SearchTable)
_EVALUATIONS = tables.table(tables.EvaluationTable)
_TOUCHES = tables.table(tables.TouchTable)
_RUNS = tables.table(tables.RunTable)


class Studies:
    """The part of the store that concerns studies, but for writing their rows."""

    def __init__(self, access: Access, writer: Writer) -> None:
        self._access = access
        self._writer = writer

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

    def split_scores(self, study: str) -> list[SplitScore]:
        """Mean scores by (trial, split)."""
        columns = _EVALUATIONS.c
        statement = (
            select(
                columns.trial,
                columns.split,
                func.count().label("items"),
                func.avg(columns.score).label("mean"),
                func.avg(columns.nominal_calls).label("calls"),
                func.avg(columns.nominal_prompt_tokens + columns.nominal_completion_tokens).label("tokens"),
                func.avg(columns.nominal_usd).label("usd"),
                func.avg(columns.nominal_seconds).label("seconds"),
            )
            .where(columns.study == study)
            .group_by(columns.trial, columns.split)
            .order_by(columns.trial, columns.split)
        )
        return [
            SplitScore(
                int(row["trial"]),
                str(row["split"]),
                int(row["items"]),
                *(float(row[name]) for name in ("mean", "calls", "tokens", "usd", "seconds")),
            )
            for row in self._access.rows(statement)
        ]

    def delete(self, name: str) -> int:
        """Delete a study and its evaluations, and count these; its runs and its touches stay.

        The runs belong to no study any more: what they cost is not what a new study of this name costs.
        """

        def work(connection: Connection) -> int:
            deleted = connection.execute(delete(_EVALUATIONS).where(_EVALUATIONS.c.study == name)).rowcount
            connection.execute(update(_RUNS).where(_RUNS.c.study == name).values(study=None))
            connection.execute(delete(_SEARCHES).where(_SEARCHES.c.name == name))
            return int(deleted)

        return run_job(self._writer, work)

    def touches(self, dataset: str) -> int:
        """How often a test split of a data set was looked at."""
        # One look may stand there twice where a server went away while it committed it.
        looks = select(_TOUCHES.c.study, _TOUCHES.c.created).where(_TOUCHES.c.dataset == dataset).distinct().subquery()
        row = self._access.row(select(func.count().label("touches")).select_from(looks))
        return 0 if row is None else int(row["touches"])
