"""All memories of a database: opening, forking, merging, comparing, rolling back, forgetting.

A memory belongs to a namespace (a user, a tenant, a team) and has a name in it. Versions are numbers from 0, the empty
sheet; none ever changes, and going back to one makes a new one that looks like it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

from inferloom.core.digest import digest
from inferloom.core.errors import UnknownNameError, UserError
from inferloom.core.memory import DEFAULT_NAMESPACE, Entry
from inferloom.memory.masking import mask as masked_text
from inferloom.memory.sheet import Cheatsheet
from inferloom.memory.vectors import Vectors, searched_text
from inferloom.models.embedding import Embedder
from inferloom.store import Store
from inferloom.store.memories import MemoryRow, VersionRow

_MERGE = "merge|"
"""How the source of a version begins that a merge made; the other memory's id and version follow."""
Resolution = Literal["both", "ours", "theirs"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two sheets. Counters alone make no difference of wording."""

    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    changed: tuple[tuple[Entry, Entry], ...]
    """(before, after) where the wording differs."""
    counted: tuple[tuple[Entry, Entry], ...]
    """(before, after) where only counters differ."""


class MemoryBook:
    """The memories of a store.

    Args:
        store: The database.
        embedder: Makes the embeddings; None: the one that `INFERLOOM_EMBEDDER` names, opened when first needed.
        embedder_name: What the embedder is called in the database.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None, embedder_name: str | None = None) -> None:
        self.store = store
        self._vectors = Vectors(store, embedder, embedder_name)
        self._sheets: dict[str, Cheatsheet] = {}
        self._guard = threading.Lock()

    def open(self, name: str, namespace: str = DEFAULT_NAMESPACE, *, create: bool = True) -> Cheatsheet:
        """A memory by its name; made where it is not there and `create` says so.

        Raises:
            UnknownNameError: There is no such memory, and none is to be made.
            UserError: The name cannot be one.
        """
        row = self.store.memories.find(namespace, name)
        if row is None:
            if not create:
                names = [memory.name for memory in self.store.memories.all(namespace)]
                raise UnknownNameError(f"memory of namespace `{namespace}`:", name, names)
            _check_name(name)
            _check_name(namespace)
            row = self.store.memories.create(namespace, name)
        return self.opened(row)

    def opened(self, row: MemoryRow) -> Cheatsheet:
        """A memory by its row; one object for each in this process."""
        with self._guard:
            if row.id not in self._sheets:
                self._sheets[row.id] = Cheatsheet(self.store, row, self._vectors)
            return self._sheets[row.id]

    def all(self, namespace: str | None = None) -> list[MemoryRow]:
        """Every memory, by namespace and name."""
        return self.store.memories.all(namespace)

    def versions(self, sheet: Cheatsheet) -> list[VersionRow]:
        """Every version of a memory, the newest first."""
        return self.store.memories.versions(sheet.id)

    def checked(self, sheet: Cheatsheet, version: int | None) -> int:
        """A version that is there; the newest for None.

        Raises:
            UserError: There is no such version.
        """
        head = sheet.head()
        if version is None:
            return head
        if not 0 <= version <= head:
            raise UserError(f"version is {version}; must be from 0 to {head}", where=f"memory `{sheet.row.name}`")
        return version

    def fork(
        self,
        sheet: Cheatsheet,
        name: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        version: int | None = None,
        protocol: str | None = None,
    ) -> Cheatsheet:
        """A new memory that begins as a version of another and goes its own way.

        Raises:
            UserError: A memory of this name is there already, or the version is not.
        """
        _check_name(name)
        _check_name(namespace)
        if self.store.memories.find(namespace, name) is not None:
            raise UserError("a memory of this name is there already; name another", where=f"{namespace}/{name}")
        seen = self.checked(sheet, version)
        return self.opened(self.store.memories.fork(sheet.row, seen, namespace, name, protocol=protocol))

    async def difference(self, sheet: Cheatsheet, before: int, after: int) -> Difference:
        """What changed from one version to another."""
        old = {entry.id: entry for entry in await sheet.entries(self.checked(sheet, before))}
        new = {entry.id: entry for entry in await sheet.entries(self.checked(sheet, after))}
        return difference(old, new)

    async def roll_back(self, sheet: Cheatsheet, version: int) -> int:
        """Make a new version that holds what an older one held; its number."""
        self.checked(sheet, version)
        wanted = {entry.id: entry for entry in await sheet.entries(version)}

        def change(now: Mapping[str, Entry]) -> tuple[list[Entry], list[str]]:
            written = [entry for id, entry in wanted.items() if now.get(id) != entry]
            return written, [id for id in now if id not in wanted]

        return await sheet.replace(change, action=f"rolled back to {version}")

    async def bring(
        self, sheet: Cheatsheet, entries: Sequence[Entry], *, source: str, mask: bool = True
    ) -> tuple[int, int]:
        """Put entries in from outside, over those with the same ids; (the version, pieces of personal data masked)."""
        masked = 0
        clean: list[Entry] = []
        for entry in entries:
            (key, one), (text, two) = (masked_text(part) if mask else (part, 0) for part in (entry.key, entry.text))
            masked += one + two
            clean.append(replace(entry, key=key, text=text, created=entry.created or time.time()))

        def change(now: Mapping[str, Entry]) -> tuple[list[Entry], list[str]]:
            return [entry for entry in clean if now.get(entry.id) != entry], []

        return await sheet.replace(change, action=f"imported {source}"), masked

    async def merge(self, sheet: Cheatsheet, other: Cheatsheet, resolution: Resolution = "both") -> int:
        """Bring what another memory learned into this one, as of their last common version; the new version's number.

        An entry that only the other side changed is taken over, one that it deleted is deleted unless this side
        changed it, counters add up. Where both changed the wording, `resolution` says which stays; `both` keeps the
        other's as an entry of its own. What is new there is added. Merging again brings only what came since.

        Raises:
            UserError: It is the same memory.
        """
        if sheet.id == other.id:
            raise UserError("a memory cannot be merged into itself", where=f"memory `{sheet.row.name}`")
        base, version = self._common(sheet, other), other.head()
        theirs = {entry.id: entry for entry in await other.entries(version)}

        def change(ours: Mapping[str, Entry]) -> tuple[list[Entry], list[str]]:
            return merged(base, ours, theirs, resolution)

        place = f"{other.row.namespace}/{other.row.name}"
        source = f"{_MERGE}{other.id}|{version}"
        return await sheet.replace(change, action=f"merged {place} at {version}", source=source)

    def _common(self, sheet: Cheatsheet, other: Cheatsheet) -> dict[str, Entry]:
        """What both had when they last had the same, or came from; nothing where they have nothing in common."""
        exchanged = [*self._exchanges(sheet, other), *self._exchanges(other, sheet)]
        if exchanged:
            _, id, version = max(exchanged)
            return {entry.id: entry for entry in self.store.memories.entries(id, version)}
        ours, theirs = self._line(sheet.row), self._line(other.row)
        for id, version in ours:
            for other_id, other_version in theirs:
                if id == other_id:
                    found = self.store.memories.entries(id, min(version, other_version))
                    return {entry.id: entry for entry in found}
        return {}

    def _exchanges(self, into: Cheatsheet, other: Cheatsheet) -> list[tuple[float, str, int]]:
        """The times when one memory was merged into the other: (when, the other's id, its version)."""
        mark = f"{_MERGE}{other.id}|"
        sources = [(row.created, row.source or "") for row in self.store.memories.versions(into.id)]
        return [(when, other.id, int(one.removeprefix(mark))) for when, one in sources if one.startswith(mark)]

    def _line(self, row: MemoryRow) -> list[tuple[str, int]]:
        """A memory and what it was forked from, up to the first: (id, version)."""
        line = [(row.id, self.opened(row).head())]
        while row.parent is not None and row.parent_version is not None:
            line.append((row.parent, row.parent_version))
            try:
                row = self.store.memories.get(row.parent)
            except UnknownNameError:  # an ancestor may be gone; what came of it is not
                break
        return line

    def remove(self, sheet: Cheatsheet) -> None:
        """Delete a memory with all its versions. Its forks stay."""
        with self._guard:
            self._sheets.pop(sheet.id, None)
        texts = {digest(searched_text(entry)) for entry in self.store.memories.every_state(sheet.id)}
        self.store.memories.remove(sheet.id, sorted(texts))

    async def forget(self, text: str, sheets: Sequence[Cheatsheet]) -> int:
        """Delete entries that contain a text from every version of memories, for good; count the entries.

        Raises:
            UserError: The text is too short to mean anything.
        """
        if len(text.strip()) < 3:
            raise UserError(f"the text to forget must have at least 3 characters but has {len(text.strip())}")
        wanted, count = text.casefold(), 0
        for sheet in sheets:
            states = self.store.memories.every_state(sheet.id)
            doomed = [entry for entry in states if wanted in f"{entry.key}\n{entry.text}".casefold()]
            count += self._purge(sheet, states, {entry.id for entry in doomed})
        return count

    def expire(self, sheet: Cheatsheet, now: float) -> int:
        """Delete entries that have expired by a time (Unix seconds) from every version of a memory; count them."""
        states = self.store.memories.every_state(sheet.id)
        return self._purge(
            sheet, states, {entry.id for entry in states if entry.expires is not None and entry.expires <= now}
        )

    def _purge(self, sheet: Cheatsheet, states: Sequence[Entry], ids: Set[str]) -> int:
        """Delete whole entries, with all their wordings, from every version; count them."""
        if ids:
            hashes = {digest(searched_text(entry)) for entry in states if entry.id in ids}
            self.store.memories.purge(sheet.id, sorted(ids), sorted(hashes))
            sheet.reload()
        return len(ids)


_BOOKS: weakref.WeakKeyDictionary[Store, MemoryBook] = weakref.WeakKeyDictionary()
_ONE_BOOK = threading.Lock()


def book_of(store: Store) -> MemoryBook:
    """The memories of a store with the embedder of `INFERLOOM_EMBEDDER`; one object a store."""
    with _ONE_BOOK:
        book = _BOOKS.get(store)
        if book is None:
            book = _BOOKS[store] = MemoryBook(store)
        return book


def difference(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> Difference:
    """What differs between two sheets, by id."""
    both = [(old[id], new[id]) for id in old if id in new and old[id] != new[id]]
    return Difference(
        added=tuple(entry for id, entry in new.items() if id not in old),
        removed=tuple(entry for id, entry in old.items() if id not in new),
        changed=tuple((before, after) for before, after in both if _words(before) != _words(after)),
        counted=tuple((before, after) for before, after in both if _words(before) == _words(after)),
    )


def merged(
    base: Mapping[str, Entry], ours: Mapping[str, Entry], theirs: Mapping[str, Entry], resolution: Resolution
) -> tuple[list[Entry], list[str]]:
    """What a three-way merge writes into ours, and which ids it removes."""
    written: list[Entry] = []
    removed: list[str] = []
    for id, other in theirs.items():
        root, own = base.get(id), ours.get(id)
        if own is None:
            # New there, or deleted here: a deletion stands unless the other side reworded the entry.
            if root is None or _words(root) != _words(other):
                written.append(other)
            continue
        took = own
        if _words(own) != _words(other) and (root is None or _words(root) != _words(other)):
            if (root is not None and _words(root) == _words(own)) or resolution == "theirs":
                took = replace(own, key=other.key, text=other.text)
            elif resolution == "both":
                written.append(replace(other, id=digest(f"{id}|{other.key}|{other.text}")[:12]))
        gained = _gains(took, root, other)
        if gained != own:
            written.append(gained)
    for id, root in base.items():
        if id in ours and id not in theirs and _words(ours[id]) == _words(root):
            removed.append(id)
    return written, removed


def _gains(own: Entry, root: Entry | None, other: Entry) -> Entry:
    """An entry with what the other side counted since the common version."""
    start = root or Entry(id=own.id, kind=own.kind, key="", text="")
    times = [time for time in (own.last_used, other.last_used) if time is not None]
    return replace(
        own,
        helpful=own.helpful + max(0, other.helpful - start.helpful),
        harmful=own.harmful + max(0, other.harmful - start.harmful),
        used=own.used + max(0, other.used - start.used),
        last_used=max(times, default=None),
    )


def _words(entry: Entry) -> tuple[str, str, str]:
    return entry.kind, entry.key, entry.text


def _check_name(name: str) -> None:
    if not name.strip() or any(ord(character) < 32 for character in name) or len(name) > 200:
        raise UserError(f"a memory's name is `{name[:40]}`; must be 1 to 200 characters without line breaks")
