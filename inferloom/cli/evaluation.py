"""`inferloom eval`: a pipeline over a data set."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast, get_args

import typer

from inferloom.cli.options import (
    DEFAULT_DB,
    Db,
    Json,
    Namespace,
    Stream,
    keep_what_is_loaded,
    load_pipeline,
    open_store,
)
from inferloom.cli.output import count, err, print_json, print_text, usage_line
from inferloom.cli.run import PipelineArgument
from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.core.memory import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from inferloom.evaluation.data import DataSet, FieldName
    from inferloom.evaluation.evaluate import Evaluation, ItemResult
    from inferloom.evaluation.graders import GraderSpec
    from inferloom.evaluation.item import Item
    from inferloom.memory.scope import MemoryScope
    from inferloom.pipelines.run import Pipeline
    from inferloom.store import Store

Part = Literal["all", "dev", "confirm", "test"]


GraderOption = Annotated[
    str | None,
    typer.Option(
        "--grader",
        metavar="NAME|YAML",
        help="Who judges; exact for files. With parameters: 'judge: {model: openai:NAME}'.",
    ),
]


def evaluate(
    pipeline: PipelineArgument,
    data: Annotated[
        str, typer.Option("--data", metavar="FILE|pocket[:FAMILY]", help="A .jsonl or .csv file, or made tasks.")
    ],
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="FIELD=NAME", help="What the file calls a field, e.g. answer=target."),
    ] = None,
    grader: GraderOption = None,
    split: Annotated[
        str, typer.Option("--split", metavar="all|dev|confirm|test", help="Which part of the data.")
    ] = "all",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many items.")] = None,
    count_: Annotated[int, typer.Option("--count", min=1, help="How many items to make (made tasks only).")] = 200,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Items in work at once.")] = 32,
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="frozen|online",
            help="frozen: memories are only read. online: a fork of each learns, one item after the other.",
        ),
    ] = "frozen",
    order: Annotated[
        int | None, typer.Option("--order", metavar="SEED", help="Shuffles the items (online only).")
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    stream: Stream = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Run a pipeline over a data set and grade its answers."""
    stream = stream or uuid.uuid4().hex
    scope = _scope(memory, order, namespace, stream)
    loaded = load_data(data, fields or [], grader, limit, count_, where="eval")
    items = _part(loaded, split)
    from inferloom.models.client import Gateway
    from inferloom.pipelines.run import Pipeline, run_sync
    from inferloom.store import TouchRow

    spec = load_pipeline(pipeline)
    store = open_store(db)
    try:
        ready = Pipeline(spec, Gateway(store))
        keep_what_is_loaded()
        if split in ("all", "test"):
            store.write_sync(TouchRow(dataset=loaded.name, split="test", study="eval", created=time.time()))
        asked = _Asked(items, stream, split, concurrency, scope, order)
        done = run_sync(_evaluate(ready, asked, loaded, store, progress=not json))
        touches = store.touches(loaded.name)
    finally:
        store.close()
    if json:
        print_json(_document(ready.spec.hash, loaded.name, split, done, touches))
        return
    _print(done)
    if scope.protocol == "online":
        print_text(f"learned: inferloom memory list; the forks are in the namespace {scope.home}")
    if split in ("all", "test"):
        print_text(f"the test part of {loaded.name} has now been looked at {count(touches, 'time')}")


def _print(done: Evaluation) -> None:
    mean = done.mean
    if done.oracle:
        print_text("oracle: a step looked at the right answers, so this is a bound, not to be compared with the rest")
    print_text(f"score {mean.mean:.1%} (95% interval {mean.low:.1%} to {mean.high:.1%}, {count(mean.n, 'item')})")
    if done.halves is not None:
        early, late = done.halves
        print_text(
            f"first half of the stream {early.mean:.1%} ({early.low:.1%} to {early.high:.1%}),"
            f" last half {late.mean:.1%} ({late.low:.1%} to {late.high:.1%})"
        )
    print_text(f"nominal: {usage_line(done.usage)}")
    print_text(f"billed: {usage_line(done.billed)}; {done.wall_seconds:.1f} s")
    if done.grading.runs:
        unread = f"; {done.grading.unread:,} without a verdict" if done.grading.unread else ""
        print_text(f"grading, apart from that: {usage_line(done.grading.nominal)}{unread}")
    if done.failures:
        failed = done.failures[0]
        print_text(
            f"{count(len(done.failures), 'item')} failed and count as wrong; the first, {failed.item}: {failed.stopped}"
        )
    if done.ungraded:
        first = done.ungraded[0]
        print_text(
            f"{count(len(done.ungraded), 'item')} could not be graded and count as 0; "
            f"the first, {first.item}: {first.stopped}"
        )


def load_data(data: str, fields: list[str], grader: str | None, limit: int | None, made: int, *, where: str) -> DataSet:
    """The items that the options of a command name.

    Raises:
        UserError: An option or the data is wrong.
    """
    from inferloom.evaluation.data import DataSpec, FieldName, load_items

    judged = _grader(grader, where)

    if data == "pocket" or data.startswith("pocket:"):
        if fields:
            raise SpecError("`--field` goes with a file; made tasks have their fields", where=f"{where} --field")
        return load_items(DataSpec(procedural=data, count=made, grader=judged, limit=limit))
    mapping: dict[FieldName, str] = {}
    known = get_args(FieldName)
    for pair in fields:
        field, equals, name = pair.partition("=")
        if not equals or not name or field not in known:
            raise SpecError(
                f"`{pair}` must be FIELD=NAME with one of the fields {', '.join(known)}", where=f"{where} --field"
            )
        mapping[cast("FieldName", field)] = name
    return load_items(DataSpec(file=data, fields=mapping, grader=judged, limit=limit))


def _grader(text: str | None, where: str) -> GraderSpec | None:
    """A grader's name, or `name: {parameters}` in YAML."""
    if text is None or ":" not in text:
        return text
    from inferloom.pipelines.document import load_document

    data = load_document(text, name=f"{where} --grader").data
    if not isinstance(data, dict) or len(data) != 1 or not all(isinstance(value, dict) for value in data.values()):
        raise SpecError(f"`{text}` must be a grader's name or `NAME: {{PARAMETER: VALUE}}`", where=f"{where} --grader")
    return cast("GraderSpec", data)


def _part(data: DataSet, split: str) -> tuple[Item, ...]:
    if split not in get_args(Part):
        raise SpecError(f"the split is `{split}`; it must be one of {', '.join(get_args(Part))}", where="eval --split")
    if split == "all":
        return data.items
    from inferloom.evaluation.splits import SplitName, SplitSpec, split_items

    return split_items(data.items, SplitSpec(), name=data.name)[cast("SplitName", split)]


class _Asked(NamedTuple):
    """What is asked, and how."""

    items: tuple[Item, ...]
    stream: str
    split: str
    concurrency: int
    memory: MemoryScope
    order: int | None


def _scope(protocol: str, order: int | None, namespace: str, stream: str) -> MemoryScope:
    from inferloom.memory.scope import MemoryScope

    if protocol not in ("frozen", "online"):
        raise UnknownNameError("protocol", protocol, ("frozen", "online"), where="eval --memory")
    if protocol == "frozen":
        if order is not None:
            raise SpecError("`--order` goes with `--memory online`; otherwise no order matters", where="eval --order")
        return MemoryScope(namespace, "frozen")
    return MemoryScope(namespace, "online", fork=f"eval-{stream}" + ("" if order is None else f"/{order}"))


async def _evaluate(pipeline: Pipeline, asked: _Asked, data: DataSet, store: Store, *, progress: bool) -> Evaluation:
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from inferloom.evaluation.evaluate import evaluate as run_over

    with Progress(
        TextColumn("right so far {task.fields[right]}"),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
        disable=not progress,
    ) as bar:
        counted = _counting(bar.update, bar.add_task("", total=len(asked.items), right="-"))
        keep = _keeping(store, pipeline.spec.hash, asked)

        def on_item(result: ItemResult) -> None:
            keep(result)
            counted(result)

        try:
            return await run_over(
                pipeline,
                asked.items,
                grader=data.grader,
                store=store,
                stream=asked.stream,
                split=asked.split,
                concurrency=asked.concurrency,
                memory=asked.memory,
                order=asked.order,
                on_item=on_item,
                judges=lambda judge: type(pipeline)(judge, pipeline.gateway),
            )
        finally:
            await pipeline.gateway.aclose()


def _counting(update: Callable[..., None], task: object) -> Callable[[ItemResult], None]:
    scores: list[float] = []

    def on_item(result: ItemResult) -> None:
        scores.append(result.score)
        update(task, advance=1, right=f"{sum(scores) / len(scores):.0%}")

    return on_item


def _keeping(store: Store, pipeline: str, asked: _Asked) -> Callable[[ItemResult], None]:
    """Keeps every result among the scored runs, from which a router can learn.

    They are never read back by an evaluation: another one under the same stream runs again, and replaces them.
    """
    from inferloom.store import EvaluationRow

    def keep(result: ItemResult) -> None:
        if result.run:
            row = EvaluationRow(
                study=f"eval {pipeline[:12]} {asked.stream}",
                trial=0,
                split=asked.split,
                item=result.item,
                pipeline=pipeline,
                run=result.run,
                score=result.score,
                answer=result.answer,
                nominal=result.nominal,
                stopped=result.stopped,
                created=time.time(),
            )
            store.submit(row)

    return keep


def _document(pipeline: str, data: str, split: str, done: Evaluation, touches: int) -> dict[str, object]:
    mean = done.mean
    return {
        "pipeline": pipeline,
        "data": data,
        "split": split,
        "score": {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n},
        "oracle": done.oracle,
        "usage": done.usage.to_json(),
        "billed": done.billed.to_json(),
        "grading": done.grading.to_json(),
        "failed": len(done.failures),
        "ungraded": len(done.ungraded),
        "test_touches": touches,
        "wall_seconds": done.wall_seconds,
        "items": [
            {
                "item": result.item,
                "score": result.score,
                "answer": result.answer,
                "stopped": result.stopped,
                "run_id": result.run,
                "usage": result.nominal.to_json(),
                "position": result.position,
            }
            for result in done.results
        ],
    }
