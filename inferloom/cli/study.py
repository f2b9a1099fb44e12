"""`inferloom study`: the searches in the database, to look at, to go on with and to clear away."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_store, open_to_read
from inferloom.cli.output import check_new, count, err, moment, print_json, print_table, print_text, report, write_new
from inferloom.cli.search import Limits, Out, Ray, WorkerCount, conduct, hands, limited, right_answers
from inferloom.core.errors import InferloomError, SetupError, SpecError

if TYPE_CHECKING:
    from inferloom.core.types import Json as JsonValue
    from inferloom.search.job import SearchJob
    from inferloom.search.record import StudyRecord
    from inferloom.search.result import StudyResult
    from inferloom.search.worker import Workers
    from inferloom.store import EvaluationRow, Store

app = typer.Typer(help="Look at studies, compare them, go on with them, export and delete them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A study's name; `inferloom study list` has them.")]


@app.command("list")
def list_studies(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the studies, the newest first."""
    from inferloom.search.record import StudyRecord

    with _reading(db) as store:
        found = [
            (row, StudyRecord.of(row).standing(store), store.study_usage(row.name).billed) for row in store.studies()
        ]
    if json:
        print_json(
            [
                {
                    "study": row.name,
                    "status": row.status,
                    "trials": standing.trials,
                    "trials_done": standing.done,
                    "best_dev": standing.best,
                    "created": row.created,
                    "updated": row.updated,
                    "billed": billed.to_json(),
                }
                for row, standing, billed in found
            ]
        )
    elif found:
        print_table(
            ["study", "status", "trials", "best on dev", "started", "billed calls", "billed tokens"],
            [
                [
                    row.name,
                    row.status,
                    f"{standing.done:,} of {standing.trials:,}",
                    "-" if standing.best is None else f"{standing.best:.1%}",
                    moment(row.created),
                    f"{billed.calls:,}",
                    f"{billed.tokens:,}",
                ]
                for row, standing, billed in found
            ],
        )
    else:
        print_text("no studies yet; try: inferloom search demo --name first")


@app.command("show")
def show(
    name: Name,
    yaml: Annotated[bool, typer.Option("--yaml", help="Its winner as YAML.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show what a study found."""
    from inferloom.cli.study_table import show_study

    show_study(_record(name, db).row, yaml, json, where="study show")


@app.command("report")
def write_html(
    name: Name,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file; an older one is replaced.")] = Path(
        "report.html"
    ),
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write what a study found as one HTML file: front, history, choices, every item with its candidates."""
    from inferloom.cli.study_table import result_of
    from inferloom.search.record import StudyRecord
    from inferloom.search.reporting import write_report

    with _reading(db) as store:
        record = StudyRecord.find(store, name)
        result = result_of(record, "study report")
        try:
            expected = right_answers(record.job)
        except InferloomError:
            # The data may have moved since; the report is worth having without the right answers.
            expected = {}
        written = write_report(result, out, store, expected)
    report({"study": name, "report": str(written)}, f"wrote {written}", json)


@app.command("watch")
def watch(
    name: Name,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often to look.")] = 2.0,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Follow a study that another process runs: front, spend, rate, time left. Ends when it ends."""
    from inferloom.cli.study_table import print_study
    from inferloom.search.progress import watching
    from inferloom.search.watch import watch as follow

    with _reading(db) as store:
        with watching(err()) as progress:
            record = follow(store, name, progress, every=every)
        billed = store.study_usage(name).billed
    if json:
        print_json({"study": name, "status": record.row.status, "billed": billed.to_json()})
    elif record.finished and record.result is not None:
        print_study(record.result)
    else:
        print_text(f"the study `{name}` has ended (status: {record.row.status}); inferloom study resume {name}")


@app.command("compare")
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME NAME...", help="Two studies or more.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show studies side by side, and how their winners differ on the items that both were tested on."""
    from inferloom.cli.study_table import print_side_by_side, result_of
    from inferloom.search.record import StudyRecord
    from inferloom.search.versus import versus

    twice = next((name for name in names if names.count(name) > 1), None)
    if len(names) < 2 or twice is not None:
        said = f"`{twice}` is named twice" if twice is not None else f"only `{names[0]}` is named"
        raise SpecError(f"{said}; must be two studies or more, each once", where="study compare")
    with _reading(db) as store:
        records = [StudyRecord.find(store, name) for name in names]
        results = [result_of(record, "study compare") for record in records]
        pairs = [versus(store, first, second) for first, second in combinations(records, 2)]
    if json:
        print_json(
            {
                "studies": [_summary(result) for result in results],
                "differences": [pair.to_json() for pair in pairs],
            }
        )
        return
    print_side_by_side(results)
    for pair in pairs:
        print_text(pair.sentence)


def _summary(result: StudyResult) -> dict[str, JsonValue]:
    whole = result.to_json()
    kept = ("study", "winner", "verdict", "billed", "test_touches", "sizes")
    return {**{name: whole[name] for name in kept}, "trials": len(result.trials)}


@app.command("export")
def export(
    name: Name,
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file to write, .json (all of it) or .csv (scores); must not exist."),
    ],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write a study to a file: job, result, trials and the score of every item, or the scores alone."""
    from inferloom.search.record import StudyRecord, study_json

    check_new(path, ".json", ".csv", where="study export")
    with _reading(db) as store:
        record = StudyRecord.find(store, name)
        rows = store.evaluations(name)
    if path.suffix == ".json":
        written = jsonlib.dumps(study_json(record, rows), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    else:
        written = _csv(rows)
    write_new(path, written)
    report({"written": len(rows), "path": str(path)}, f"wrote {count(len(rows), 'score')} to {path}", json)


def _csv(rows: Sequence[EvaluationRow]) -> str:
    import csv
    import io

    from inferloom.search.record import ITEM_COLUMNS, item_json

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ITEM_COLUMNS)
    writer.writeheader()
    writer.writerows(item_json(row) for row in rows)
    return text.getvalue()


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Delete a study with its scores and Optuna's copy; what it drew stays in the bank."""
    from inferloom.search.record import delete_study

    record = _record(name, db)
    if not yes:
        if json or not sys.stdin.isatty():
            raise SetupError(
                f"standard input is no terminal to ask at whether the study `{name}` may go; give --yes"
                if not json
                else f"`--json` asks nothing; give --yes to delete the study `{name}`",
                where="study delete",
            )
        asked = f"Delete the study `{name}` (status: {record.row.status}) and its scores?"
        if not typer.confirm(asked, err=True):
            print_text(f"the study `{name}` was not deleted")
            return
    store = open_store(db)
    try:
        scores = delete_study(store, name)
    finally:
        store.close()
    sentence = (
        f"deleted the study `{name}` with {count(scores, 'score')}; the bank keeps its completions "
        "(inferloom bank prune removes such), and its looks at the test split stay counted"
    )
    report({"study": name, "scores": scores}, sentence, json)


@app.command("resume")
def resume(
    name: Name,
    out: Out = Path(),
    max_billed: Limits = None,
    workers: WorkerCount = None,
    ray: Ray = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Go on with a study where it broke off, by the job that is stored with it; the job's file is not needed."""
    _go_on(_record(name, db).job, name, "resume", max_billed, hands(workers, ray), out, db, json)


@app.command("extend")
def extend(
    name: Name,
    trials: Annotated[
        int,
        typer.Option("--trials", metavar="N", min=1, max=100_000, help="How many trials it is to have in all."),
    ],
    out: Out = Path(),
    max_billed: Limits = None,
    workers: WorkerCount = None,
    ray: Ray = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Give a study more trials: the ones that it has stay, then it chooses, tests and reports anew.

    The test split is looked at once more, which is counted and said.
    """
    _go_on(_record(name, db).extended(trials), name, "extend", max_billed, hands(workers, ray), out, db, json)


def _go_on(
    job: SearchJob,
    name: str,
    command: str,
    max_billed: list[str] | None,
    workers: Workers | None,
    out: Path,
    db: str,
    json: bool,
) -> None:
    job = limited(job, max_billed, f"study {command}")
    conduct(job, name, ["study", "resume", name], out=out, workers=workers, db=db, json=json)


@contextmanager
def _reading(db: str) -> Iterator[Store]:
    store = open_to_read(db)
    try:
        yield store
    finally:
        store.close()


def _record(name: str, db: str) -> StudyRecord:
    """A study by its name; a database that is not there is not made for it.

    Raises:
        UnknownNameError: There is none.
    """
    from inferloom.search.record import StudyRecord

    with _reading(db) as store:
        return StudyRecord.find(store, name)
