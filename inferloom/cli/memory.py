"""`inferloom memory`: what pipelines have learned, version by version."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_store, open_to_read
from inferloom.cli.output import (
    check_new,
    count,
    moment,
    print_json,
    print_pairs,
    print_table,
    print_text,
    report,
    short,
    write_new,
)
from inferloom.core.errors import SetupError, SpecError, UnknownNameError
from inferloom.core.memory import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from inferloom.core.memory import Entry
    from inferloom.memory.book import Difference, MemoryBook, Resolution
    from inferloom.memory.sheet import Cheatsheet
    from inferloom.store.memories import VersionRow

T = TypeVar("T")
app = typer.Typer(help="Read, compare and mend what pipelines have learned.")

Address = Annotated[
    str, typer.Argument(metavar="MEMORY", help="[NAMESPACE/]NAME, and @VERSION where an older one is meant.")
]


@app.command("list")
def list_memories(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List every memory."""
    with _book(db, reads=True) as book:
        rows = [(row, book.store.memories.versions(row.id)[0]) for row in book.all()]
    if json:
        print_json(
            [{**asdict(row), "entries": newest.entries, "tokens": newest.tokens} for row, newest in rows],
        )
        return
    if not rows:
        print_text("no memories yet; a pipeline with the node `curate` makes one (inferloom nodes curate)")
        return
    print_table(
        ["memory", "version", "entries", "tokens", "changed", "began as"],
        [
            [
                _place(row.namespace, row.name),
                str(row.head),
                f"{newest.entries:,}",
                f"{newest.tokens:,}",
                moment(newest.created),
                "a fork" if row.parent else "empty",
            ]
            for row, newest in rows
        ],
    )


@app.command("show")
def show(
    memory: Address,
    history: Annotated[bool, typer.Option("--history", help="Its versions instead of its entries.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most entries or versions to show.")] = 40,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show a memory's entries with their counters, or its history."""
    with _book(db, reads=True) as book:
        sheet, version = _sheet(book, memory)
        versions = book.versions(sheet)
        entries = _wait(lambda: sheet.entries(version))
    if json:
        told = [asdict(one) for one in versions] if history else [asdict(entry) for entry in entries]
        print_json({"memory": _place(sheet.row.namespace, sheet.row.name), "version": version, "rows": told})
        return
    if history:
        _show_history(versions[:limit])
        return
    protocol = {"learned by": _protocol(sheet.row.protocol)} if sheet.row.protocol else {}
    tokens = sum(entry.tokens for entry in entries)
    about = {"version": f"{version} of {versions[0].version}", "entries": f"{len(entries):,}", "tokens": f"{tokens:,}"}
    print_pairs({"memory": _place(sheet.row.namespace, sheet.row.name), **about, **protocol})
    if entries:
        best = sorted(entries, key=lambda entry: (-entry.worth, -entry.used, entry.created))
        print_table(
            ["id", "kind", "helped", "harmed", "used", "when", "text"],
            [
                [
                    entry.id,
                    entry.kind,
                    str(entry.helpful),
                    str(entry.harmful),
                    str(entry.used),
                    short(entry.key),
                    short(entry.text),
                ]
                for entry in best[:limit]
            ],
        )
    if len(entries) > limit:
        print_text(f"and {count(len(entries) - limit, 'more')}; --limit shows them, `memory export` writes all")


def _show_history(versions: Sequence[VersionRow]) -> None:
    print_table(
        ["version", "made", "by", "entries", "tokens", "dropped", "run"],
        [
            [
                str(row.version),
                moment(row.created),
                row.action if row.position is None else f"{row.action} at {row.position}",
                f"{row.entries:,}",
                f"{row.tokens:,}",
                str(row.dropped),
                (row.run or "-")[:12],
            ]
            for row in versions
        ],
    )


@app.command("diff")
def diff(
    before: Address,
    after: Annotated[
        str | None, typer.Argument(metavar="MEMORY", help="What it is compared with; without it the newest version.")
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show what differs between two versions, or between two memories."""
    from inferloom.memory.book import difference

    with _book(db, reads=True) as book:
        old, old_version = _sheet(book, before)
        new, new_version = (old, old.head()) if after is None else _sheet(book, after)
        sides = [
            {entry.id: entry for entry in entries}
            for entries in (_wait(lambda: old.entries(old_version)), _wait(lambda: new.entries(new_version)))
        ]
    found = difference(*sides)
    if json:
        print_json(asdict(found))
    else:
        _print_difference(found)


def _print_difference(found: Difference) -> None:
    for entry in found.removed:
        print_text(f"- {_line(entry)}")
    for entry in found.added:
        print_text(f"+ {_line(entry)}")
    for old, new in found.changed:
        print_text(f"- {_line(old)}\n+ {_line(new)}")
    for old, new in found.counted:
        gains = [
            f"{name} {getattr(old, name)} -> {getattr(new, name)}"
            for name in ("helpful", "harmful", "used")
            if getattr(old, name) != getattr(new, name)
        ]
        print_text(f"  {_line(new)}  ({', '.join(gains) or 'times'})")
    if not any(asdict(found).values()):
        print_text("no difference")


@app.command("rollback")
def rollback(memory: Address, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Make a new version that holds what MEMORY@VERSION held; none in between is lost."""
    if "@" not in memory:
        raise SpecError(f"`{memory}` must be MEMORY@VERSION, the version to go back to", where="memory rollback")
    with _book(db) as book:
        sheet, version = _sheet(book, memory)
        made = _wait(lambda: book.roll_back(sheet, version))
    report({"version": made}, f"version {made} holds what version {version} held", json)


@app.command("fork")
def fork(
    memory: Address,
    name: Annotated[str, typer.Argument(metavar="NEW", help="[NAMESPACE/]NAME of the new memory.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Make a new memory that begins as a version of another and goes its own way."""
    namespace, new, given = _parts(name)
    if given is not None:
        raise SpecError(f"`{name}` is a new memory; it has no version yet", where="memory fork")
    with _book(db) as book:
        sheet, version = _sheet(book, memory)
        made = book.fork(sheet, new, namespace, version=version)
        head = made.head()
    report({"memory": _place(namespace, new), "version": head}, f"{_place(namespace, new)} begins as {memory}", json)


@app.command("merge")
def merge(
    memory: Address,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The memory that is brought in.")],
    keep: Annotated[
        str, typer.Option("--keep", metavar="both|ours|theirs", help="Whose wording stays where both changed one.")
    ] = "both",
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Bring what OTHER learned into MEMORY, as of their last common version; counters add up."""
    resolutions = ("both", "ours", "theirs")
    if keep not in resolutions:
        raise UnknownNameError("way to keep", keep, resolutions, where="memory merge --keep")
    with _book(db) as book:
        (sheet, before), (theirs, version) = _sheet(book, memory), _sheet(book, other)
        for address, head, seen in ((memory, sheet.head(), before), (other, theirs.head(), version)):
            if head != seen:
                raise SpecError(
                    f"`{address}` is not the newest version; a merge joins the newest", where="memory merge"
                )
        made = _wait(lambda: book.merge(sheet, theirs, cast("Resolution", keep)))
        changed = _wait(lambda: book.difference(sheet, before, made))
    added, gone = len(changed.added), len(changed.removed)
    sentence = (
        f"version {made}: {count(added, 'entry', 'entries')} more, {gone:,} gone, {len(changed.counted):,} counted on"
    )
    report({"version": made, "added": added, "removed": gone}, sentence, json)


@app.command("export")
def export(
    memory: Address,
    path: Annotated[Path, typer.Argument(help="The file to write, .json or .md; must not exist.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write a memory to a JSON or Markdown file, which `memory import` reads."""
    from inferloom.memory.exchange import to_json, to_markdown

    check_new(path, ".json", ".md", where="memory export")
    with _book(db, reads=True) as book:
        sheet, version = _sheet(book, memory)
        entries = _wait(lambda: sheet.entries(version))
    written = (to_json if path.suffix == ".json" else to_markdown)(sheet.row.name, version, entries)
    write_new(path, written)
    told = count(len(entries), "entry", "entries")
    report({"written": len(entries), "path": str(path)}, f"wrote {told} to {path}", json)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .json or .md file as `memory export` writes it.")],
    memory: Annotated[str, typer.Argument(metavar="MEMORY", help="[NAMESPACE/]NAME; made where it is not there.")],
    mask: Annotated[bool, typer.Option(help="Mask e-mail addresses, phone and card numbers and keys.")] = True,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Bring a file's entries into a memory; those whose id is there are replaced."""
    from inferloom.memory.exchange import from_text

    namespace, name, version = _parts(memory)
    if version is not None:
        raise SpecError("entries are brought into the newest version; leave @ out", where="memory import")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise SetupError("is not UTF-8 text", where=str(path)) from None
    entries = from_text(text, str(path))
    with _book(db) as book:
        made, masked = _wait(lambda: book.bring(book.open(name, namespace), entries, source=path.name, mask=mask))
    told = f"version {made}: {count(len(entries), 'entry', 'entries')} from {path}"
    report(
        {"version": made, "entries": len(entries), "masked": masked},
        told + (f"; {masked} masked" if masked else ""),
        json,
    )


@app.command("forget")
def forget(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Every entry that contains it goes from every version.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="MEMORY", help="Only in this memory; without TEXT all of it.")
    ] = None,
    expired: Annotated[bool, typer.Option("--expired", help="The entries whose time is over.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Delete entries, or a whole memory, from every version, for good."""
    if (text is None and memory is None and not expired) or (text is not None and expired):
        raise SpecError("say what to forget: TEXT, --memory MEMORY or --expired", where="memory forget")
    with _book(db) as book:
        sheets = [_sheet(book, memory)[0]] if memory is not None else [book.opened(row) for row in book.all()]
        if text is not None:
            gone = _wait(lambda: book.forget(text, sheets))
        elif expired:
            gone = sum(book.expire(sheet, time.time()) for sheet in sheets)
        else:
            gone = len(_wait(sheets[0].entries))
            book.remove(sheets[0])
    report({"forgotten": gone}, f"forgot {count(gone, 'entry', 'entries')}", json)


@contextmanager
def _book(db: str, *, reads: bool = False) -> Iterator[MemoryBook]:
    from inferloom.memory.book import book_of

    store = open_to_read(db) if reads else open_store(db)
    try:
        yield book_of(store)
    finally:
        store.close()


def _parts(address: str) -> tuple[str, str, int | None]:
    """(namespace, name, version) of an address."""
    place, at, version = address.rpartition("@")
    if not at:
        place = address
    elif not version.isdecimal():
        raise SpecError(f"the version is `{version}`; must be a whole number from 0", where=f"memory {address}")
    namespace, _, name = place.rpartition("/")
    return namespace or DEFAULT_NAMESPACE, name, int(version) if at else None


def _sheet(book: MemoryBook, address: str) -> tuple[Cheatsheet, int]:
    """A memory and the version that an address means.

    Raises:
        UnknownNameError: There is no such memory.
        UserError: There is no such version.
    """
    namespace, name, version = _parts(address)
    if book.store.memories.find(namespace, name) is None:
        known = [_place(row.namespace, row.name) for row in book.all()]
        raise UnknownNameError("memory", _place(namespace, name), known)
    sheet = book.open(name, namespace, create=False)
    return sheet, book.checked(sheet, version)


def _place(namespace: str, name: str) -> str:
    return name if namespace == DEFAULT_NAMESPACE else f"{namespace}/{name}"


def _wait(work: Callable[[], Awaitable[T]]) -> T:
    import asyncio

    async def run() -> T:
        return await work()

    return asyncio.run(run())


def _protocol(text: str) -> str:
    """How an evaluation wrote to it, in a line."""
    return ", ".join(f"{name} {value}" for name, value in jsonlib.loads(text).items())


def _line(entry: Entry) -> str:
    return f"{entry.id} {entry.kind}: {short(entry.key)} | {short(entry.text)}"
