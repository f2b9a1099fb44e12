"""The words of cheatsheet memory: entries, the operations that change them, and what a node sees of a memory.

A memory is a named, versioned sheet of entries. Operations are data; code applies them, whoever proposed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

EntryKind = Literal["strategy", "example", "snippet", "mistake", "sheet"]
KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
"""What can be remembered: a way to go about something, a solved question, code that ran, a mistake to avoid; and the
one text of a memory that is rewritten whole."""
Verdict = Literal["used", "helpful", "harmful"]

DEFAULT_NAMESPACE = "default"
"""Whose memories they are where nobody says it."""
CHARACTERS_PER_TOKEN = 4
"""Sheets are measured without a tokenizer, since several models may read one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something remembered. Times are Unix seconds; counters are kept by code, never by a model."""

    id: str
    kind: EntryKind
    key: str
    """What it is found by: an example's question, otherwise when the entry applies."""
    text: str
    """The example's solution, the advice, the code."""
    helpful: int = 0
    """Runs that read it and came out right."""
    harmful: int = 0
    """Runs that read it and came out wrong."""
    used: int = 0
    """Runs that read it and were curated."""
    run: str = ""
    """The run that it came from; empty where a person wrote it."""
    created: float = 0.0
    last_used: float | None = None
    expires: float | None = None

    @property
    def worth(self) -> int:
        """Helpful minus harmful."""
        return self.helpful - self.harmful

    @property
    def tokens(self) -> int:
        """About how many tokens it takes in a prompt."""
        return tokens_of(self.key) + tokens_of(self.text) + 4


@dataclass(frozen=True, slots=True)
class Add:
    """A new entry."""

    kind: EntryKind
    key: str
    text: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Another wording of an entry; what is None stays."""

    id: str
    key: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """An entry goes."""

    id: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One more on an entry's counter. `helpful` and `harmful` count as used too."""

    id: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A new text for the whole sheet, made from a version; stale where there is a newer one."""

    text: str
    version: int


Operation: TypeAlias = Add | Update | Delete | Mark | Rewrite


class Dropped(NamedTuple):
    """An operation that was not applied."""

    operation: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for every change of a memory."""

    limit: int | None = None
    """The most tokens of the whole sheet; above it goes what did harm, then what helped least for its time."""
    dedup: float | None = 0.95
    """A new entry at least this near (cosine) to one of its kind counts as that one; None: never."""
    days: float | None = None
    """How long new entries live; None: for good."""
    mask: bool = True
    """Whether personal data is masked before anything is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What became of a change."""

    version: int
    """The memory's newest version afterwards."""
    applied: int = 0
    """Operations that changed something."""
    dropped: tuple[Dropped, ...] = ()
    evicted: int = 0
    """Entries that had to go for the limit."""
    masked: int = 0
    """Pieces of personal data that were masked."""
    repeated: bool = False
    """Whether the same change was made before, so that nothing was done now."""


class Recalled(NamedTuple):
    """An entry that a run has read."""

    memory: str
    entry: str


class Memory(Protocol):
    """A memory as one node of one run sees it."""

    @property
    def name(self) -> str:
        """Its name in the pipeline."""
        ...

    @property
    def writable(self) -> bool:
        """Whether this run may change it; an evaluation's may not, unless its protocol is online."""
        ...

    async def version(self) -> int:
        """The version that this run reads."""
        ...

    async def entries(self, kinds: Sequence[EntryKind] = KINDS) -> list[Entry]:
        """What it holds, the oldest first; without expired entries."""
        ...

    async def nearest(self, text: str, k: int, kinds: Sequence[EntryKind] = KINDS, least: float = -1.0) -> list[Entry]:
        """The k entries nearest to a text by embedding, the nearest first, those of at least a cosine.

        Expired entries are left out.
        """
        ...

    async def commit(self, operations: Sequence[Operation], rules: Rules, dropped: int = 0) -> Commit:
        """Apply operations to the newest version, all in one new version; once per run and place in the pipeline.

        `dropped` counts proposals that could not be read.

        Raises:
            StorageError: The database takes no writes.
        """
        ...


def tokens_of(text: str) -> int:
    """About how many tokens a text has: one for every four characters."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
