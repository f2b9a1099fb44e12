"""`inferloom runs`: what was run, and every call that it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import (
    clean,
    moment,
    print_json,
    print_pairs,
    print_table,
    print_text,
    report,
    short,
    usage_line,
)

if TYPE_CHECKING:
    from inferloom.store.rows import CallRow, DecisionRow, RunRow

app = typer.Typer(help="Look at past runs, call by call.")

RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id, or its first characters.")]


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 20,
    study: Annotated[str | None, typer.Option("--study", help="Only the runs of this study.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """List the latest runs."""
    store = open_to_read(db)
    try:
        found = store.runs(limit, study=study)
    finally:
        store.close()
    if json:
        print_json([_run_json(run) for run in found])
        return
    if not found:
        print_text('no runs yet; try: inferloom run self_consistency "12+34+56"')
        return
    print_table(
        ["run", "started", "status", "pipeline", "question", "answer"],
        [
            [
                run.id[:12],
                moment(run.started),
                _status(run),
                run.pipeline[:8],
                short(run.question),
                short(run.answer or "-"),
            ]
            for run in found
        ],
    )


@app.command("show")
def show_run(
    run_id: RunId,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show one run with its calls one by one."""
    store = open_to_read(db)
    try:
        run = store.run(run_id)
        calls = store.calls(run.id)
        usage = store.usage(run.id)
        decisions = store.decisions(run=run.id)
    finally:
        store.close()
    if json:
        print_json(
            {
                **_run_json(run),
                "usage": usage.nominal.to_json(),
                "billed": usage.billed.to_json(),
                "bound": usage.bound.to_json(),
                "decisions": [_decision_json(decision) for decision in decisions],
                "calls": [_call_json(call) for call in calls],
            }
        )
        return
    print_pairs(
        {
            "run": run.id,
            "pipeline": run.pipeline,
            "stream": run.stream,
            "status": _status(run),
            "question": clean(run.question),
            "answer": clean(run.answer or "-"),
            "nominal": usage_line(usage.nominal),
            "billed": usage_line(usage.billed),
            **({"routed to": ", ".join(map(_chosen, decisions))} if decisions else {}),
            **({"unknown": f"at most {usage_line(usage.bound)}"} if usage.bound.calls else {}),
        }
    )
    print_table(
        ["#", "step", "model", "outcome", "n", "nominal calls", "billed calls", "prompt", "completion", "seconds"],
        [
            [
                str(number),
                call.step,
                call.model,
                call.outcome + (f": {short(call.error)}" if call.error else ""),
                str(call.completions),
                str(call.nominal.calls),
                str(call.billed.calls),
                str(call.nominal.prompt_tokens or call.billed.prompt_tokens),
                str(call.nominal.completion_tokens or call.billed.completion_tokens),
                f"{call.ended - call.started:.2f}",
            ]
            for number, call in enumerate(calls, 1)
        ],
    )


@app.command("page")
def page(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file; an older one is replaced.")] = Path(
        "run.html"
    ),
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write a run as one HTML file: graph, candidates, timing, costs and every call with its texts."""
    from inferloom.pipelines.page import write_page
    from inferloom.serving.page import run_page

    store = open_to_read(db)
    try:
        run = store.run(run_id)
        written = write_page(run_page(store, run.id), out)
    finally:
        store.close()
    report({"run_id": run.id, "page": str(written)}, f"wrote {written}", json)


def _run_json(run: RunRow) -> dict[str, object]:
    return {
        "run_id": run.id,
        "pipeline": run.pipeline,
        "stream": run.stream,
        "question": run.question,
        "answer": run.answer,
        "status": run.status,
        "stopped": run.stopped,
        "error": run.error,
        "started": run.started,
        "ended": run.ended,
        "study": run.study,
        "item": run.item,
    }


def _decision_json(decision: DecisionRow) -> dict[str, object]:
    return {
        "id": decision.id,
        "router": decision.router,
        "version": decision.version,
        "arm": decision.arm,
        "propensity": decision.propensity,
        "explored": decision.explored,
        "reasons": dict(decision.reasons),
    }


def _chosen(decision: DecisionRow) -> str:
    tried = f", tried out with a chance of {decision.propensity:.1%}" if decision.explored else ""
    return clean(f"{decision.arm} by {decision.router} {decision.version}{tried}")


def _call_json(call: CallRow) -> dict[str, object]:
    return {
        "id": call.id,
        "step": call.step,
        "ordinal": call.ordinal,
        "attempt": call.attempt,
        "model": call.model,
        "fingerprint": call.fingerprint,
        "request": call.request,
        "completions": call.completions,
        "outcome": call.outcome,
        "error": call.error,
        "nominal": call.nominal.to_json(),
        "billed": call.billed.to_json(),
        "bound": call.bound.to_json(),
        "started": call.started,
        "ended": call.ended,
    }


def _status(run: RunRow) -> str:
    if run.error:
        return f"{run.status}: {short(run.error)}"
    return f"{run.status}, stopped: {run.stopped}" if run.stopped else run.status
