"""Reading what concerns the server: requests under an `Idempotency-Key`, scores of runs, what an owner has spent."""

from __future__ import annotations

from sqlalchemy import select

from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.codec import read_feedback, read_served
from inferloom.store.ledger import SUMS, report_of
from inferloom.store.rows import FeedbackRow, ServedRow, UsageReport

_SERVED = tables.table(tables.ServedTable)
_FEEDBACK = tables.table(tables.FeedbackTable)
_RUNS = tables.table(tables.RunTable)
_CALLS = tables.table(tables.CallTable)


class Served:
    """The reading half of the store that concerns the server."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def row(self, id: str) -> ServedRow | None:
        """A request by its id, or None."""
        row = self._access.row(select(_SERVED).where(_SERVED.c.id == id))
        return None if row is None else read_served(row)

    def feedback(self, run: str) -> list[FeedbackRow]:
        """The scores of a run, oldest first."""
        statement = select(_FEEDBACK).where(_FEEDBACK.c.run == run).order_by(_FEEDBACK.c.created, _FEEDBACK.c.id)
        return [read_feedback(row) for row in self._access.rows(statement)]

    def spent(self, tag: str, since: float) -> UsageReport:
        """The sum of the ledger rows, from a moment on, of the runs that carry a tag."""
        of_tag = _CALLS.c.run.in_(select(_RUNS.c.id).where(_RUNS.c.tag == tag))
        row = self._access.row(select(*SUMS).where(of_tag, _CALLS.c.started >= since))
        return UsageReport() if row is None else report_of(row)
