"""Reading runs: their steps, candidates and calls, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Executable, func, select

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.codec import (
    USAGE_COLUMNS,
    read_call,
    read_candidate,
    read_run,
    read_step,
    read_usage,
)
from inferloom.store.rows import CallRow, CandidateRow, RunRow, StepRow, UsageReport

_RUNS = tables.table(tables.RunTable)
_STEPS = tables.table(tables.StepTable)
_CALLS = tables.table(tables.CallTable)
_CANDIDATES = tables.table(tables.CandidateTable)
_PIPELINES = tables.table(tables.PipelineTable)
_REQUESTS = tables.table(tables.RequestTable)

_KINDS = ("nominal", "billed", "bound")
SUMS = [func.sum(_CALLS.c[f"{kind}_{name}"]).label(f"{kind}_{name}") for kind in _KINDS for name in USAGE_COLUMNS]


class Ledger:
    """The reading half of the store that concerns runs."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def runs(self, limit: int, study: str | None) -> list[RunRow]:
        """The latest runs, newest first."""
        statement = select(_RUNS).order_by(_RUNS.c.started.desc(), _RUNS.c.id).limit(limit)
        if study is not None:
            statement = statement.where(_RUNS.c.study == study)
        return [read_run(row) for row in self._access.rows(statement)]

    def run(self, id_or_prefix: str) -> RunRow:
        """A run by its id or the beginning of it."""
        exact = self._access.row(select(_RUNS).where(_RUNS.c.id == id_or_prefix))
        if exact is not None:
            return read_run(exact)
        found: Sequence[RunRow] = []
        if id_or_prefix:
            statement = select(_RUNS).where(_RUNS.c.id.startswith(id_or_prefix, autoescape=True)).limit(3)
            found = [read_run(row) for row in self._access.rows(statement)]
        if not found:
            raise UnknownNameError("run", id_or_prefix, (run.id for run in self.runs(12, None)))
        if len(found) > 1:
            ids = ", ".join(run.id for run in found)
            raise UserError(f"run `{id_or_prefix}` stands for more than one ({ids}); write more of its id")
        return found[0]

    def steps(self, run: str) -> list[StepRow]:
        """A run's node executions in the order in which they started."""
        statement = (
            select(_STEPS).where(_STEPS.c.run == run).order_by(_STEPS.c.started, _STEPS.c.path, _STEPS.c.ordinal)
        )
        return [read_step(row) for row in self._access.rows(statement)]

    def calls(self, run: str) -> list[CallRow]:
        """A run's ledger rows in the order in which they started."""
        columns = _CALLS.c
        statement = (
            select(_CALLS)
            .where(columns.run == run)
            .order_by(columns.started, columns.step, columns.ordinal, columns.attempt, columns.id)
        )
        return [read_call(row) for row in self._access.rows(statement)]

    def prompts(self, run: str) -> dict[str, str]:
        """The stored prompts of a run's calls by request hash."""
        asked = select(_CALLS.c.request).where(_CALLS.c.run == run)
        statement = select(_REQUESTS.c.hash, _REQUESTS.c.body).where(_REQUESTS.c.hash.in_(asked))
        return {str(row["hash"]): str(row["body"]) for row in self._access.rows(statement)}

    def candidates(self, run: str) -> list[CandidateRow]:
        """A run's candidates by (path, ordinal, position)."""
        columns = _CANDIDATES.c
        statement = select(_CANDIDATES).where(columns.run == run)
        statement = statement.order_by(columns.path, columns.ordinal, columns.position)
        return [read_candidate(row) for row in self._access.rows(statement)]

    def usage(self, run: str) -> UsageReport:
        """The sum of a run's ledger rows."""
        return self._sum(select(*SUMS).where(_CALLS.c.run == run))

    def usage_by_model(self, run: str) -> dict[str, UsageReport]:
        """The sum of a run's ledger rows by model name."""
        statement = select(_CALLS.c.model, *SUMS).where(_CALLS.c.run == run)
        statement = statement.group_by(_CALLS.c.model).order_by(_CALLS.c.model)
        return {str(row["model"]): report_of(row) for row in self._access.rows(statement)}

    def study_usage(self, study: str) -> UsageReport:
        """The sum of the ledger rows of a study's runs."""
        of_study: ColumnElement[bool] = _CALLS.c.run.in_(select(_RUNS.c.id).where(_RUNS.c.study == study))
        return self._sum(select(*SUMS).where(of_study))

    def pipeline(self, hash: str) -> str:
        """The YAML of a pipeline by the hash of its specification."""
        row = self._access.row(select(_PIPELINES.c.yaml).where(_PIPELINES.c.hash == hash))
        if row is None:
            known = self._access.rows(select(_PIPELINES.c.hash).order_by(_PIPELINES.c.created.desc()).limit(12))
            raise UnknownNameError("pipeline", hash, (str(found["hash"]) for found in known))
        return str(row["yaml"])

    def _sum(self, statement: Executable) -> UsageReport:
        row = self._access.row(statement)
        return UsageReport() if row is None else report_of(row)


def report_of(row: Mapping[str, object]) -> UsageReport:
    """The report that a row of `SUMS` gives."""
    nominal, billed, bound = (read_usage(row, kind) for kind in _KINDS)
    return UsageReport(nominal=nominal, billed=billed, bound=bound)
