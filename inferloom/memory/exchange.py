"""Sheets as files: JSON for programs, Markdown for people to read, edit and bring back.

In Markdown an entry is a heading with its kind and id, a line of its counters, what it is found by as a quotation, and
its text in a fence. A person may add entries without an id and counters, or reword any.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from inferloom.core.errors import DataError, UnknownNameError
from inferloom.core.memory import KINDS, Entry
from inferloom.core.types import Json
from inferloom.memory.applying import unfit

_HEADING = re.compile(r"## (?P<kind>\w+)(?: `(?P<id>[^`\s]+)`)?\s*")
_COUNTERS = re.compile(r"(helpful|harmful|used) (\d+)")
_FENCE = re.compile(r"(?P<ticks>`{3,})\w*\s*")


def to_json(name: str, version: int, entries: Sequence[Entry]) -> str:
    """A sheet as a JSON document."""
    document = {"memory": name, "version": version, "entries": [asdict(entry) for entry in entries]}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_markdown(name: str, version: int, entries: Sequence[Entry]) -> str:
    """A sheet as a Markdown document, kind by kind."""
    parts = [f"# Memory {' '.join(name.split())}, version {version}\n"]
    for entry in sorted(entries, key=lambda entry: KINDS.index(entry.kind)):
        ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", entry.text)), default=0))
        key = "".join(f"> {line}\n" for line in entry.key.split("\n")) + "\n" if entry.key else ""
        parts.append(
            f"## {entry.kind} `{entry.id}`\n\nhelpful {entry.helpful}, harmful {entry.harmful}, used {entry.used}\n\n"
            f"{key}{ticks}\n{entry.text}\n{ticks}\n"
        )
    return "\n".join(parts)


def from_text(text: str, where: str) -> list[Entry]:
    """The entries of a document of either kind.

    Raises:
        DataError: It is neither, or an entry cannot be one; `where` names the file and the place.
        UnknownNameError: An entry is of no known kind.
    """
    read = _from_json if text.lstrip().startswith("{") else _from_markdown
    entries = read(text, where)
    for number, entry in enumerate(entries, 1):
        reason = "" if entry.kind == "sheet" and entry.text.strip() else unfit(entry.kind, entry.key, entry.text)
        if reason:
            raise DataError(f"the entry cannot be kept: {reason}", where=f"{where}: entry {number}")
    if len({entry.id for entry in entries}) < len(entries):
        raise DataError("two entries have the same id; leave the id out of new ones", where=where)
    return entries


def _from_json(text: str, where: str) -> list[Entry]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=where) from None
    rows = document.get("entries")
    if not isinstance(rows, list):
        raise DataError("the document has no list `entries`", where=where)
    return [_entry(row, f"{where}: entry {number}") for number, row in enumerate(rows, 1)]


def _entry(row: Json, where: str) -> Entry:
    if not isinstance(row, dict):
        raise DataError("an entry must be a mapping with `kind` and `text`", where=where)
    kind, text, key = row.get("kind"), row.get("text"), row.get("key", "")
    if not isinstance(text, str) or not isinstance(key, str):
        raise DataError("an entry's `text` and `key` must be texts", where=where)
    made = _new(kind, row.get("id"), where)
    numbers: dict[str, float] = {}
    for field in ("helpful", "harmful", "used", "created", "last_used", "expires"):
        value = row.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise DataError(f"`{field}` is `{value}`; must be a number from 0", where=where)
        numbers[field] = int(value) if field in ("helpful", "harmful", "used") else float(value)
    run = row.get("run", "")
    changed: Mapping[str, object] = {**numbers, "key": key, "text": text, "run": run if isinstance(run, str) else ""}
    return replace(made, **changed)  # type: ignore[arg-type]  # each was checked above


def _new(kind: Json, id: Json, where: str) -> Entry:
    if kind not in KINDS:
        raise UnknownNameError("kind of entry", str(kind), KINDS, where=where)
    fresh = id if isinstance(id, str) and id else uuid.uuid4().hex[:12]
    return Entry(id=fresh, kind=kind, key="", text="")


def _from_markdown(text: str, where: str) -> list[Entry]:
    entries: list[Entry] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        heading = _HEADING.fullmatch(lines[at])
        at += 1
        if heading is not None:
            entry, at = _markdown_entry(_new(heading["kind"], heading["id"], f"{where}:{at}"), lines, at, where)
            entries.append(entry)
    if not entries:
        raise DataError("no entry is in it; one begins with a line such as `## strategy`", where=where)
    return entries


def _markdown_entry(entry: Entry, lines: Sequence[str], at: int, where: str) -> tuple[Entry, int]:
    """The entry under a heading, and the line after it."""
    counters: dict[str, int] = {}
    key: list[str] = []
    place = f"{where}:{at}"
    while at < len(lines) and not _HEADING.fullmatch(lines[at]):
        line = lines[at]
        at += 1
        fence = _FENCE.fullmatch(line)
        if fence is None and line.startswith(">"):
            key.append(line.removeprefix(">").removeprefix(" "))
        elif fence is None:
            counters |= {name: int(number) for name, number in _COUNTERS.findall(line)}
        else:
            end = next((end for end in range(at, len(lines)) if lines[end].rstrip() == fence["ticks"]), None)
            if end is None:
                raise DataError(f"the {fence['ticks']} that begins the text is not closed", where=f"{where}:{at}")
            helpful, harmful, used = (counters.get(name, 0) for name in ("helpful", "harmful", "used"))
            counted = replace(entry, helpful=helpful, harmful=harmful, used=used)
            return replace(counted, key="\n".join(key), text="\n".join(lines[at:end])), end + 1
    raise DataError("an entry needs its text between two lines of ```", where=place)
