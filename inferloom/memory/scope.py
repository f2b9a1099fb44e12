"""Which memory a run means by a name, which version of it it reads, and whether it may write.

- `live`: the memory of the run's namespace, the newest version, written to. What `run` and `serve` do.
- `frozen`: the same memory at the version of when the evaluation began; nothing is written. What an evaluation does, so
  that no item sees what another one taught, and none reads what it is tested on.
- `online`: a fork of its own for every (study, trial, stream), which the stream's questions read and write in order. A
  question at a place reads what the questions before it have written, and nothing else, whenever it runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from inferloom.core.memory import DEFAULT_NAMESPACE, KINDS, Commit, Entry, EntryKind, Memory, Operation, Rules
from inferloom.memory.book import MemoryBook
from inferloom.memory.sheet import Cheatsheet

Protocol = Literal["live", "frozen", "online"]


@dataclass(frozen=True, slots=True)
class MemoryScope:
    """How runs that belong together use memories."""

    namespace: str = DEFAULT_NAMESPACE
    protocol: Protocol = "live"
    fork: str = ""
    """What sets the forks of an online evaluation apart, such as `STUDY/TRIAL/STREAM`."""
    position: int | None = None
    """The question's place in its stream, from 0."""
    record: str | None = None
    """How the evaluation goes, as JSON; kept with a fork."""
    moment: float | None = None
    """When a frozen evaluation began (Unix seconds), so that one that is taken up later reads the same; None: now."""
    pins: dict[str, int] = field(default_factory=dict, compare=False)
    """Versions that frozen runs read, by name; shared by the runs of one evaluation."""

    @property
    def home(self) -> str:
        """The namespace where its memories are."""
        return f"{self.namespace}:{self.fork}" if self.protocol == "online" else self.namespace

    def at(self, position: int, record: str) -> MemoryScope:
        """The scope of one question of a stream."""
        return replace(self, position=position, record=record)

    def memory(self, book: MemoryBook, name: str, source: str, run: str) -> Memory:
        """What a node sees of a memory.

        Args:
            book: The memories of the database.
            name: The name in the pipeline.
            source: The run's stream and the node's place in the pipeline: who changes the memory.
            run: The run's id.
        """
        return RunMemory(self, book, name, source, run)


class RunMemory:
    """A memory as one node of one run sees it; the version that it reads is settled when it is first needed."""

    def __init__(self, scope: MemoryScope, book: MemoryBook, name: str, source: str, run: str) -> None:
        self.name = name
        self._scope, self._book, self._source, self._run = scope, book, source, run
        self._settled: tuple[Cheatsheet, int] | None = None

    @property
    def writable(self) -> bool:
        """Whether this run may change it."""
        return self._scope.protocol != "frozen"

    async def version(self) -> int:
        """The version that this run reads."""
        return (await self._sheet())[1]

    async def entries(self, kinds: Sequence[EntryKind] = KINDS) -> list[Entry]:
        """What it holds, the oldest first; without expired entries."""
        sheet, version = await self._sheet()
        return await sheet.entries(version, kinds)

    async def nearest(self, text: str, k: int, kinds: Sequence[EntryKind] = KINDS, least: float = -1.0) -> list[Entry]:
        """The k entries nearest to a text by embedding, the nearest first, those of at least a cosine."""
        sheet, version = await self._sheet()
        return [entry for entry, cosine in await sheet.nearest(text, k, version, kinds) if cosine >= least]

    async def commit(self, operations: Sequence[Operation], rules: Rules, dropped: int = 0) -> Commit:
        """Apply operations to the newest version; once per run and place in the pipeline.

        Raises:
            StorageError: The database takes no writes.
        """
        sheet, version = await self._sheet()
        if not self.writable:
            return Commit(version=version)
        return await sheet.commit(
            operations,
            rules,
            action="curated",
            source=self._source,
            run=self._run,
            position=self._scope.position,
            dropped=dropped,
        )

    async def _sheet(self) -> tuple[Cheatsheet, int]:
        if self._settled is None:
            self._settled = await asyncio.to_thread(self._settle)
        return self._settled

    def _settle(self) -> tuple[Cheatsheet, int]:
        scope, book = self._scope, self._book
        if scope.protocol == "online":
            sheet = _forked(scope, book, self.name)
            if scope.position is None:
                return sheet, sheet.head()
            return sheet, book.store.memories.version_before(sheet.id, scope.position)
        sheet = book.open(self.name, scope.namespace)
        if scope.protocol == "live":
            return sheet, sheet.head()
        return sheet, scope.pins.setdefault(self.name, _frozen(scope, book, sheet))


def _frozen(scope: MemoryScope, book: MemoryBook, sheet: Cheatsheet) -> int:
    """The version that an evaluation reads."""
    return sheet.head() if scope.moment is None else book.store.memories.version_at(sheet.id, scope.moment)


def _forked(scope: MemoryScope, book: MemoryBook, name: str) -> Cheatsheet:
    """The fork of a memory for one stream, made from the version that the study's first fork was made from."""
    namespace = scope.home
    row = book.store.memories.find(namespace, name)
    if row is None:
        origin = book.open(name, scope.namespace)
        siblings = f"{scope.namespace}:{scope.fork.split('/')[0]}"
        versions = [
            other.parent_version
            for other in book.store.memories.all()
            if other.name == name and other.namespace.startswith(f"{siblings}/") and other.parent == origin.id
        ]
        version = next((one for one in versions if one is not None), _frozen(scope, book, origin))
        record = {**json.loads(scope.record or "{}"), "frozen_version": version}
        row = book.store.memories.fork(origin.row, version, namespace, name, protocol=json.dumps(record))
    return book.opened(row)
