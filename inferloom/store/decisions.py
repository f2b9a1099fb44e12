"""Reading what routers chose, and the scores that came afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.bank import in_chunks
from inferloom.store.codec import read_decision, read_feedback
from inferloom.store.rows import DecisionRow, FeedbackRow

_DECISIONS = tables.table(tables.DecisionTable)
_FEEDBACK = tables.table(tables.FeedbackTable)


class Decisions:
    """The reading half of the store that concerns decisions and feedback."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def decisions(self, router: str | None, run: str | None, since: float, limit: int | None) -> list[DecisionRow]:
        """What routers chose, newest first."""
        columns = _DECISIONS.c
        statement = select(_DECISIONS).where(columns.created >= since).order_by(columns.created.desc(), columns.id)
        if router is not None:
            statement = statement.where(columns.router == router)
        if run is not None:
            statement = statement.where(columns.run == run)
        return [read_decision(row) for row in self._access.rows(statement.limit(limit))]

    def feedback(self, run: str | None, decisions: Sequence[str] | None, since: float) -> list[FeedbackRow]:
        """Scores in the order in which they came."""
        columns = _FEEDBACK.c
        statement = select(_FEEDBACK).where(columns.created >= since)
        if run is not None:
            statement = statement.where(columns.run == run)
        if decisions is None:
            found = self._access.rows(statement)
        else:
            chunks = in_chunks(columns.decision, list(decisions))
            found = [row for condition in chunks for row in self._access.rows(statement.where(condition))]
        return sorted((read_feedback(row) for row in found), key=lambda row: (row.created, row.id))
