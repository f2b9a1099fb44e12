"""A memory in use: its entries and their vectors in this process, kept up with the database, and how it is changed.

Reading asks the database for the newest version (one short query) and loads what changed since. A change is made on the
newest version and committed only if that is still the newest; otherwise it is made again on the newer one, so that
concurrent writers, here or in other processes, lose nothing.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from inferloom.core.errors import StorageError, UnknownNameError
from inferloom.core.memory import KINDS, Add, Commit, Entry, EntryKind, Operation, Rewrite, Rules, Update
from inferloom.memory.applying import Draft, apply
from inferloom.memory.index import VectorIndex
from inferloom.memory.masking import mask
from inferloom.memory.vectors import Vectors, searched, searched_text
from inferloom.store import Store
from inferloom.store.memories import Change, Delta, MemoryRow, VersionRow
from inferloom.store.writer import clean_text

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

T = TypeVar("T")

_OLD_VERSIONS = 4
"""Older versions kept in memory at once, for evaluations that read a frozen one."""
_ATTEMPTS = 1_000
_DAY = 86_400.0
_FIRST_WAIT = 0.002
_LONGEST_WAIT = 0.25


@dataclass(slots=True)
class Snapshot:
    """One version's entries, by id, and their vectors once somebody needed them."""

    version: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    indexes: dict[EntryKind, VectorIndex] | None = None

    def take(self, delta: Delta, vectors: Mapping[str, NDArray[float32]], version: int) -> None:
        """Go on to a later version."""
        for id in delta.removed:
            gone = self.entries.pop(id, None)
            if gone is not None and self.indexes is not None:
                self.indexes[gone.kind].remove([id])
        self.entries.update((entry.id, entry) for entry in delta.written)
        self.index(delta.written, vectors)
        self.version = version

    def index(self, entries: Iterable[Entry], vectors: Mapping[str, NDArray[float32]]) -> None:
        """Put entries' vectors where they can be found, if this snapshot has any."""
        if self.indexes is None:
            return
        for kind in KINDS:
            own = {entry.id: vectors[entry.id] for entry in entries if entry.kind == kind}
            if own:
                self.indexes[kind].add(own)

    def twin(self, kind: EntryKind, vector: NDArray[float32] | None, dedup: float | None) -> str | None:
        """The entry of a kind that is at least so near (cosine) to a unit vector, or None."""
        if vector is None or self.indexes is None or dedup is None:
            return None
        near = self.indexes[kind].nearest(vector, 1)
        return near[0][0] if near and near[0][1] >= dedup else None

    def nearest(
        self, query: NDArray[float32], k: int, kinds: Sequence[EntryKind], now: float
    ) -> list[tuple[Entry, float]]:
        """The k entries nearest to a unit vector of shape (dimensions,) that have not expired; it must have vectors."""
        assert self.indexes is not None
        wanted = k
        while True:
            found = [near for kind in kinds for near in self.indexes[kind].nearest(query, wanted)]
            found.sort(key=lambda near: (-near[1], near[0]))
            live = [(self.entries[id], cosine) for id, cosine in found]
            live = [near for near in live if not _expired(near[0], now)]
            if len(live) >= k or wanted >= len(self.entries):
                return live[:k]
            wanted *= 4


class Cheatsheet:
    """A named memory.

    Args:
        store: Its database.
        row: Which one it is.
        vectors: Makes and keeps the embeddings of its entries.
    """

    def __init__(self, store: Store, row: MemoryRow, vectors: Vectors) -> None:
        self.row = row
        self._store = store
        self._vectors = vectors
        self._newest = Snapshot(version=-1)
        self._older: OrderedDict[int, Snapshot] = OrderedDict()
        self._guard = threading.RLock()
        """Held while a snapshot is read or changed, never while anything is awaited."""
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def id(self) -> str:
        """Its id in the database."""
        return self.row.id

    def head(self) -> int:
        """The newest version.

        Raises:
            UnknownNameError: The memory is gone.
        """
        head = self._store.memories.head(self.id)
        if head is None:
            raise UnknownNameError("memory", self.row.name, [])
        return head

    async def entries(self, version: int | None = None, kinds: Sequence[EntryKind] = KINDS) -> list[Entry]:
        """What a version (the newest) holds, the oldest first, without expired entries."""
        now = time.time()
        found = await self._read(version, lambda snapshot: list(snapshot.entries.values()))
        live = [entry for entry in found if entry.kind in kinds and not _expired(entry, now)]
        return sorted(live, key=lambda entry: (entry.created, entry.id))

    async def nearest(
        self, text: str, k: int, version: int | None = None, kinds: Sequence[EntryKind] = KINDS
    ) -> list[tuple[Entry, float]]:
        """The k entries nearest to a text with their cosines, the nearest first, without expired entries."""
        version = self.head() if version is None else version
        if k < 1 or not await self._read(version, lambda snapshot: bool(snapshot.entries)):
            return []
        query, now = await self._vectors.of_query(text), time.time()
        return await self._read(version, lambda snapshot: snapshot.nearest(query, k, kinds, now), indexed=True)

    async def commit(
        self,
        operations: Sequence[Operation],
        rules: Rules,
        *,
        action: str = "changed",
        source: str | None = None,
        run: str | None = None,
        position: int | None = None,
        dropped: int = 0,
    ) -> Commit:
        """Apply operations to the newest version, all in one new version.

        Args:
            operations: What to do, in order.
            rules: Limit, de-duplication, masking.
            action: What the version's history says.
            source: What makes the change: a source that made one before makes none now.
            run: The run that it comes from.
            position: The place in a stream of questions.
            dropped: Proposals that were dropped before they came here; the version counts them.

        Raises:
            StorageError: The database takes no writes, or other writers were always faster.
            UnknownNameError: The memory is gone.
        """
        operations, masked = _prepared(operations, rules)
        if rules.dedup is not None:
            told = len(operations)
            operations = _without_repeats(operations)
            dropped += told - len(operations)
        adds = [operation for operation in operations if isinstance(operation, Add)] if rules.dedup is not None else []
        texts = [searched(add.kind, add.key, add.text) for add in adds]
        vectors = dict(zip(texts, await self._vectors.of(texts), strict=True)) if texts else {}

        def made(snapshot: Snapshot) -> Draft:
            return apply(
                snapshot.entries,
                operations,
                version=snapshot.version,
                now=time.time(),
                run=run or "",
                limit=rules.limit,
                life=None if rules.days is None else rules.days * _DAY,
                twin=lambda kind, key, text: snapshot.twin(kind, vectors.get(searched(kind, key, text)), rules.dedup),
            )

        async def attempt() -> Commit | None:
            draft = await self._read(None, made, indexed=bool(vectors))
            dropped_here = tuple(draft.dropped)
            if source is None and not (draft.written or draft.removed):
                return Commit(version=draft.version, dropped=dropped_here, masked=masked)
            row = VersionRow(
                memory=self.id,
                version=draft.version + 1,
                action=action,
                entries=len(draft.entries),
                tokens=draft.tokens,
                dropped=dropped + len(dropped_here),
                source=source,
                run=run,
                position=position,
                created=draft.now,
            )
            change = Change(row=row, written=list(draft.written.values()), removed=draft.removed)
            written = await asyncio.to_thread(self._store.memories.commit, change)
            if written is None:
                return None
            if written.repeated:
                return Commit(version=written.version, masked=masked, repeated=True)
            return Commit(
                version=written.version,
                applied=draft.applied,
                dropped=dropped_here,
                evicted=draft.evicted,
                masked=masked,
            )

        return await self._until_first(attempt)

    async def replace(
        self,
        change: Callable[[Mapping[str, Entry]], tuple[list[Entry], list[str]]],
        *,
        action: str,
        source: str | None = None,
    ) -> int:
        """Write entries and remove ids as a function of the newest version says; the newest version's number then.

        Args:
            change: From the sheet, by id, to (entries in their new state, ids that go).
            action: What the version's history says.
            source: What makes the change: a source that made one before makes none now.

        Raises:
            StorageError: The database takes no writes, or other writers were always faster.
        """

        async def attempt() -> int | None:
            seen, now = await self._read(None, lambda snapshot: (snapshot.version, dict(snapshot.entries)))
            written, removed = change(now)
            if source is None and not written and not removed:
                return seen
            left = {**now, **{entry.id: entry for entry in written}}
            for id in removed:
                del left[id]
            tokens = sum(entry.tokens for entry in left.values())
            row = VersionRow(
                memory=self.id,
                version=seen + 1,
                action=action,
                entries=len(left),
                tokens=tokens,
                source=source,
                created=time.time(),
            )
            new = Change(row=row, written=written, removed=removed)
            made = await asyncio.to_thread(self._store.memories.commit, new)
            return None if made is None else made.version

        return await self._until_first(attempt)

    def reload(self) -> None:
        """Read everything anew when it is needed next: something was deleted from older versions."""
        with self._guard:
            self._newest = Snapshot(version=-1)
            self._older.clear()

    async def _until_first(self, attempt: Callable[[], Awaitable[T | None]]) -> T:
        """Try until no other writer was faster; None says that one was."""
        wait = _FIRST_WAIT
        # Writers of one process take turns; only those of other processes can come in between.
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            for _ in range(_ATTEMPTS):
                made = await attempt()
                if made is not None:
                    return made
                await asyncio.sleep(random.uniform(0, wait))
                wait = min(2 * wait, _LONGEST_WAIT)
        raise StorageError(f"memory `{self.row.name}`: other writers were faster {_ATTEMPTS} times")

    async def _read(self, version: int | None, read: Callable[[Snapshot], T], *, indexed: bool = False) -> T:
        """What `read` makes of a version (the newest), with vectors where they are wanted.

        It is called at once and under the guard: a snapshot goes on to later versions whenever somebody needs those.
        """
        head = self.head() if version is None else version
        while True:
            with self._guard:
                snapshot = self._base(head)
                since = snapshot.version
                known = snapshot.indexes is not None
                if since == head and (known or not indexed):
                    return read(snapshot)
                old = list(snapshot.entries.values()) if indexed and not known else []
            delta = await asyncio.to_thread(self._changes, since, head)
            vectors = await self._vectors_of([*old, *delta.written] if indexed or known else [])
            with self._guard:
                if snapshot.version == since and (snapshot.indexes is not None) == known:
                    if indexed and not known:
                        snapshot.indexes = {kind: VectorIndex() for kind in KINDS}
                        snapshot.index(old, vectors)
                    snapshot.take(delta, vectors, head)
                    return read(snapshot)

    def _base(self, version: int) -> Snapshot:
        """The snapshot from which a version is reached: the running one, or an older one's own."""
        if version >= self._newest.version:
            return self._newest
        snapshot = self._older.get(version)
        if snapshot is None:
            snapshot = self._older[version] = Snapshot(version=-1)
            while len(self._older) > _OLD_VERSIONS:
                self._older.popitem(last=False)
        self._older.move_to_end(version)
        return snapshot

    def _changes(self, since: int, until: int) -> Delta:
        if since < 0:
            return Delta(self._store.memories.entries(self.id, until), [])
        return self._store.memories.delta(self.id, since, until) if since < until else Delta([], [])

    async def _vectors_of(self, entries: Sequence[Entry]) -> dict[str, NDArray[float32]]:
        if not entries:
            return {}
        vectors = await self._vectors.of([searched_text(entry) for entry in entries])
        return {entry.id: vector for entry, vector in zip(entries, vectors, strict=True)}


def _prepared(operations: Sequence[Operation], rules: Rules) -> tuple[list[Operation], int]:
    """Operations with texts that may be written: cleaned, personal data masked."""
    masked = 0

    def fit(text: str) -> str:
        nonlocal masked
        text = clean_text(text)
        if not rules.mask:
            return text
        text, count = mask(text)
        masked += count
        return text

    def prepared(operation: Operation) -> Operation:
        if isinstance(operation, Add):
            return replace(operation, key=fit(operation.key), text=fit(operation.text))
        if isinstance(operation, Update):
            key = None if operation.key is None else fit(operation.key)
            return replace(operation, key=key, text=None if operation.text is None else fit(operation.text))
        if isinstance(operation, Rewrite):
            return replace(operation, text=fit(operation.text))
        return operation

    return [prepared(operation) for operation in operations], masked


def _without_repeats(operations: Sequence[Operation]) -> list[Operation]:
    """Operations without additions that one before them makes already."""
    kept: list[Operation] = []
    seen: set[Add] = set()
    for operation in operations:
        if isinstance(operation, Add):
            if operation in seen:
                continue
            seen.add(operation)
        kept.append(operation)
    return kept


def _expired(entry: Entry, now: float) -> bool:
    return entry.expires is not None and entry.expires <= now
