"""`inferloom search`: search a space of pipelines for the best under a cost. `study resume` goes on by the same way."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, keep_what_is_loaded, open_store
from inferloom.cli.output import err, print_json, print_text
from inferloom.core.errors import SetupError, SpecError

if TYPE_CHECKING:
    from inferloom.search.job import SearchJob
    from inferloom.search.result import StudyResult
    from inferloom.search.worker import Workers
    from inferloom.store import Store


Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where report.html and best.yaml go.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--max-billed", metavar="LIMIT=NUMBER", help="calls, tokens or usd that may really be spent."),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=256,
        help="Answer in N processes on this database, or on N workers of the --ray cluster; the trials stay the same.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Answer on a Ray cluster: auto, HOST:PORT, or local."),
]


def search(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A search job's YAML file, or demo.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The study's name; the same name goes on with it.")
    ] = None,
    out: Out = Path(),
    max_billed: Limits = None,
    workers: WorkerCount = None,
    ray: Ray = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Search a space of pipelines: on dev, compared afresh on confirm, reported on test."""
    from inferloom.search.job import load_job

    loaded = limited(load_job(job), max_billed, "search")
    study = name or loaded.name
    conduct(loaded, study, ["search", job, "--name", study], out=out, workers=hands(workers, ray), db=db, json=json)


def hands(count: int | None, ray: str | None) -> Workers | None:
    """Who answers beside this process, as `--workers` and `--ray` say.

    Raises:
        SetupError: There is no such cluster, or the package is missing.
    """
    from inferloom.search.worker import Workers

    if ray is not None:
        from inferloom.search.ray_cluster import ray_workers

        return ray_workers(ray, count)
    return None if count is None else Workers(count=count)


def conduct(
    job: SearchJob, study: str, command: list[str], *, out: Path, workers: Workers | None, db: str, json: bool
) -> None:
    """Run a search, or go on with it, and print and write what it found.

    Args:
        job: What to search.
        study: The study's name.
        command: The arguments that start it again, but for the database.
        out: The folder for the report and the winner.
        workers: Who answers beside this process.
        db: The database.
        json: Print the result as JSON.
    """
    from inferloom.pipelines.run import run_sync
    from inferloom.search.reporting import write_report

    _make(out)
    store = open_store(db)
    keep_what_is_loaded()
    try:
        result = run_sync(_run(job, store, study, _program([*command, "--db", db]), workers))
        report, best = write_report(result, out / "report.html", store, right_answers(job)), out / "best.yaml"
    finally:
        store.close()
    best.write_text(result.winner.pipeline_yaml, encoding="utf-8")
    if json:
        print_json({**result.to_json(), "report": str(report), "best": str(best)})
        return
    from inferloom.cli.study_table import print_study

    print_study(result)
    print_text(f"report: {report}")
    print_text(f"winner: {best}")
    print_text(f"next: {_program(['run', str(best), _question(job), '--db', db])}")


async def _run(job: SearchJob, store: Store, study: str, command: str, workers: Workers | None) -> StudyResult:
    from inferloom.search.progress import watching
    from inferloom.search.study import run_study

    with watching(err()) as progress:
        return await run_study(job, store, name=study, progress=progress, command=command, workers=workers)


def limited(job: SearchJob, limits: list[str] | None, command: str) -> SearchJob:
    """The job with the limits of the command line in place of its own."""
    if not limits:
        return job
    from pydantic import ValidationError

    from inferloom.search.job import MaxBilled

    pairs = dict(limit.partition("=")[::2] for limit in limits)
    try:
        return replace(job, spec=job.spec.model_copy(update={"max_billed": MaxBilled.model_validate(pairs)}))
    except ValidationError:
        raise SpecError(
            f"`{' '.join(limits)}` must be LIMIT=NUMBER with calls, tokens or usd and a number above 0, such as usd=5",
            where=f"{command} --max-billed",
        ) from None


def _make(folder: Path) -> None:
    """The folder for what is written at the end; better to know now that it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot be made: {error.strerror or error}", where=str(folder)) from None


def right_answers(job: SearchJob) -> dict[str, str]:
    """The right answers by item, for the report."""
    from inferloom.evaluation.data import load_items

    return {item.id: item.answer for item in load_items(job.spec.data, base=job.base).items}


def _question(job: SearchJob) -> str:
    """A question from the data, for the command that is worth typing next."""
    from inferloom.evaluation.data import load_items

    return load_items(job.spec.data, base=job.base).items[0].question


def _program(arguments: list[str]) -> str:
    """A command line to copy: by name where it is on the path, else as it was called."""
    if arguments[-2:] == ["--db", DEFAULT_DB]:
        arguments = arguments[:-2]
    return shlex.join(["inferloom" if shutil.which("inferloom") else sys.argv[0], *arguments])
