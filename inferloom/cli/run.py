"""`inferloom run`: one question through a pipeline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, Namespace, Stream, load_pipeline, open_store
from inferloom.cli.output import clean, count, print_json, print_text, remark, usage_line
from inferloom.core.errors import SetupError
from inferloom.core.memory import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from inferloom.pipelines.run import Pipeline, RunResult

PipelineArgument = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A pipeline's YAML file, or a preset's name.")
]


def run(
    pipeline: PipelineArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")],
    note: Annotated[
        list[str] | None, typer.Option("--note", help="Text put in front of the question; may be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Tell on standard error what each node does.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    stream: Stream = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Answer one question."""
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise SetupError("the question is empty", where="run")
    from inferloom.models.client import Gateway
    from inferloom.pipelines.run import Pipeline, run_sync

    spec = load_pipeline(pipeline)
    store = open_store(db)
    try:
        loaded = Pipeline(spec, Gateway(store))
        result = run_sync(_answer(loaded, text, stream, tuple(note or ()), namespace, watch))
    finally:
        store.close()
    if json:
        print_json(result.to_json())
        return
    if result.answer is None:
        remark("no candidate has an answer; the text of the first follows")
    print_text(result.text if result.answer is None else result.answer)
    remark(f"nominal: {usage_line(result.usage)}")
    if result.billed != result.usage:
        remark(f"billed: {usage_line(result.billed)}")
    if result.bound.calls:
        remark(f"{count(result.bound.calls, 'call')} of unknown outcome, at most {usage_line(result.bound)} more")
    if result.stopped:
        remark(f"stopped: {result.stopped}; this is the best answer so far")
    remark(f"run {result.run_id[:12]}, {result.wall_seconds:.1f} s; calls: inferloom runs show {result.run_id[:12]}")


async def _answer(
    pipeline: Pipeline, question: str, stream: str | None, notes: tuple[str, ...], namespace: str, watch: bool
) -> RunResult:
    """Run on the background loop, tell what happens if asked to, and close the models."""
    from inferloom.memory.scope import MemoryScope

    memory = MemoryScope(namespace)
    try:
        if not watch:
            return await pipeline.ainvoke(question, stream=stream, notes=notes, memory=memory)
        async for event in pipeline.astream(question, stream=stream, notes=notes, memory=memory):
            if event.result is not None:
                return event.result
            if event.kind not in ("token", "answer"):
                told = ", ".join(f"{name} {value}" for name, value in event.data.items())
                kind = "" if event.kind == "node" else f"{event.kind}: "
                remark(clean(f"{event.path}: {kind}{told}"))
        raise AssertionError("a run ends with its result")
    finally:
        await pipeline.gateway.aclose()
