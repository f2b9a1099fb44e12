"""Forgetting: every stored prompt that contains a text goes, with all that came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection, RowMapping, Table, delete, select, update

from inferloom.core.errors import UserError
from inferloom.core.types import Candidate, CandidateJson
from inferloom.store import tables
from inferloom.store.bank import in_chunks, run_job
from inferloom.store.codec import candidate_text, read_logprobs
from inferloom.store.rows import ForgetReport
from inferloom.store.writer import Writer

_COMPLETIONS = tables.table(tables.CompletionTable)
_REQUESTS = tables.table(tables.RequestTable)
_CALLS = tables.table(tables.CallTable)
_RUNS = tables.table(tables.RunTable)
_CANDIDATES = tables.table(tables.CandidateTable)
_EVALUATIONS = tables.table(tables.EvaluationTable)
_DECISIONS = tables.table(tables.DecisionTable)
_SERVED = tables.table(tables.ServedTable)
_FEEDBACK = tables.table(tables.FeedbackTable)


def forget(writer: Writer, text: str) -> ForgetReport:
    """Remove every stored prompt and completion that contains the text, and blank the runs it was part of.

    A prompt goes with all its completions, whatever the stream. A run is concerned if its question, its answer, its
    error or a candidate contains the text, or if it asked a forgotten prompt: these become empty. Its ledger rows stay,
    because accounts hold no text beside the error of a failed call.

    Raises:
        UserError: The text is empty.
    """
    if not text.strip():
        raise UserError("forgetting needs a text; an empty one would forget everything")
    report = run_job(writer, _Forgetting(text).work)
    writer.checkpoint()
    return report


class _Forgetting:
    def __init__(self, text: str) -> None:
        # JSON columns hold the text as JSON writes it, with or without ASCII escapes; the arguments of a tool call are
        # JSON inside JSON.
        once = [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
        twice = [json.dumps(form, ensure_ascii=False)[1:-1] for form in once]
        self._forms = tuple(dict.fromkeys((text, *once, *twice)))

    def work(self, connection: Connection) -> ForgetReport:
        prompts = self._prompts(connection)
        hashes = sorted(prompts)
        completions = _delete(connection, _COMPLETIONS, "request", hashes) + self._own_texts(connection)
        removed = _delete(connection, _REQUESTS, "hash", hashes)
        runs = sorted(self._runs(connection, prompts))
        candidates = _blank(connection, runs)
        _delete(connection, _SERVED, "run", runs)
        commented = [
            str(row["id"]) for row in _stream(connection, _FEEDBACK, "id", "comment") if self._has(row["comment"])
        ]
        for condition in in_chunks(_FEEDBACK.c.id, commented):
            connection.execute(update(_FEEDBACK).where(condition).values(comment=None))
        failed = [str(row["id"]) for row in _stream(connection, _CALLS, "id", "error") if self._has(row["error"])]
        for condition in in_chunks(_CALLS.c.id, failed):
            connection.execute(update(_CALLS).where(condition).values(error=""))
        return ForgetReport(prompts=removed, completions=completions, runs=len(runs), candidates=candidates)

    def _has(self, *texts: object) -> bool:
        return any(form in text for text in texts if isinstance(text, str) for form in self._forms)

    def _prompts(self, connection: Connection) -> set[str]:
        found = {str(row["hash"]) for row in _stream(connection, _REQUESTS, "hash", "body") if self._has(row["body"])}
        kept = _stream(connection, _COMPLETIONS, "request", "prompt_text")
        return found | {str(row["request"]) for row in kept if self._has(row["prompt_text"])}

    def _own_texts(self, connection: Connection) -> int:
        """Delete completions that contain the text themselves; their prompts may stay."""
        columns = ("address", "draw", "text", "reasoning", "tool_calls", "logprobs")
        doomed = [
            (row["address"], row["draw"])
            for row in _stream(connection, _COMPLETIONS, *columns)
            if self._has(row["text"], row["reasoning"], row["tool_calls"], _tokens(row["logprobs"]))
        ]
        for address, draw in doomed:
            here = (_COMPLETIONS.c.address == address, _COMPLETIONS.c.draw == draw)
            connection.execute(delete(_COMPLETIONS).where(*here))
        return len(doomed)

    def _runs(self, connection: Connection, prompts: set[str]) -> set[str]:
        texts = _stream(connection, _RUNS, "id", "question", "answer", "error")
        found = {str(row["id"]) for row in texts if self._has(row["question"], row["answer"], row["error"])}
        bodies = _stream(connection, _CANDIDATES, "run", "body")
        found |= {str(row["run"]) for row in bodies if self._has(row["body"])}
        asked = _stream(connection, _CALLS, "run", "request")
        return found | {str(row["run"]) for row in asked if row["request"] in prompts}


def _stream(connection: Connection, table: Table, *columns: str) -> Iterator[RowMapping]:
    yield from connection.execute(select(*(table.c[name] for name in columns))).mappings()


def _tokens(logprobs: str | None) -> str | None:
    """The text that the tokens make up; it may reach beyond the completion's own, which ends before its stop string."""
    return None if logprobs is None else "".join(token.token for token in read_logprobs(logprobs) or ())


def _delete(connection: Connection, table: Table, column: str, values: Sequence[str]) -> int:
    return sum(
        connection.execute(delete(table).where(condition)).rowcount for condition in in_chunks(table.c[column], values)
    )


def _blank(connection: Connection, runs: Sequence[str]) -> int:
    """Empty the texts of runs; count their candidates."""
    count = 0
    for condition in in_chunks(_RUNS.c.id, runs):
        connection.execute(update(_RUNS).where(condition).values(question="", answer=None, error=None))
    for condition in in_chunks(_FEEDBACK.c.run, runs):
        connection.execute(update(_FEEDBACK).where(condition).values(comment=None))
    for condition in in_chunks(_DECISIONS.c.run, runs):
        connection.execute(update(_DECISIONS).where(condition).values(query="", reasons="{}"))
    for condition in in_chunks(_EVALUATIONS.c.run, runs):
        connection.execute(update(_EVALUATIONS).where(condition).values(answer=None))
    for condition in in_chunks(_CANDIDATES.c.run, runs):
        for row in connection.execute(select(_CANDIDATES).where(condition)).mappings().all():
            here = [column == row[column.name] for column in _CANDIDATES.primary_key]
            body = _blanked(json.loads(row["body"]))
            connection.execute(update(_CANDIDATES).where(*here).values(body=body))
            count += 1
    return count


def _blanked(body: CandidateJson) -> str:
    candidate = Candidate.from_json(body)
    critiques = ("",) * len(candidate.critiques)
    return candidate_text(replace(candidate, text="", answer=None, critiques=critiques, tool_calls=()))
