"""`inferloom bank`: the completions that were received, and getting rid of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import check_new, count, print_json, print_table, print_text, report
from inferloom.core.errors import SetupError

app = typer.Typer(help="Look after the stored completions and prompts.")


@app.command("size")
def size(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Show how much is stored, by model."""
    store = open_to_read(db)
    try:
        found = store.bank_size()
    finally:
        store.close()
    if json:
        names = ("model", "fingerprint", "requests", "completions", "bytes")
        print_json([dict(zip(names, row, strict=True)) for row in found])
    elif found:
        print_table(
            ["model", "fingerprint", "requests", "completions", "kB"],
            [
                [model, fingerprint[:12], f"{requests:,}", f"{completions:,}", f"{size / 1000:,.1f}"]
                for model, fingerprint, requests, completions, size in found
            ],
        )
    else:
        print_text("the bank is empty")


@app.command("prune")
def prune(
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Only older ones.")
    ] = None,
    stream: Annotated[str | None, typer.Option("--stream", metavar="NAME", help="Only those of this stream.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Only those of this model.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Remove completions; what is asked for again is then drawn, and billed, again."""
    if not everything and older_than is None and stream is None and model is None:
        raise SetupError(
            "say what to remove: --older-than DAYS, --stream NAME, --model NAME or --all", where="bank prune"
        )
    store = open_to_read(db)
    try:
        removed = store.bank_prune(older_than_days=older_than, stream=stream, model=model)
    finally:
        store.close()
    report({"removed": removed}, f"removed {count(removed, 'completion')}", json)


@app.command("export")
def export(
    path: Annotated[Path, typer.Argument(help="The JSONL file to write; must not exist.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write every stored completion with its prompt to a JSONL file."""
    check_new(path, where="bank export")
    store = open_to_read(db)
    try:
        written = store.bank_export(path)
    finally:
        store.close()
    report({"written": written, "path": str(path)}, f"wrote {count(written, 'completion')} to {path}", json)


@app.command("forget")
def forget(
    text: Annotated[str, typer.Argument(help="Every stored prompt that contains this text goes, and what came of it.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Remove a text: prompts that contain it, their completions, texts of runs that had it, and what was learned."""
    if len(text.strip()) < 3:
        raise SetupError(
            f"the text to forget must have at least 3 characters but has {len(text.strip())}", where="bank forget"
        )
    from inferloom.memory.book import book_of

    store = open_to_read(db)
    try:
        forgotten = store.bank_forget(text)
        book = book_of(store)
        entries = asyncio.run(book.forget(text, [book.opened(row) for row in book.all()]))
    finally:
        store.close()
    from dataclasses import asdict

    figures = {**asdict(forgotten), "memory_entries": entries}
    report(
        figures,
        "removed or blanked: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items()),
        json,
    )
