"""The bank: finding completions, and listing, pruning, exporting and forgetting what is stored."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.exc import DBAPIError

from inferloom.core.errors import DatabaseError, DataError, UnknownNameError, UserError
from inferloom.core.types import Completion
from inferloom.store import tables
from inferloom.store.access import Access, reason
from inferloom.store.codec import COMPLETION_COLUMNS, read_address, read_completion
from inferloom.store.outage import patiently
from inferloom.store.rows import Address, BankSize, RequestRow
from inferloom.store.writer import Writer

_COMPLETIONS = tables.table(tables.CompletionTable)
_REQUESTS = tables.table(tables.RequestTable)
_CALLS = tables.table(tables.CallTable)

_JSON_COLUMNS = ("logprobs", "tool_calls")
_CHUNK = 500
"""Values of one IN list; SQLite's own limit is higher."""

T = TypeVar("T")


class Bank:
    """Completions by address and index, and the prompts behind them."""

    def __init__(self, access: Access, writer: Writer) -> None:
        self._access = access
        self._writer = writer
        columns = _COMPLETIONS.c
        statement = select(columns.draw, *(columns[name] for name in COMPLETION_COLUMNS)).where(
            columns.address == bindparam("address"), columns.draw.between(bindparam("low"), bindparam("high"))
        )
        self._lookup = str(statement.compile(dialect=access.engine.dialect))
        self._direct: sqlite3.Connection | None = None
        if access.engine.dialect.name == "sqlite":
            # One connection is kept for look-ups: taking one from the pool costs more than the look-up.
            self._pooled = access.engine.raw_connection()
            self._direct = cast(sqlite3.Connection, self._pooled.driver_connection)

    async def banked(self, address: Address, indices: Sequence[int]) -> dict[int, Completion]:
        """The completions that the bank has at these indices."""
        if not indices:
            return {}
        key = address.key
        parameters = (key, min(indices), max(indices))
        try:
            if self._direct is not None:
                found = self._direct_rows(self._direct, parameters)
            else:
                found = await asyncio.to_thread(patiently, self._access.engine, partial(self._pooled_rows, parameters))
        except (DBAPIError, sqlite3.Error) as error:
            raise DatabaseError(f"database {self._access.place} cannot be read: {reason(error)}") from error
        wanted = set(indices)
        stem = key[:16]
        return {row[0]: read_completion(row[1:], f"{stem}:{row[0]}") for row in found if row[0] in wanted}

    def close(self) -> None:
        """Let go of the connection kept for look-ups."""
        if self._direct is not None:
            self._direct = None
            self._pooled.close()

    def _direct_rows(self, connection: sqlite3.Connection, parameters: tuple[object, ...]) -> list[tuple[int, ...]]:
        with self._access.exclusive:
            return connection.execute(self._lookup, parameters).fetchall()

    def _pooled_rows(self, parameters: tuple[object, ...]) -> list[tuple[int, ...]]:
        with self._access.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(self._lookup, parameters)]

    def completion(self, id: str) -> Completion:
        """A completion by the id that it carries."""
        stem, _, index = id.partition(":")
        if len(stem) == 16 and index.isdecimal():
            columns = _COMPLETIONS.c
            statement = select(*(columns[name] for name in COMPLETION_COLUMNS)).where(
                columns.address >= stem, columns.address < stem + "g", columns.draw == int(index)
            )
            row = self._access.row(statement)
            if row is not None:
                return read_completion(tuple(row.values()), id)
        raise UnknownNameError("completion", id, ())

    def prompts(self, limit: int) -> list[RequestRow]:
        """Stored prompts, the most lately used first."""
        used = func.max(_COMPLETIONS.c.created)
        statement = (
            select(_REQUESTS.c.hash, _REQUESTS.c.model, _REQUESTS.c.body)
            .select_from(_REQUESTS.outerjoin(_COMPLETIONS, _COMPLETIONS.c.request == _REQUESTS.c.hash))
            .group_by(_REQUESTS.c.hash, _REQUESTS.c.model, _REQUESTS.c.body)
            .order_by(func.coalesce(used, 0.0).desc(), _REQUESTS.c.hash, _REQUESTS.c.model)
            .limit(limit)
        )
        return [
            RequestRow(hash=str(row["hash"]), model=str(row["model"]), body=str(row["body"]))
            for row in self._access.rows(statement)
        ]

    def size(self) -> list[BankSize]:
        """How much each model has, the largest first."""
        columns = _COMPLETIONS.c
        texts = (columns.text, columns.reasoning, columns.prompt_text, columns.logprobs, columns.tool_calls)
        bytes_of = [func.coalesce(func.length(sql_cast(column, LargeBinary)), 0) for column in texts]
        if self._access.engine.dialect.name == "postgresql":
            bytes_of = [func.coalesce(func.octet_length(column), 0) for column in texts]
        statement = select(
            columns.fingerprint,
            func.count(func.distinct(columns.request)).label("requests"),
            func.count().label("completions"),
            func.sum(functools.reduce(operator.add, bytes_of)).label("bytes"),
        ).group_by(columns.fingerprint)
        names = self._model_names()
        sizes = [
            BankSize(
                model=", ".join(sorted(names.get(str(row["fingerprint"]), ()))),
                fingerprint=str(row["fingerprint"]),
                requests=int(row["requests"]),
                completions=int(row["completions"]),
                bytes=int(row["bytes"]),
            )
            for row in self._access.rows(statement)
        ]
        return sorted(sizes, key=lambda size: (-size.completions, size.fingerprint))

    def prune(self, older_than_days: float | None, stream: str | None, model: str | None) -> int:
        """Delete completions that meet every condition given, and prompts left without any; count the completions."""
        columns = _COMPLETIONS.c
        conditions: list[ColumnElement[bool]] = []
        if older_than_days is not None:
            conditions.append(columns.created < time.time() - older_than_days * 86_400)
        if stream is not None:
            conditions.append(columns.stream == stream)
        if model is not None:
            names = self._model_names()
            meant = [fingerprint for fingerprint, known in names.items() if model in known or model == fingerprint]
            if not meant:
                raise UnknownNameError("model", model, {name for known in names.values() for name in known})
            conditions.append(columns.fingerprint.in_(meant))
        if not conditions:
            raise UserError("pruning the bank needs a condition: `older_than_days`, `stream` or `model`")

        def work(connection: Connection) -> int:
            hashes = connection.execute(select(columns.request).where(*conditions).distinct()).scalars().all()
            deleted = connection.execute(delete(_COMPLETIONS).where(*conditions)).rowcount
            drop_unused_prompts(connection, hashes)
            return int(deleted)

        return run_job(self._writer, work)

    def export(self, path: Path) -> int:
        """Write the whole bank as JSON lines, and count them; the file appears only when it is whole."""
        if not path.parent.is_dir():
            raise DataError(f"the folder `{path.parent}` does not exist", where=str(path))
        beside = path.with_name(f".{path.name}.part")
        count = 0
        try:
            with beside.open("w", encoding="utf-8") as file:
                for line in self._lines():
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count += 1
            beside.replace(path)
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror}", where=str(path)) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        return count

    def _lines(self) -> Iterator[dict[str, object]]:
        columns = _COMPLETIONS.c
        names = self._model_names()
        last: tuple[str, int] = ("", -1)
        while True:
            # By pages and not by one long cursor, which would keep the write-ahead log from being emptied.
            after = (columns.address > last[0]) | and_(columns.address == last[0], columns.draw > last[1])
            page = self._access.rows(
                select(_COMPLETIONS).where(after).order_by(columns.address, columns.draw).limit(_CHUNK)
            )
            if not page:
                return
            bodies = self._bodies(sorted({str(row["request"]) for row in page}))
            for row in page:
                address = read_address(row)
                yield {
                    "id": address.completion_id(int(row["draw"])),
                    "stream": address.stream,
                    "model": ", ".join(sorted(names.get(address.fingerprint, ()))),
                    "fingerprint": address.fingerprint,
                    "request": address.request,
                    "index": row["draw"],
                    "prompt": bodies.get(address.request) or row["prompt_text"],
                    **{name: row[name] for name in COMPLETION_COLUMNS if name not in _JSON_COLUMNS},
                    **{name: None if row[name] is None else json.loads(row[name]) for name in _JSON_COLUMNS},
                    "created": row["created"],
                }
            last = (str(page[-1]["address"]), int(page[-1]["draw"]))

    def _bodies(self, hashes: Sequence[str]) -> dict[str, object]:
        return {hash: _json_or_text(body) for hash, body in self.bodies(hashes).items()}

    def bodies(self, hashes: Sequence[str]) -> dict[str, str]:
        """Stored prompts by their hashes, as far as they are kept."""
        return {
            str(row["hash"]): str(row["body"])
            for condition in in_chunks(_REQUESTS.c.hash, hashes)
            for row in self._access.rows(select(_REQUESTS.c.hash, _REQUESTS.c.body).where(condition))
        }

    def _model_names(self) -> dict[str, set[str]]:
        """The names under which the ledger knows each fingerprint; every banked fingerprint is there."""
        names: dict[str, set[str]] = {
            str(row["fingerprint"]): set() for row in self._access.rows(select(_COMPLETIONS.c.fingerprint).distinct())
        }
        for row in self._access.rows(select(_CALLS.c.fingerprint, _CALLS.c.model).distinct()):
            names.setdefault(str(row["fingerprint"]), set()).add(str(row["model"]))
        return names


def run_job(writer: Writer, work: Callable[[Connection], T]) -> T:
    """Run work in a write transaction of the writing thread and give its result once it is durable."""
    results: list[T] = []
    writer.run(lambda connection: results.append(work(connection)))
    return results[-1]


def in_chunks(column: ColumnElement[str], values: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    """Conditions that together say `column in values`."""
    for start in range(0, len(values), _CHUNK):
        yield column.in_(values[start : start + _CHUNK])


def drop_unused_prompts(connection: Connection, hashes: Sequence[str]) -> None:
    """Delete those of the prompts that no completion refers to any more."""
    used = select(_COMPLETIONS.c.request).where(_COMPLETIONS.c.request == _REQUESTS.c.hash).exists()
    for condition in in_chunks(_REQUESTS.c.hash, hashes):
        connection.execute(delete(_REQUESTS).where(condition, ~used))


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
