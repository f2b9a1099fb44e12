"""Reading what routers chose, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import NamedTuple

from sqlalchemy import func, select

from inferloom.core.types import Usage
from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.bank import in_chunks
from inferloom.store.codec import USAGE_COLUMNS, read_decision, read_usage
from inferloom.store.rows import DecisionRow

_DECISIONS = tables.table(tables.DecisionTable)
_FEEDBACK = tables.table(tables.FeedbackTable)
_RUNS = tables.table(tables.RunTable)
_CALLS = tables.table(tables.CallTable)
_EVALUATIONS = tables.table(tables.EvaluationTable)


class Decided(NamedTuple):
    """A decision with what became of it."""

    decision: DecisionRow
    question: str
    """Empty where it was forgotten."""
    status: str
    """Of its run."""
    score: float | None
    """The mean of the scores that it or its run was given; None: none yet, which is not zero."""
    usage: Usage
    """Nominal, of the whole run."""


class Decisions:
    """The reading half of the store that concerns decisions."""

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

    def decided(self, router: str) -> list[Decided]:
        """A router's decisions with what became of them, oldest first."""
        decisions = self.decisions(router, None, 0.0, None)[::-1]
        runs = list(dict.fromkeys(row.run for row in decisions))
        asked, usages, scores = {}, {}, defaultdict(list)
        for condition in in_chunks(_RUNS.c.id, runs):
            for row in self._access.rows(select(_RUNS.c.id, _RUNS.c.question, _RUNS.c.status).where(condition)):
                asked[row["id"]] = (row["question"], row["status"])
        sums = [func.sum(_CALLS.c[f"nominal_{name}"]).label(f"nominal_{name}") for name in USAGE_COLUMNS]
        for condition in in_chunks(_CALLS.c.run, runs):
            for row in self._access.rows(select(_CALLS.c.run, *sums).where(condition).group_by(_CALLS.c.run)):
                usages[row["run"]] = read_usage(row, "nominal")
        for condition in in_chunks(_EVALUATIONS.c.run, runs):
            for row in self._access.rows(select(_EVALUATIONS.c.run, _EVALUATIONS.c.score).where(condition)):
                scores[row["run"]].append(row["score"])
        for condition in in_chunks(_FEEDBACK.c.run, runs):
            for row in self._access.rows(
                select(_FEEDBACK.c.run, _FEEDBACK.c.decision, _FEEDBACK.c.score).where(condition)
            ):
                scores[row["decision"] or row["run"]].append(row["score"])
        found = []
        for decision in decisions:
            question, status = asked.get(decision.run, ("", "unknown"))
            given = scores[decision.id] or scores[decision.run]
            usage = usages.get(decision.run, Usage())
            found.append(Decided(decision, question, status, fmean(given) if given else None, usage))
        return found
