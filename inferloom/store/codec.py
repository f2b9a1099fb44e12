"""Rows to database parameters and back.

A row becomes a plain tuple in the order of its table's columns, and the INSERT of each table is compiled to text once
per database: what is left per row is the driver's own work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from inferloom.core.errors import Outcome
from inferloom.core.tools import ToolCall
from inferloom.core.types import Candidate, Completion, FinishReason, TokenLogprob, Usage
from inferloom.store import tables
from inferloom.store.rows import (
    Address,
    CallRow,
    CandidateRow,
    CompletionRow,
    DecisionRow,
    EvaluationRow,
    FeedbackRow,
    PipelineRow,
    RequestRow,
    Row,
    RunRow,
    RunStatus,
    ServedRow,
    ServedStatus,
    StepRow,
    StudyRow,
    TouchRow,
)

R = TypeVar("R")
Scalar: TypeAlias = str | int | float | None
Parameters: TypeAlias = tuple[Scalar, ...]
OnConflict: TypeAlias = Literal["keep", "replace", "fail"]


@dataclass(frozen=True, slots=True)
class Codec(Generic[R]):
    """How one kind of row is stored."""

    table: Table
    on_conflict: OnConflict
    columns: tuple[str, ...]
    """The order of `encode`'s tuple."""
    encode: Callable[[R], Parameters]

    def insert_text(self, dialect: Dialect) -> str:
        """The compiled INSERT for a database whose driver takes positional parameters."""
        values = dict.fromkeys(self.columns)
        if dialect.name == "sqlite":
            statement = sqlite.insert(self.table).values(values)
        else:
            # Both constructs have the same methods; the types differ in name only.
            statement = cast(sqlite.Insert, postgresql.insert(self.table).values(values))
        keys = [column.name for column in self.table.primary_key]
        if self.on_conflict == "keep":
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        elif self.on_conflict == "replace":
            fresh = {name: statement.excluded[name] for name in self.columns if name not in keys}
            statement = statement.on_conflict_do_update(index_elements=keys, set_=fresh)
        compiled = statement.compile(dialect=dialect)
        order = tuple(getattr(compiled, "positiontup", None) or ())
        if order != self.columns:
            raise AssertionError(f"{self.table.name}: the INSERT binds {order}, rows are encoded as {self.columns}")
        return str(compiled)


USAGE_COLUMNS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "usd", "seconds")


def usage_parameters(usage: Usage) -> Parameters:
    """The six figures of a usage in the order of `USAGE_COLUMNS`."""
    return (
        usage.calls,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.usd,
        usage.seconds,
    )


def read_usage(data: Mapping[str, object], prefix: str) -> Usage:
    """A usage from columns named `prefix_calls` and so on; absent sums count as zero."""
    calls, prompt, cached, completion, usd, seconds = (data[f"{prefix}_{name}"] or 0 for name in USAGE_COLUMNS)
    return Usage(
        calls=int(cast(int, calls)),
        prompt_tokens=int(cast(int, prompt)),
        cached_tokens=int(cast(int, cached)),
        completion_tokens=int(cast(int, completion)),
        usd=float(cast(float, usd)),
        seconds=float(cast(float, seconds)),
    )


def logprobs_text(logprobs: tuple[TokenLogprob, ...] | None) -> str | None:
    """Log-probabilities as JSON text."""
    if logprobs is None:
        return None
    return json.dumps([(token.token, token.logprob, token.top) for token in logprobs], separators=(",", ":"))


def read_logprobs(text: str | None) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities from JSON text."""
    if text is None:
        return None
    return tuple(
        TokenLogprob(token, logprob, tuple((other, value) for other, value in top))
        for token, logprob, top in json.loads(text)
    )


def calls_json(calls: tuple[ToolCall, ...]) -> str | None:
    """Tool calls as JSON text; None where there are none."""
    return json.dumps([call.to_json() for call in calls], separators=(",", ":")) if calls else None


def read_calls_json(text: str | None) -> tuple[ToolCall, ...]:
    """Tool calls from JSON text."""
    return tuple(ToolCall.from_json(call) for call in json.loads(text)) if text else ()


def _completion(row: CompletionRow) -> Parameters:
    address, made = row.address, row.completion
    return (
        address.key,
        row.index,
        address.stream,
        address.fingerprint,
        address.request,
        made.text,
        made.finish_reason,
        made.stop_reason,
        made.prompt_tokens,
        made.cached_tokens,
        made.completion_tokens,
        logprobs_text(made.logprobs),
        made.reasoning,
        row.prompt_text,
        row.created,
        calls_json(made.tool_calls),
    )


COMPLETION_COLUMNS = (
    "text",
    "finish_reason",
    "stop_reason",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "logprobs",
    "reasoning",
    "tool_calls",
)
"""The columns of the bank that make a completion, in the order in which `read_completion` takes them."""


def read_completion(values: tuple[object, ...], id: str) -> Completion:
    """A completion from the values of `COMPLETION_COLUMNS`."""
    text, finish_reason, stop_reason, prompt, cached, completion_tokens, logprobs, reasoning, tool_calls = values
    return Completion(
        text=cast(str, text),
        finish_reason=cast(FinishReason, finish_reason),
        stop_reason=cast("str | None", stop_reason),
        prompt_tokens=cast(int, prompt),
        cached_tokens=cast(int, cached),
        completion_tokens=cast(int, completion_tokens),
        logprobs=read_logprobs(cast("str | None", logprobs)),
        reasoning=cast("str | None", reasoning),
        tool_calls=read_calls_json(cast("str | None", tool_calls)),
        id=id,
    )


def read_address(data: Mapping[str, object]) -> Address:
    """The address of a row of the bank."""
    return Address(stream=str(data["stream"]), fingerprint=str(data["fingerprint"]), request=str(data["request"]))


def _call(row: CallRow) -> Parameters:
    return (
        row.id,
        row.run,
        row.step,
        row.ordinal,
        row.attempt,
        row.model,
        row.fingerprint,
        row.request,
        row.completions,
        *usage_parameters(row.nominal),
        *usage_parameters(row.billed),
        *usage_parameters(row.bound),
        row.outcome,
        row.error,
        row.started,
        row.ended,
    )


def read_call(data: Mapping[str, object]) -> CallRow:
    """A line of the ledger."""
    return CallRow(
        id=cast(str, data["id"]),
        run=cast(str, data["run"]),
        step=cast(str, data["step"]),
        ordinal=cast(int, data["ordinal"]),
        attempt=cast(int, data["attempt"]),
        model=cast(str, data["model"]),
        fingerprint=cast(str, data["fingerprint"]),
        request=cast(str, data["request"]),
        completions=cast(int, data["completions"]),
        nominal=read_usage(data, "nominal"),
        billed=read_usage(data, "billed"),
        bound=read_usage(data, "bound"),
        outcome=cast(Outcome, data["outcome"]),
        error=cast("str | None", data["error"]),
        started=cast(float, data["started"]),
        ended=cast(float, data["ended"]),
    )


def _step(row: StepRow) -> Parameters:
    return (
        row.run,
        row.path,
        row.ordinal,
        row.node,
        row.started,
        row.ended,
        row.status,
        row.candidates_in,
        row.candidates_out,
    )


def read_step(data: Mapping[str, object]) -> StepRow:
    """A node execution."""
    return StepRow(
        run=cast(str, data["run"]),
        path=cast(str, data["path"]),
        ordinal=cast(int, data["ordinal"]),
        node=cast(str, data["node"]),
        started=cast(float, data["started"]),
        ended=cast("float | None", data["ended"]),
        status=cast(str, data["status"]),
        candidates_in=cast(int, data["candidates_in"]),
        candidates_out=cast(int, data["candidates_out"]),
    )


def candidate_text(candidate: Candidate) -> str:
    """A candidate as JSON text."""
    return json.dumps(candidate.to_json(), separators=(",", ":"))


def _candidate(row: CandidateRow) -> Parameters:
    return (row.run, row.path, row.ordinal, row.position, candidate_text(row.candidate))


def read_candidate(data: Mapping[str, object]) -> CandidateRow:
    """A candidate of a run."""
    return CandidateRow(
        run=cast(str, data["run"]),
        path=cast(str, data["path"]),
        ordinal=cast(int, data["ordinal"]),
        position=cast(int, data["position"]),
        candidate=Candidate.from_json(json.loads(cast(str, data["body"]))),
    )


def _run(row: RunRow) -> Parameters:
    return (
        row.id,
        row.pipeline,
        row.stream,
        row.question,
        row.status,
        row.answer,
        row.stopped,
        row.error,
        row.started,
        row.ended,
        row.study,
        row.item,
        row.tag,
    )


def read_run(data: Mapping[str, object]) -> RunRow:
    """A run."""
    return RunRow(
        id=cast(str, data["id"]),
        pipeline=cast(str, data["pipeline"]),
        stream=cast(str, data["stream"]),
        question=cast(str, data["question"]),
        status=cast(RunStatus, data["status"]),
        answer=cast("str | None", data["answer"]),
        stopped=cast("str | None", data["stopped"]),
        error=cast("str | None", data["error"]),
        started=cast(float, data["started"]),
        ended=cast("float | None", data["ended"]),
        study=cast("str | None", data["study"]),
        item=cast("str | None", data["item"]),
        tag=cast("str | None", data["tag"]),
    )


def _evaluation(row: EvaluationRow) -> Parameters:
    return (
        row.study,
        row.trial,
        row.split,
        row.item,
        row.pipeline,
        row.run,
        row.score,
        row.answer,
        *usage_parameters(row.nominal),
        row.stopped,
        row.created,
    )


def read_evaluation(data: Mapping[str, object]) -> EvaluationRow:
    """A score."""
    return EvaluationRow(
        study=cast(str, data["study"]),
        trial=cast(int, data["trial"]),
        split=cast(str, data["split"]),
        item=cast(str, data["item"]),
        pipeline=cast(str, data["pipeline"]),
        run=cast(str, data["run"]),
        score=cast(float, data["score"]),
        answer=cast("str | None", data["answer"]),
        nominal=read_usage(data, "nominal"),
        stopped=cast("str | None", data["stopped"]),
        created=cast(float, data["created"]),
    )


def _study(row: StudyRow) -> Parameters:
    return (row.name, row.spec, row.spec_hash, row.status, row.created, row.updated, row.result)


def read_study(data: Mapping[str, object]) -> StudyRow:
    """A study."""
    return StudyRow(
        name=cast(str, data["name"]),
        spec=cast(str, data["spec"]),
        spec_hash=cast(str, data["spec_hash"]),
        status=cast(str, data["status"]),
        created=cast(float, data["created"]),
        updated=cast(float, data["updated"]),
        result=cast("str | None", data["result"]),
    )


def _decision(row: DecisionRow) -> Parameters:
    return (
        row.id,
        row.router,
        row.version,
        row.run,
        row.query,
        row.arm,
        row.propensity,
        int(row.explored),
        json.dumps(dict(row.reasons), separators=(",", ":")),
        row.created,
    )


def read_decision(data: Mapping[str, object]) -> DecisionRow:
    """What a router chose."""
    return DecisionRow(
        id=cast(str, data["id"]),
        router=cast(str, data["router"]),
        version=cast(str, data["version"]),
        run=cast(str, data["run"]),
        query=cast(str, data["query"]),
        arm=cast(str, data["arm"]),
        propensity=cast(float, data["propensity"]),
        explored=bool(data["explored"]),
        reasons=json.loads(cast(str, data["reasons"])),
        created=cast(float, data["created"]),
    )


def _codec(
    entity: type[tables.Base], on_conflict: OnConflict, encode: Callable[[R], Parameters], omit: tuple[str, ...] = ()
) -> Codec[R]:
    found = tables.table(entity)
    columns = tuple(column.name for column in found.columns if column.name not in omit)
    return Codec(found, on_conflict, columns, encode)


def _request(row: RequestRow) -> Parameters:
    return (row.hash, row.model, row.body)


def _pipeline(row: PipelineRow) -> Parameters:
    return (row.hash, row.yaml, row.created)


def _touch(row: TouchRow) -> Parameters:
    return (row.dataset, row.split, row.study, row.created)


def _served(row: ServedRow) -> Parameters:
    return (
        row.id,
        row.owner,
        row.idempotency,
        row.request,
        row.run,
        row.stream,
        row.status,
        row.response,
        row.created,
        row.updated,
    )


def read_served(data: Mapping[str, object]) -> ServedRow:
    """A request that came with an `Idempotency-Key`."""
    return ServedRow(
        id=cast(str, data["id"]),
        owner=cast(str, data["owner"]),
        idempotency=cast(str, data["idempotency"]),
        request=cast(str, data["request"]),
        run=cast(str, data["run"]),
        stream=cast(str, data["stream"]),
        status=cast(ServedStatus, data["status"]),
        response=cast("str | None", data["response"]),
        created=cast(float, data["created"]),
        updated=cast(float, data["updated"]),
    )


def _feedback(row: FeedbackRow) -> Parameters:
    return (row.id, row.run, row.decision, row.score, row.grader, row.comment, row.owner, row.created)


def read_feedback(data: Mapping[str, object]) -> FeedbackRow:
    """A score of a run."""
    return FeedbackRow(
        id=cast(str, data["id"]),
        run=cast(str, data["run"]),
        decision=cast("str | None", data["decision"]),
        score=cast(float, data["score"]),
        grader=cast(str, data["grader"]),
        comment=cast("str | None", data["comment"]),
        owner=cast(str, data["owner"]),
        created=cast(float, data["created"]),
    )


# A codec takes exactly the rows of the class it stands under, which a dict's type cannot say: hence the cast.
CODECS: Mapping[type[Row], Codec[Row]] = cast(
    "Mapping[type[Row], Codec[Row]]",
    {
        RequestRow: _codec(tables.RequestTable, "keep", _request),
        CompletionRow: _codec(tables.CompletionTable, "keep", _completion),
        CallRow: _codec(tables.CallTable, "replace", _call),
        PipelineRow: _codec(tables.PipelineTable, "keep", _pipeline),
        RunRow: _codec(tables.RunTable, "replace", _run),
        StepRow: _codec(tables.StepTable, "replace", _step),
        CandidateRow: _codec(tables.CandidateTable, "replace", _candidate),
        StudyRow: _codec(tables.SearchTable, "replace", _study),
        EvaluationRow: _codec(tables.EvaluationTable, "replace", _evaluation),
        DecisionRow: _codec(tables.DecisionTable, "keep", _decision),
        TouchRow: _codec(tables.TouchTable, "fail", _touch, omit=("id",)),
        ServedRow: _codec(tables.ServedTable, "replace", _served),
        FeedbackRow: _codec(tables.FeedbackTable, "replace", _feedback),
    },
)
