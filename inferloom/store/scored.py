"""Scored runs: what routers learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from sqlalchemy import select

from inferloom.core.types import Usage
from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.codec import read_usage

_EVALUATIONS = tables.table(tables.EvaluationTable)
_RUNS = tables.table(tables.RunTable)
_CALLS = tables.table(tables.CallTable)
_PIPELINES = tables.table(tables.PipelineTable)


class ScoredRun(NamedTuple):
    """A question that a pipeline answered, and how well."""

    run: str
    pipeline: str
    question: str
    item: str
    study: str
    score: float
    nominal: Usage
    stopped: str | None
    tag: str | None


class Scored:
    """The part of the store that reads scored runs."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def runs(self, study: str | None = None) -> list[ScoredRun]:
        """Every evaluated run with its question, the oldest first.

        Args:
            study: Only those of one study; None: all.
        """
        statement = (
            select(_EVALUATIONS, _RUNS.c.question, _RUNS.c.tag)
            .join(_RUNS, _RUNS.c.id == _EVALUATIONS.c.run)
            .order_by(_EVALUATIONS.c.created, _EVALUATIONS.c.run)
        )
        if study is not None:
            statement = statement.where(_EVALUATIONS.c.study == study)
        return [_scored(row) for row in self._access.rows(statement)]

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """By evaluated run: the fingerprint of every model that it called, by the model's name in the pipeline."""
        statement = (
            select(_CALLS.c.run, _CALLS.c.model, _CALLS.c.fingerprint)
            .where(_CALLS.c.run.in_(select(_EVALUATIONS.c.run)))
            .distinct()
        )
        found: dict[str, dict[str, str]] = {}
        for row in self._access.rows(statement):
            found.setdefault(str(row["run"]), {})[str(row["model"])] = str(row["fingerprint"])
        return found

    def pipelines(self) -> dict[str, str]:
        """The YAML of every evaluated pipeline, by hash."""
        statement = select(_PIPELINES.c.hash, _PIPELINES.c.yaml).where(
            _PIPELINES.c.hash.in_(select(_EVALUATIONS.c.pipeline))
        )
        return {str(row["hash"]): str(row["yaml"]) for row in self._access.rows(statement)}


def _scored(row: Mapping[str, object]) -> ScoredRun:
    return ScoredRun(
        run=cast(str, row["run"]),
        pipeline=cast(str, row["pipeline"]),
        question=cast(str, row["question"]),
        item=cast(str, row["item"]),
        study=cast(str, row["study"]),
        score=cast(float, row["score"]),
        nominal=read_usage(row, "nominal"),
        stopped=cast("str | None", row["stopped"]),
        tag=cast("str | None", row["tag"]),
    )
