"""A run as JSON: what it did, step by step and call by call, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferloom.core.types import Json

if TYPE_CHECKING:
    from inferloom.store import Store
    from inferloom.store.rows import RunRow


def trace(store: Store, run: RunRow, live: bool) -> dict[str, Json]:
    """Everything that the database knows of a run.

    Args:
        store: The database.
        run: The run.
        live: Whether this process is running it; one that is neither live nor ended was interrupted.
    """
    usage = store.usage(run.id)
    return {
        "id": run.id,
        "object": "inferloom.run",
        "status": "interrupted" if run.status == "running" and not live else run.status,
        "pipeline": run.pipeline,
        "question": run.question,
        "answer": run.answer,
        "stopped": run.stopped,
        "error": run.error,
        "started": run.started,
        "ended": run.ended,
        "usage": dict(usage.nominal.to_json()),
        "billed": dict(usage.billed.to_json()),
        "unknown_at_most": dict(usage.bound.to_json()),
        "steps": [
            {
                "path": step.path,
                "ordinal": step.ordinal,
                "node": step.node,
                "status": step.status,
                "started": step.started,
                "ended": step.ended,
                "candidates_in": step.candidates_in,
                "candidates_out": step.candidates_out,
            }
            for step in store.steps(run.id)
        ],
        "candidates": [
            {"path": row.path, "ordinal": row.ordinal, "position": row.position, **_candidate(row.candidate.to_json())}
            for row in store.candidates(run.id)
        ],
        "calls": [
            {
                "step": call.step,
                "attempt": call.attempt,
                "model": call.model,
                "outcome": call.outcome,
                "error": call.error,
                "completions": call.completions,
                "nominal": dict(call.nominal.to_json()),
                "billed": dict(call.billed.to_json()),
                "unknown_at_most": dict(call.bound.to_json()),
                "started": call.started,
                "ended": call.ended,
            }
            for call in store.calls(run.id)
        ],
        "feedback": [
            {
                "score": row.score,
                "grader": row.grader,
                "decision": row.decision,
                "comment": row.comment,
                "created": row.created,
            }
            for row in store.served.feedback(run.id)
        ],
    }


def _candidate(data: object) -> dict[str, Json]:
    assert isinstance(data, dict), "a candidate is a mapping"
    return data
