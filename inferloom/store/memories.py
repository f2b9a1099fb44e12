"""Memories in the database: versions that never change, entries that stand in a range of versions, and vectors.

A version is written whole or not at all, and only by who has seen the one before it: on both databases the row of the
memory is taken first (`head` must still be what the writer saw), so of two writers one is told to look again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from inferloom.core.errors import UnknownNameError
from inferloom.core.memory import Entry
from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.bank import in_chunks, run_job
from inferloom.store.writer import Writer

_MEMORIES = tables.table(tables.MemoryTable)
_VERSIONS = tables.table(tables.MemoryVersionTable)
_ENTRIES = tables.table(tables.MemoryEntryTable)
_VECTORS = tables.table(tables.VectorTable)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """A memory."""

    id: str
    namespace: str
    name: str
    head: int
    """The newest version; 0 is the empty sheet that a memory begins with, or what it was forked from."""
    parent: str | None = None
    parent_version: int | None = None
    protocol: str | None = None
    """How an evaluation wrote to it, as JSON."""
    created: float
    updated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One version of a memory."""

    memory: str
    version: int
    source: str | None = None
    run: str | None = None
    position: int | None = None
    action: str
    entries: int
    tokens: int
    dropped: int = 0
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the next version changes: entries in their new state, and ids of those that go."""

    row: VersionRow
    """The version; who writes it must have seen the one before."""
    written: Sequence[Entry] = ()
    removed: Sequence[str] = ()


class Written(NamedTuple):
    """A version that stands in the database."""

    version: int
    repeated: bool
    """Whether its source had made it before."""


class Delta(NamedTuple):
    """What differs between two versions: entries that stand in the later one anew, and ids that do not any more."""

    written: list[Entry]
    removed: list[str]


class Memories:
    """The part of the store that concerns memories."""

    def __init__(self, access: Access, writer: Writer) -> None:
        self._access = access
        self._writer = writer

    def find(self, namespace: str, name: str) -> MemoryRow | None:
        """A memory by its names, or None."""
        columns = _MEMORIES.c
        row = self._access.row(select(_MEMORIES).where(columns.namespace == namespace, columns.name == name))
        return None if row is None else MemoryRow(**row)

    def get(self, id: str) -> MemoryRow:
        """A memory by its id.

        Raises:
            UnknownNameError: It is gone.
        """
        row = self._access.row(select(_MEMORIES).where(_MEMORIES.c.id == id))
        if row is None:
            raise UnknownNameError("memory", id, [])
        return MemoryRow(**row)

    def all(self, namespace: str | None = None) -> list[MemoryRow]:
        """Every memory, by namespace and name."""
        statement = select(_MEMORIES).order_by(_MEMORIES.c.namespace, _MEMORIES.c.name)
        if namespace is not None:
            statement = statement.where(_MEMORIES.c.namespace == namespace)
        return [MemoryRow(**row) for row in self._access.rows(statement)]

    def create(self, namespace: str, name: str) -> MemoryRow:
        """A new empty memory; the one that is there where another writer was first."""
        return self._made(_new(namespace, name), None, 0)

    def fork(
        self, origin: MemoryRow, version: int, namespace: str, name: str, *, protocol: str | None = None
    ) -> MemoryRow:
        """A new memory that begins with a version of another; the one that is there where it exists already."""
        row = replace(_new(namespace, name), parent=origin.id, parent_version=version, protocol=protocol)
        return self._made(row, origin.id, version)

    def _made(self, row: MemoryRow, origin: str | None, version: int) -> MemoryRow:
        def work(connection: Connection) -> MemoryRow:
            # PostgreSQL's driver counts rows of such an insert as -1; what is returned says whether there was one.
            made = _insert_or_keep(connection, _MEMORIES).values(asdict(row)).returning(_MEMORIES.c.id)
            if connection.execute(made).first() is None:
                columns = _MEMORIES.c
                here = (columns.namespace == row.namespace, columns.name == row.name)
                return MemoryRow(**connection.execute(select(_MEMORIES).where(*here)).mappings().one())
            first = VersionRow(memory=row.id, version=0, action="created", entries=0, tokens=0, created=row.created)
            if origin is not None:
                entries, tokens = _copy(connection, origin, version, row.id)
                first = replace(first, action="forked", entries=entries, tokens=tokens)
            connection.execute(insert(_VERSIONS).values(asdict(first)))
            return row

        return run_job(self._writer, work)

    def entries(self, memory: str, version: int) -> list[Entry]:
        """What a version holds, the oldest first."""
        return self._entries(select(_ENTRIES).where(_live(memory, version)))

    def delta(self, memory: str, since: int, until: int) -> Delta:
        """What changed after version `since` up to version `until`."""
        columns = _ENTRIES.c
        written = self._entries(select(_ENTRIES).where(_live(memory, until), columns.added > since))
        gone = select(columns.entry).where(
            columns.memory == memory, columns.added <= since, columns.removed > since, columns.removed <= until
        )
        kept = {entry.id for entry in written}
        removed = [str(row["entry"]) for row in self._access.rows(gone.distinct()) if row["entry"] not in kept]
        return Delta(written, removed)

    def head(self, memory: str) -> int | None:
        """The newest version; None where the memory is gone."""
        row = self._access.row(select(_MEMORIES.c.head).where(_MEMORIES.c.id == memory))
        return None if row is None else int(row["head"])

    def versions(self, memory: str) -> list[VersionRow]:
        """Every version, the newest first."""
        statement = select(_VERSIONS).where(_VERSIONS.c.memory == memory).order_by(_VERSIONS.c.version.desc())
        return [VersionRow(**row) for row in self._access.rows(statement)]

    def written_by(self, run: str) -> list[tuple[MemoryRow, VersionRow]]:
        """The versions that a run made, in their order, with their memories; those of deleted memories are gone."""
        statement = select(_VERSIONS).where(_VERSIONS.c.run == run).order_by(_VERSIONS.c.created, _VERSIONS.c.version)
        versions = [VersionRow(**row) for row in self._access.rows(statement)]
        memories = {id: self.get(id) for id in {version.memory for version in versions}}
        return [(memories[version.memory], version) for version in versions]

    def version_before(self, memory: str, position: int) -> int:
        """The newest version that no question at this place of the stream, or after it, has made."""
        return self._newest(memory, or_(_VERSIONS.c.position.is_(None), _VERSIONS.c.position < position))

    def version_at(self, memory: str, moment: float) -> int:
        """The newest version at a time (Unix seconds)."""
        return self._newest(memory, _VERSIONS.c.created <= moment)

    def _newest(self, memory: str, condition: ColumnElement[bool]) -> int:
        columns = _VERSIONS.c
        newest = select(func.max(columns.version).label("version")).where(columns.memory == memory, condition)
        row = self._access.row(newest)
        return int(row["version"] or 0) if row is not None else 0

    def commit(self, change: Change) -> Written | None:
        """Write the next version; None where somebody else wrote it first.

        Raises:
            UnknownNameError: The memory is gone.
            StorageError: The database takes no writes.
        """
        return run_job(self._writer, lambda connection: _commit(connection, change))

    def remove(self, memory: str, vectors: Sequence[str]) -> None:
        """Delete a memory with all its versions, and the vectors of its texts (made anew where others need them)."""

        def work(connection: Connection) -> None:
            for owned, column in ((_ENTRIES, _ENTRIES.c.memory), (_VERSIONS, _VERSIONS.c.memory)):
                connection.execute(delete(owned).where(column == memory))
            connection.execute(delete(_MEMORIES).where(_MEMORIES.c.id == memory))
            for condition in in_chunks(_VECTORS.c.hash, vectors):
                connection.execute(delete(_VECTORS).where(condition))

        run_job(self._writer, work)
        self._writer.checkpoint()

    def purge(self, memory: str, entries: Sequence[str], vectors: Sequence[str]) -> None:
        """Delete entries and vectors from every version. Versions keep their numbers."""

        def work(connection: Connection) -> None:
            for condition in in_chunks(_ENTRIES.c.entry, entries):
                connection.execute(delete(_ENTRIES).where(_ENTRIES.c.memory == memory, condition))
            for condition in in_chunks(_VECTORS.c.hash, vectors):
                connection.execute(delete(_VECTORS).where(condition))

        run_job(self._writer, work)
        self._writer.checkpoint()

    def every_state(self, memory: str) -> list[Entry]:
        """Every wording and every state of counters that any version holds."""
        return self._entries(select(_ENTRIES).where(_ENTRIES.c.memory == memory))

    def vectors(self, embedder: str, hashes: Sequence[str]) -> dict[str, bytes]:
        """The vectors that are there, by hash."""
        found: dict[str, bytes] = {}
        for condition in in_chunks(_VECTORS.c.hash, hashes):
            statement = select(_VECTORS.c.hash, _VECTORS.c.vector).where(_VECTORS.c.embedder == embedder, condition)
            found.update((str(row["hash"]), bytes(row["vector"])) for row in self._access.rows(statement))
        return found

    def keep_vectors(self, embedder: str, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors by hash; those that are there stay."""
        if not vectors:
            return

        rows = [{"hash": hash, "embedder": embedder, "vector": vector} for hash, vector in vectors.items()]
        run_job(self._writer, lambda connection: connection.execute(_insert_or_keep(connection, _VECTORS), rows))

    def _entries(self, statement: Select[Any]) -> list[Entry]:
        ordered = statement.order_by(_ENTRIES.c.created, _ENTRIES.c.entry)
        return [_entry(row) for row in self._access.rows(ordered)]


def _commit(connection: Connection, change: Change) -> Written | None:
    row = change.row
    if row.source is not None:
        same = (_VERSIONS.c.memory == row.memory, _VERSIONS.c.source == row.source)
        made = connection.execute(select(_VERSIONS.c.version).where(*same)).scalar()
        if made is not None:
            return Written(int(made), repeated=True)
    taken = connection.execute(
        update(_MEMORIES)
        .where(_MEMORIES.c.id == row.memory, _MEMORIES.c.head == row.version - 1)
        .values(head=row.version, updated=row.created)
    )
    if taken.rowcount == 0:
        if connection.execute(select(_MEMORIES.c.head).where(_MEMORIES.c.id == row.memory)).first() is None:
            raise UnknownNameError("memory", row.memory, [])
        return None
    ended = [*change.removed, *(entry.id for entry in change.written)]
    for condition in in_chunks(_ENTRIES.c.entry, ended):
        here = (_ENTRIES.c.memory == row.memory, _ENTRIES.c.removed.is_(None), condition)
        connection.execute(update(_ENTRIES).where(*here).values(removed=row.version))
    if change.written:
        written = [_entry_columns(row.memory, row.version, entry) for entry in change.written]
        connection.execute(insert(_ENTRIES), written)
    connection.execute(insert(_VERSIONS).values(asdict(row)))
    return Written(row.version, repeated=False)


def _copy(connection: Connection, origin: str, version: int, memory: str) -> tuple[int, int]:
    """Copy what stands in a version into version 0 of another memory; how many, and their tokens."""
    columns = [column for column in _ENTRIES.c if column.name not in ("memory", "added", "removed")]
    names = ["memory", "added", "removed", *(column.name for column in columns)]
    standing = select(literal(memory), literal(0), null(), *columns).where(_live(origin, version))
    connection.execute(insert(_ENTRIES).from_select(names, standing))
    here = (_VERSIONS.c.memory == origin, _VERSIONS.c.version == version)
    size = connection.execute(select(_VERSIONS.c.entries, _VERSIONS.c.tokens).where(*here)).one()
    return int(size.entries), int(size.tokens)


def _insert_or_keep(connection: Connection, into: Table) -> sqlite.Insert:
    if connection.dialect.name == "sqlite":
        return sqlite.insert(into).on_conflict_do_nothing()
    # Both constructs have the same methods; the types differ in name only.
    return cast(sqlite.Insert, postgresql.insert(into).on_conflict_do_nothing())


def _live(memory: str, version: int) -> ColumnElement[bool]:
    columns = _ENTRIES.c
    return and_(
        columns.memory == memory, columns.added <= version, or_(columns.removed.is_(None), columns.removed > version)
    )


def _new(namespace: str, name: str) -> MemoryRow:
    now = time.time()
    return MemoryRow(id=uuid.uuid4().hex, namespace=namespace, name=name, head=0, created=now, updated=now)


def _entry(row: Mapping[str, object]) -> Entry:
    values = {name: value for name, value in row.items() if name not in ("memory", "entry", "added", "removed")}
    return Entry(id=str(row["entry"]), **values)  # type: ignore[arg-type]  # the columns are the fields


def _entry_columns(memory: str, version: int, entry: Entry) -> dict[str, object]:
    values = asdict(entry)
    return {"memory": memory, "entry": values.pop("id"), "added": version, "removed": None, **values}
