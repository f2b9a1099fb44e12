"""The tables. Migrations build them (`migrations/versions`); a test holds both to the same shape.

Optuna keeps its own tables in the same database (`studies`, `trials`, `study_*`, `trial_*`, `alembic_version`,
`version_info`), so no table of ours has such a name. There are no foreign keys: a ledger row must never be refused
because the row of its run has not come yet.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, Index, Integer, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Strings are unbounded text, integers have 64 bits, floats are doubles, on every database."""

    type_annotation_map = {str: Text, int: BigInteger, float: Double}


class CompletionTable(Base):
    """The bank."""

    __tablename__ = "completions"
    __table_args__ = (Index("ix_completions_request", "request"),)

    address: Mapped[str] = mapped_column(primary_key=True)
    """`Address.key`: stands for (stream, fingerprint, request) in a third of the space."""
    draw: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stream: Mapped[str]
    fingerprint: Mapped[str]
    request: Mapped[str]
    text: Mapped[str]
    finish_reason: Mapped[str]
    stop_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    logprobs: Mapped[str | None]
    """JSON: a list of [token, logprob, [[token, logprob], ...]]."""
    reasoning: Mapped[str | None]
    prompt_text: Mapped[str | None]
    created: Mapped[float]
    tool_calls: Mapped[str | None]
    """JSON: a list of {name, arguments, id}."""


class RequestTable(Base):
    """Stored prompts."""

    __tablename__ = "requests"

    hash: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]


class CallTable(Base):
    """The ledger."""

    __tablename__ = "calls"
    __table_args__ = (Index("ix_calls_run", "run"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str]
    step: Mapped[str]
    ordinal: Mapped[int]
    attempt: Mapped[int]
    model: Mapped[str]
    fingerprint: Mapped[str]
    request: Mapped[str]
    completions: Mapped[int]
    nominal_calls: Mapped[int]
    nominal_prompt_tokens: Mapped[int]
    nominal_cached_tokens: Mapped[int]
    nominal_completion_tokens: Mapped[int]
    nominal_usd: Mapped[float]
    nominal_seconds: Mapped[float]
    billed_calls: Mapped[int]
    billed_prompt_tokens: Mapped[int]
    billed_cached_tokens: Mapped[int]
    billed_completion_tokens: Mapped[int]
    billed_usd: Mapped[float]
    billed_seconds: Mapped[float]
    bound_calls: Mapped[int]
    bound_prompt_tokens: Mapped[int]
    bound_cached_tokens: Mapped[int]
    bound_completion_tokens: Mapped[int]
    bound_usd: Mapped[float]
    bound_seconds: Mapped[float]
    outcome: Mapped[str]
    error: Mapped[str | None]
    started: Mapped[float]
    ended: Mapped[float]


class StepTable(Base):
    """Node executions."""

    __tablename__ = "steps"

    run: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node: Mapped[str]
    started: Mapped[float]
    ended: Mapped[float | None]
    status: Mapped[str]
    candidates_in: Mapped[int]
    candidates_out: Mapped[int]


class CandidateTable(Base):
    """Candidates as nodes handed them on."""

    __tablename__ = "candidates"

    run: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body: Mapped[str]
    """The candidate as JSON."""


class RunTable(Base):
    """Pipelines applied to questions."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_study", "study"),
        Index("ix_runs_started", "started"),
        Index("ix_runs_tag", "tag"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    pipeline: Mapped[str]
    stream: Mapped[str]
    question: Mapped[str]
    status: Mapped[str]
    answer: Mapped[str | None]
    stopped: Mapped[str | None]
    error: Mapped[str | None]
    started: Mapped[float]
    ended: Mapped[float | None]
    study: Mapped[str | None]
    item: Mapped[str | None]
    tag: Mapped[str | None]


class PipelineTable(Base):
    """Specifications by the hash of their content."""

    __tablename__ = "pipelines"

    hash: Mapped[str] = mapped_column(primary_key=True)
    yaml: Mapped[str]
    created: Mapped[float]


class EvaluationTable(Base):
    """Scores by item."""

    __tablename__ = "evaluations"

    study: Mapped[str] = mapped_column(primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    split: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(primary_key=True)
    pipeline: Mapped[str]
    run: Mapped[str]
    score: Mapped[float]
    answer: Mapped[str | None]
    nominal_calls: Mapped[int]
    nominal_prompt_tokens: Mapped[int]
    nominal_cached_tokens: Mapped[int]
    nominal_completion_tokens: Mapped[int]
    nominal_usd: Mapped[float]
    nominal_seconds: Mapped[float]
    stopped: Mapped[str | None]
    created: Mapped[float]


class SearchTable(Base):
    """Studies; Optuna has the name `studies`."""

    __tablename__ = "searches"

    name: Mapped[str] = mapped_column(primary_key=True)
    spec: Mapped[str]
    spec_hash: Mapped[str]
    status: Mapped[str]
    created: Mapped[float]
    updated: Mapped[float]
    result: Mapped[str | None]


class TouchTable(Base):
    """Looks at test splits."""

    __tablename__ = "touches"
    __table_args__ = (Index("ix_touches_dataset", "dataset"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    dataset: Mapped[str]
    split: Mapped[str]
    study: Mapped[str]
    created: Mapped[float]


class MemoryTable(Base):
    """Memories."""

    __tablename__ = "memories"
    __table_args__ = (Index("ix_memories_name", "namespace", "name", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    head: Mapped[int]
    """The newest version; who writes the next one must have seen this one."""
    parent: Mapped[str | None]
    """The memory that it was forked from."""
    parent_version: Mapped[int | None]
    protocol: Mapped[str | None]
    """How an evaluation wrote to it, as JSON; None for a memory of the user's own."""
    created: Mapped[float]
    updated: Mapped[float]


class MemoryVersionTable(Base):
    """Versions of memories; a row never changes."""

    __tablename__ = "memory_versions"
    __table_args__ = (Index("ix_memory_versions_source", "memory", "source", unique=True),)

    memory: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str | None]
    """What made it: the same source makes one version only."""
    run: Mapped[str | None]
    position: Mapped[int | None]
    """The place in a stream of questions."""
    action: Mapped[str]
    entries: Mapped[int]
    tokens: Mapped[int]
    dropped: Mapped[int]
    """Operations that were proposed and not applied."""
    created: Mapped[float]


class MemoryEntryTable(Base):
    """Entries of memories: one row for each wording and state of counters, with the versions that it stands in."""

    __tablename__ = "memory_entries"
    __table_args__ = (
        Index("ix_memory_entries_added", "memory", "added"),
        Index("ix_memory_entries_removed", "memory", "removed"),
    )

    memory: Mapped[str] = mapped_column(primary_key=True)
    entry: Mapped[str] = mapped_column(primary_key=True)
    added: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """The version that it stands in first."""
    removed: Mapped[int | None]
    """The first version that it stands in no more."""
    kind: Mapped[str]
    key: Mapped[str]
    text: Mapped[str]
    helpful: Mapped[int]
    harmful: Mapped[int]
    used: Mapped[int]
    run: Mapped[str]
    created: Mapped[float]
    last_used: Mapped[float | None]
    expires: Mapped[float | None]


class VectorTable(Base):
    """Embeddings by text."""

    __tablename__ = "vectors"

    hash: Mapped[str] = mapped_column(primary_key=True)
    """32 hex digits that stand for the text."""
    embedder: Mapped[str] = mapped_column(primary_key=True)
    vector: Mapped[bytes]
    """Little-endian 32-bit floats of a unit vector."""


class ServedTable(Base):
    """Requests to the server that came with an `Idempotency-Key`."""

    __tablename__ = "served"
    __table_args__ = (Index("ix_served_run", "run"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """32 hex digits that stand for (owner, idempotency key)."""
    owner: Mapped[str]
    idempotency: Mapped[str]
    request: Mapped[str]
    run: Mapped[str]
    stream: Mapped[str]
    status: Mapped[str]
    response: Mapped[str | None]
    """The answer as JSON."""
    created: Mapped[float]
    updated: Mapped[float]


class FeedbackTable(Base):
    """Scores that users gave to runs."""

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_run", "run"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str]
    decision: Mapped[str | None]
    score: Mapped[float]
    grader: Mapped[str]
    comment: Mapped[str | None]
    owner: Mapped[str]
    created: Mapped[float]


class DecisionTable(Base):
    """What routers chose."""

    __tablename__ = "decisions"
    __table_args__ = (Index("ix_decisions_run", "run"), Index("ix_decisions_router", "router", "created"))

    id: Mapped[str] = mapped_column(primary_key=True)
    router: Mapped[str]
    version: Mapped[str]
    run: Mapped[str]
    query: Mapped[str]
    """32 hex digits that stand for the question's text."""
    arm: Mapped[str]
    propensity: Mapped[float]
    explored: Mapped[int]
    """0 or 1."""
    reasons: Mapped[str]
    """JSON."""
    created: Mapped[float]


class RouterTable(Base):
    """Versions of routers; one of each name is the champion."""

    __tablename__ = "routers"

    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    manifest: Mapped[str]
    """JSON."""
    weights: Mapped[bytes]
    """safetensors."""
    promoted: Mapped[float | None]
    """When it last became the champion; None: never."""
    created: Mapped[float]


def table(entity: type[Base]) -> Table:
    """The table behind a mapped class."""
    found = entity.__table__
    assert isinstance(found, Table)
    return found
