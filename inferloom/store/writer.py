"""Group commit: one thread owns the writing connection and commits together whatever waits.

A caller is woken when its rows are durable, never before. Commits cost a disk flush each, so the more callers wait, the less
each of them pays. Rows keep their order within a table; tables are independent of one another.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, StatementError
from sqlalchemy.exc import DatabaseError as DriverDatabaseError

from inferloom.core.errors import InferloomError, StorageError
from inferloom.store.codec import CODECS, Parameters, Scalar
from inferloom.store.rows import Row

MAX_BATCH_ROWS = 5_000
"""A commit takes no more rows than this, so that the first caller of a long queue is not kept waiting for the last."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

Job: TypeAlias = Callable[[Connection], None]


class Submission:
    """What one caller wants written, and whom to wake."""

    __slots__ = ("future", "job", "loop", "rows", "waiter")

    def __init__(self, rows: Sequence[tuple[type[Row], Parameters]], job: Job | None = None) -> None:
        self.rows = rows
        self.job = job
        self.future: Future[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiter: asyncio.Future[None] | None = None


class Writer:
    """The writing thread of one store.

    Args:
        engine: Its connections begin with BEGIN IMMEDIATE where the option `inferloom_write` is set.
        place: The database as messages name it.
        exclusive: Held during a transaction; a real lock only where readers share the connection.
    """

    def __init__(self, engine: Engine, place: str, exclusive: threading.RLock | None = None) -> None:
        self._place = place
        self._exclusive = exclusive or threading.RLock()
        self._engine = engine
        self._statements = {kind: codec.insert_text(engine.dialect) for kind, codec in CODECS.items()}
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        # Guards `_refusal` together with the queue: nothing is queued once writing has ended.
        self._gate = threading.Lock()
        self._refusal: str | None = None
        self._thread = threading.Thread(target=self._work, name="inferloom-writer", daemon=True)
        self._thread.start()

    async def write(self, rows: Iterable[Row]) -> None:
        """Write rows and return when they are durable.

        Raises:
            StorageError: They are not; unless these rows alone are at fault, the writer takes no more.
        """
        submission = Submission(encode(rows))
        submission.loop = asyncio.get_running_loop()
        submission.waiter = submission.loop.create_future()
        self._submit(submission)
        await submission.waiter

    def write_sync(self, rows: Iterable[Row]) -> None:
        """The same for callers without an event loop."""
        self.run(None, encode(rows))

    def run(self, job: Job | None, rows: Sequence[tuple[type[Row], Parameters]] = ()) -> None:
        """Run a job inside a write transaction of the writing thread and return when it is durable.

        Raises:
            StorageError: As for `write`.
        """
        submission = Submission(rows, job)
        submission.future = Future()
        self._submit(submission)
        submission.future.result()

    def checkpoint(self) -> None:
        """Empty SQLite's write-ahead log, so that what was deleted is in no file any more.

        Raises:
            StorageError: As for `write`.
        """
        if self._engine.dialect.name == "sqlite":
            self.run(None)
            with self._exclusive, self._engine.connect() as connection:
                cursor = connection.connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.close()

    def close(self) -> None:
        """Write what waits, then end the thread. Later writes are refused."""
        with self._gate:
            if self._refusal is None:
                self._refusal = f"database {self._place} is closed"
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _submit(self, submission: Submission) -> None:
        with self._gate:
            if self._refusal is not None:
                raise StorageError(self._refusal)
            self._queue.put(submission)

    def _work(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(inferloom_write=True)
                while (batch := self._next_batch()) is not None:
                    self._commit(connection, batch)
        except BaseException as error:
            # The thread is the only one that can wake its callers: whatever ends it must reach them first.
            self._give_up(error, [])
            if not isinstance(error, Exception):
                raise

    def _next_batch(self) -> list[Submission] | None:
        """Everything that waits now, at least one; None when the store is closed and the queue empty."""
        first = self._queue.get()
        if first is None:
            return None
        batch, size = [first], len(first.rows)
        while size < MAX_BATCH_ROWS:
            try:
                submission = self._queue.get_nowait()
            except queue.Empty:
                break
            if submission is None:
                self._queue.put(None)
                break
            batch.append(submission)
            size += len(submission.rows)
        return batch

    def _commit(self, connection: Connection, batch: list[Submission]) -> None:
        try:
            with self._exclusive:
                self._apply(connection, batch)
        except Exception as error:
            if not _rows_at_fault(error):
                self._give_up(error, batch)
            elif len(batch) > 1:
                # One caller's bad row must not cost the others theirs.
                for submission in batch:
                    self._commit(connection, [submission])
            else:
                self._commit_cleaned(connection, batch[0], error)
        else:
            _wake(batch, None)

    def _commit_cleaned(self, connection: Connection, submission: Submission, error: Exception) -> None:
        cleaned = [(kind, tuple(_clean(value) for value in values)) for kind, values in submission.rows]
        if cleaned == list(submission.rows):
            _wake([submission], _row_fault(self._place, error))
            return
        retry = Submission(cleaned, submission.job)
        retry.future, retry.loop, retry.waiter = submission.future, submission.loop, submission.waiter
        self._commit(connection, [retry])

    def _apply(self, connection: Connection, batch: list[Submission]) -> None:
        by_kind: dict[type[Row], list[Parameters]] = {}
        for submission in batch:
            for kind, values in submission.rows:
                by_kind.setdefault(kind, []).append(values)
        try:
            with connection.begin():
                for kind, rows in by_kind.items():
                    connection.exec_driver_sql(self._statements[kind], rows)
                for submission in batch:
                    if submission.job is not None:
                        submission.job(connection)
        finally:
            if connection.in_transaction():
                connection.rollback()

    def _give_up(self, error: BaseException, batch: list[Submission]) -> None:
        """Fail the batch, everything queued and every later write with one and the same sentence."""
        with self._gate:
            if self._refusal is None or batch:
                self._refusal = f"database {self._place} stopped taking writes ({reason(error)}); no new calls are made"
            while True:
                try:
                    waiting = self._queue.get_nowait()
                except queue.Empty:
                    break
                if waiting is not None:
                    batch.append(waiting)
        _wake(batch, self._refusal)


def encode(rows: Iterable[Row]) -> list[tuple[type[Row], Parameters]]:
    """Rows as parameters, each with its kind."""
    return [(type(row), CODECS[type(row)].encode(row)) for row in rows]


def reason(error: BaseException) -> str:
    """The first line of what the driver said."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(said).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(said).__name__


def _rows_at_fault(error: Exception) -> bool:
    """Whether an error comes from the rows themselves and not from the database as a whole."""
    if isinstance(error, OperationalError):
        return False
    if isinstance(error, DBAPIError):
        # A bare DatabaseError is what a malformed file gives; its subclasses speak of the statement or its values.
        return type(error) is not DriverDatabaseError and not error.connection_invalidated
    return isinstance(
        error, StatementError | UnicodeError | OverflowError | InferloomError | ValueError
    ) or not isinstance(error, SQLAlchemyError | OSError)


def _row_fault(place: str, error: Exception) -> Exception:
    if isinstance(error, SQLAlchemyError | UnicodeError | OverflowError):
        return StorageError(f"database {place} refused a row ({reason(error)})")
    return error


def _clean(value: Scalar) -> Scalar:
    """Text that every database can hold: lone surrogates and NUL become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value


def _wake(batch: Iterable[Submission], outcome: str | Exception | None) -> None:
    """Tell every caller: None is success, a sentence becomes a StorageError of its own for each."""
    waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for submission in batch:
        if submission.future is not None:
            if outcome is None:
                submission.future.set_result(None)
            else:
                submission.future.set_exception(_error(outcome))
        if submission.loop is not None and submission.waiter is not None:
            waiters.setdefault(submission.loop, []).append(submission.waiter)
    for loop, futures in waiters.items():
        # A closed loop has nobody left to wake.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, futures, outcome)


def _resolve(futures: Iterable[asyncio.Future[None]], outcome: str | Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(_error(outcome))


def _error(outcome: str | Exception) -> Exception:
    return StorageError(outcome) if isinstance(outcome, str) else outcome
