"""Applying operations to a sheet: pure code, whoever proposed them.

What an operation may do is fixed here and not in a prompt: entries that are not there are not changed, a new entry near
an old one of its kind becomes that one, counters only go up by one, and the sheet stays under its limit. The delta
operations follow ACE (arXiv 2510.04618), whose released merge applies additions only; here updates and deletions
happen, the size is enforced, and near entries are one unless the rules say otherwise.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inferloom.core.memory import (
    KINDS,
    Add,
    Delete,
    Dropped,
    Entry,
    EntryKind,
    Mark,
    Operation,
    Rewrite,
    Update,
)

MOST_CHARACTERS = 20_000
"""Of one entry's text; a longer one is no lesson."""
MOST_KEY_CHARACTERS = 4_000
_NEWCOMERS = 0.25
"""The part of the limit that entries without a gain so far may keep."""
_GRACE = 0.125
"""Of the age of the oldest entry: by so much every entry is taken to be older than it is."""

Twin = Callable[[EntryKind, str, str], str | None]
"""(kind, key, text) -> the id of an entry so near that it is the same; None where there is none."""


@dataclass(slots=True)
class Draft:
    """A sheet while it is being changed."""

    entries: dict[str, Entry]
    version: int
    """The version that `entries` are of."""
    now: float
    run: str
    limit: int | None
    life: float | None
    """Seconds that new entries live."""
    twin: Twin
    written: dict[str, Entry] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    applied: int = 0
    evicted: int = 0

    @property
    def tokens(self) -> int:
        """The size of the sheet."""
        return sum(entry.tokens for entry in self.entries.values())

    def put(self, entry: Entry) -> None:
        """An entry in a new state."""
        self.entries[entry.id] = self.written[entry.id] = entry

    def take(self, id: str) -> None:
        """An entry out."""
        del self.entries[id]
        self.written.pop(id, None)
        self.removed.append(id)

    def drop(self, operation: Operation, reason: str) -> None:
        """Count an operation that is not applied."""
        self.dropped.append(Dropped(type(operation).__name__.lower(), reason))

    def known(self, operation: Update | Delete | Mark) -> Entry | None:
        """The entry that an operation is about; where there is none, the operation is dropped."""
        entry = self.entries.get(operation.id)
        if entry is None:
            self.drop(operation, f"no entry {operation.id[:12]}")
        return entry


def apply(
    entries: Mapping[str, Entry],
    operations: Sequence[Operation],
    *,
    version: int,
    now: float,
    run: str = "",
    limit: int | None = None,
    life: float | None = None,
    twin: Twin = lambda kind, key, text: None,
) -> Draft:
    """A sheet after operations, in their order.

    Args:
        entries: The sheet, by id.
        operations: What is to be done.
        version: The version that the entries are of.
        now: Unix seconds.
        run: The run that the operations come from.
        limit: The most tokens of the sheet.
        life: Seconds that new entries live where they do not say it; None: for good.
        twin: Finds an entry that is the same as a new one.
    """
    draft = Draft(dict(entries), version, now, run, limit, life, twin)
    for operation in operations:
        _apply_one(draft, operation)
    if limit is not None:
        _evict(draft, limit)
    return draft


def _add(draft: Draft, add: Add) -> None:
    reason = unfit(add.kind, add.key, add.text)
    if reason:
        draft.drop(add, reason)
        return
    entry = Entry(
        id=uuid.uuid4().hex[:12],
        kind=add.kind,
        key=add.key,
        text=add.text,
        run=draft.run,
        created=draft.now,
        expires=draft.now + draft.life if add.expires is None and draft.life is not None else add.expires,
    )
    if draft.limit is not None and entry.tokens > draft.limit:
        draft.drop(add, f"larger than the whole limit of {draft.limit} tokens")
        return
    same = draft.entries.get(draft.twin(add.kind, add.key, add.text) or "")
    if same is None:
        draft.put(entry)
    elif same.worth < 0:
        # The old one did harm: the new one takes its place with counters of its own.
        draft.put(replace(entry, id=same.id))
    else:
        draft.drop(add, f"the same as entry {same.id}")
        return
    draft.applied += 1


def _update(draft: Draft, update: Update) -> None:
    old = draft.known(update)
    if old is None:
        return
    key = old.key if update.key is None else update.key
    text = old.text if update.text is None else update.text
    reason = unfit(old.kind, key, text)
    if reason or (key, text) == (old.key, old.text):
        draft.drop(update, reason or "changes nothing")
        return
    # What the old wording was worth says little of the new one; that it was used stays.
    draft.put(replace(old, key=key, text=text, helpful=0, harmful=0))
    draft.applied += 1


def _delete(draft: Draft, delete: Delete) -> None:
    if draft.known(delete) is not None:
        draft.take(delete.id)
        draft.applied += 1


def _mark(draft: Draft, mark: Mark) -> None:
    old = draft.known(mark)
    if old is None:
        return
    draft.put(
        replace(
            old,
            used=old.used + 1,
            helpful=old.helpful + (mark.verdict == "helpful"),
            harmful=old.harmful + (mark.verdict == "harmful"),
            last_used=draft.now,
        )
    )
    draft.applied += 1


def _rewrite(draft: Draft, rewrite: Rewrite) -> None:
    old = next((entry for entry in draft.entries.values() if entry.kind == "sheet"), None)
    new = Entry(
        id=old.id if old else uuid.uuid4().hex[:12],
        kind="sheet",
        key="",
        text=rewrite.text.strip(),
        used=old.used if old else 0,
        run=draft.run,
        created=old.created if old else draft.now,
        last_used=old.last_used if old else None,
    )
    if rewrite.version != draft.version:
        draft.drop(rewrite, f"made from version {rewrite.version}, but {draft.version} is the newest")
    elif not new.text:
        draft.drop(rewrite, "empty")
    elif draft.limit is not None and new.tokens > draft.limit:
        draft.drop(rewrite, f"{new.tokens} tokens, above the limit of {draft.limit}")
    elif old is not None and new.text == old.text:
        draft.drop(rewrite, "changes nothing")
    else:
        draft.put(new)
        draft.applied += 1


def _apply_one(draft: Draft, operation: Operation) -> None:
    match operation:
        case Add():
            _add(draft, operation)
        case Update():
            _update(draft, operation)
        case Delete():
            _delete(draft, operation)
        case Mark():
            _mark(draft, operation)
        case Rewrite():
            _rewrite(draft, operation)


def unfit(kind: EntryKind, key: str, text: str) -> str:
    """Why an entry cannot be kept; empty where it can."""
    if kind not in KINDS or kind == "sheet":
        return f"kind `{kind}`"
    if not text.strip():
        return "empty"
    if len(text) > MOST_CHARACTERS or len(key) > MOST_KEY_CHARACTERS:
        return "too long"
    return ""


def _evict(draft: Draft, limit: int) -> None:
    """Bring the sheet under its limit.

    First goes what did more harm than good, the worst first. Entries that nobody gained from so far keep a quarter of
    the limit, the newest of them, so that what is new can prove itself; the others go. Of those that helped, the ones
    that helped least for the time that they were there go: what once helped much and is needed no more makes room.
    """
    size = draft.tokens
    judged = [entry for entry in draft.entries.values() if entry.kind != "sheet"] if size > limit else []
    harmful = sorted((entry for entry in judged if entry.worth < 0), key=lambda entry: (entry.worth, entry.id))
    fresh = sorted((entry for entry in judged if entry.worth == 0), key=lambda entry: (entry.created, entry.id))
    oldest = min((entry.created for entry in judged), default=draft.now)
    # As if each had been there for a while longer, so that one good turn does not outweigh a long record.
    grace = max(1e-3, (draft.now - oldest) * _GRACE)
    proven = sorted(
        (entry for entry in judged if entry.worth > 0),
        key=lambda entry: (entry.worth / (draft.now - entry.created + grace), entry.id),
    )
    newcomers = sum(entry.tokens for entry in fresh)
    while size > limit and (harmful or fresh or proven):
        if harmful:
            gone = harmful.pop(0)
        elif fresh and (newcomers > limit * _NEWCOMERS or not proven):
            gone = fresh.pop(0)
            newcomers -= gone.tokens
        else:
            gone = proven.pop(0)
        draft.take(gone.id)
        draft.evicted += 1
        size -= gone.tokens
