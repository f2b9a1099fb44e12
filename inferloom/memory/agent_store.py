"""The memories as a LangGraph store, so that an agent and its pipelines share what they learn.

    from inferloom.memory.agent_store import AgentStore
    graph = builder.compile(store=AgentStore(store))

The last part of a LangGraph namespace is the memory's name, the parts before it are its namespace: `("ann", "rules")`
is `ann/rules` on the command line, and what `recall` reads with `--namespace ann`. A key is an entry's id. A value with
a `kind` of ours and a `text` is an entry of that kind, found by its `when` (of an example: the question); any other
value is kept whole, as a strategy whose text is its JSON. What is read back of an entry of ours has its counters beside
it. Every put is a version. There is no TTL here; `recall` and `search` pass over entries that `curate` gave an end.
"""

from __future__ import annotations

import asyncio
import json
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

from inferloom.core.errors import UserError
from inferloom.core.memory import DEFAULT_NAMESPACE, KINDS, Entry, EntryKind
from inferloom.memory.applying import unfit
from inferloom.memory.book import MemoryBook, book_of
from inferloom.memory.masking import mask
from inferloom.memory.sheet import Cheatsheet
from inferloom.store import Store

Place = tuple[str, ...]
_KINDS = [kind for kind in KINDS if kind != "sheet"]
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {  # what is compared is the agent's own
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class AgentStore(BaseStore):
    """The memories of a database through LangGraph's interface.

    Args:
        store: The database; or a book of memories with an embedder of its own.
        masked: Whether personal data is masked before anything is written.
    """

    def __init__(self, store: Store | MemoryBook, *, masked: bool = True) -> None:
        self._book = store if isinstance(store, MemoryBook) else book_of(store)
        self._masked = masked

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations in their order; also inside a running event loop."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.abatch(ops)).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations in their order.

        Raises:
            UserError: A value cannot be an entry, or a namespace is no memory's.
            StorageError: The database takes no writes.
        """
        return [await self._do(op) for op in ops]

    async def _do(self, op: Op) -> Result:
        match op:
            case GetOp():
                return await self._get(op)
            case PutOp():
                await self._put(op)
                return None
            case SearchOp():
                return await self._search(op)
            case ListNamespacesOp():
                return self._namespaces(op)

    async def _get(self, op: GetOp) -> Item | None:
        sheet = self._find(op.namespace)
        if sheet is None:
            return None
        entry = next((one for one in await sheet.entries() if one.id == op.key), None)
        return None if entry is None else Item(**_fields(entry, op.namespace))

    async def _put(self, op: PutOp) -> None:
        value = op.value
        if value is None:
            sheet = self._find(op.namespace)
            if sheet is not None:
                await sheet.replace(lambda now: ([], [op.key] if op.key in now else []), action="deleted by an agent")
            return
        entry = self._entry(op.key, value)
        namespace, name = _names(op.namespace)

        def change(now: Mapping[str, Entry]) -> tuple[list[Entry], list[str]]:
            old = now.get(entry.id)
            if old is None:
                return [entry], []
            # The same words keep their counters; the version's time says when they were put again.
            same = (old.kind, old.key, old.text) == (entry.kind, entry.key, entry.text)
            return ([] if same else [replace(entry, created=old.created)]), []

        await self._book.open(name, namespace).replace(change, action="put by an agent")

    def _entry(self, key: str, value: Mapping[str, Any]) -> Entry:
        kind: EntryKind = "strategy"
        text, when = json.dumps(value, ensure_ascii=False), ""
        if value.get("kind") in _KINDS and isinstance(value.get("text"), str):
            kind, text, when = value["kind"], value["text"], str(value.get("when", ""))
        if self._masked:
            text, when = mask(text)[0], mask(when)[0]
        reason = unfit(kind, when, text)
        if reason or not key:
            raise UserError(f"the value cannot be an entry: {reason or 'its key is empty'}", where=f"entry `{key}`")
        return Entry(id=key, kind=kind, key=when, text=text, created=time.time())

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        found: list[tuple[Place, Entry, float | None]] = []
        wanted = op.offset + op.limit
        for place, sheet in self._sheets():
            if place[: len(op.namespace_prefix)] != tuple(op.namespace_prefix):
                continue
            if op.query:
                # What the filter takes out is not known before: with one, all are ranked.
                near = await sheet.nearest(op.query, 10**9 if op.filter else wanted)
                found += [(place, entry, cosine) for entry, cosine in near]
            else:
                found += [(place, entry, None) for entry in await sheet.entries()]
        if op.query:
            found.sort(key=lambda one: -(one[2] or 0.0))
        kept = [one for one in found if _passes(_value(one[1]), op.filter or {})]
        return [SearchItem(**_fields(entry, place), score=score) for place, entry, score in kept[op.offset : wanted]]

    def _namespaces(self, op: ListNamespacesOp) -> list[Place]:
        places = [place for place, _ in self._sheets()]
        fitting = [place for place in places if all(_matches(place, one) for one in op.match_conditions or ())]
        cut = sorted({place if op.max_depth is None else place[: op.max_depth] for place in fitting})
        return cut[op.offset : op.offset + op.limit]

    def _sheets(self) -> list[tuple[Place, Cheatsheet]]:
        """Every memory with its place."""
        rows = self._book.all()
        spaces = [() if row.namespace == DEFAULT_NAMESPACE else tuple(row.namespace.split("/")) for row in rows]
        return [((*space, row.name), self._book.opened(row)) for space, row in zip(spaces, rows, strict=True)]

    def _find(self, place: Sequence[str]) -> Cheatsheet | None:
        namespace, name = _names(place)
        row = self._book.store.memories.find(namespace, name)
        return None if row is None else self._book.opened(row)


def _names(place: Sequence[str]) -> tuple[str, str]:
    """The namespace and name of a memory by its place."""
    if not place or any("/" in part or not part for part in place):
        raise UserError(f"the namespace is {tuple(place)}; must be parts without `/`, the last one a memory's name")
    return "/".join(place[:-1]) or DEFAULT_NAMESPACE, place[-1]


def _value(entry: Entry) -> dict[str, Any]:
    """What an agent reads of an entry."""
    if not entry.key and entry.text.startswith("{"):
        try:
            return dict(json.loads(entry.text))
        except ValueError:
            pass
    counters = {"helpful": entry.helpful, "harmful": entry.harmful, "used": entry.used}
    return {"kind": entry.kind, "when": entry.key, "text": entry.text, **counters}


def _fields(entry: Entry, place: Sequence[str]) -> dict[str, Any]:
    made = datetime.fromtimestamp(entry.created, UTC)
    changed = datetime.fromtimestamp(entry.last_used or entry.created, UTC)
    value = _value(entry)
    return {"value": value, "key": entry.id, "namespace": tuple(place), "created_at": made, "updated_at": changed}


def _passes(value: object, wanted: object) -> bool:
    """Whether a value fits a filter: equal, or by `$gt` and the like, part by part."""
    if not isinstance(wanted, dict):
        return value == wanted
    if any(str(name).startswith("$") for name in wanted):
        return all(_compared(value, name, other) for name, other in wanted.items())
    return isinstance(value, dict) and all(_passes(value.get(name), other) for name, other in wanted.items())


def _compared(value: object, name: str, other: object) -> bool:
    if name not in _COMPARISONS:
        raise UserError(f"unknown comparison `{name}`; must be one of {', '.join(_COMPARISONS)}")
    try:
        return _COMPARISONS[name](value, other)
    except TypeError:  # a text is not above a number
        return False


def _matches(place: Place, condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    part = place[: len(path)] if condition.match_type == "prefix" else place[-len(path) :]
    return len(part) == len(path) and all(wanted in ("*", own) for own, wanted in zip(part, path, strict=True))
