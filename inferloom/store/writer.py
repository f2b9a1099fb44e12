"""Group commit: one thread owns the writing connection and commits together whatever waits.

A caller is woken when its rows are durable, never before. Commits cost a disk flush each, so the more callers wait, the
less each of them pays. Rows keep their order within a table; tables are independent of one another.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import TypeAlias

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from inferloom.core.errors import DatabaseError, InferloomError, StorageError
from inferloom.store.access import reason
from inferloom.store.codec import CODECS, Parameters, Scalar
from inferloom.store.outage import is_away, patiently
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

    @property
    def waited(self) -> bool:
        """Whether anybody waits for it."""
        return self.future is not None or self.waiter is not None


class Writer:
    """The writing thread of one store.

    Args:
        engine: SQLAlchemy connections with the option `inferloom_write` begin with BEGIN IMMEDIATE on SQLite.
        place: The database as messages name it.
        exclusive: Held during a transaction; a real lock only where readers share the connection.
    """

    def __init__(self, engine: Engine, place: str, exclusive: threading.RLock | None = None) -> None:
        self._place = place
        self._exclusive = exclusive or threading.RLock()
        self._engine = engine
        self._statements = {kind: codec.insert_text(engine.dialect) for kind, codec in CODECS.items()}
        self._begin = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else None
        assert engine.dialect.loaded_dbapi is not None
        self._driver = engine.dialect.loaded_dbapi
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        # Guards `_refusal` together with the queue: nothing is queued once writing has ended.
        self._gate = threading.Lock()
        self._refusal: str | None = None
        self._failed = False
        self._told = False
        """Whether anybody was told of the failure."""
        self._pooled: PoolProxiedConnection | None = None
        """The writing connection, once there is one."""
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

    def submit(self, rows: Iterable[Row]) -> None:
        """Queue rows that nobody waits for; should they be refused, the writer takes no more."""
        self._submit(Submission(encode(rows)))

    def raise_if_failed(self) -> None:
        """Raise the error that every write would raise now, if any."""
        if self._refusal is not None:
            self._told = True
            raise StorageError(self._refusal)

    def raise_if_untold(self) -> None:
        """Raise the error of rows that nobody waited for, unless somebody was told of it already."""
        if self._failed and not self._told:
            self.raise_if_failed()

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
            DatabaseError: Another process is reading the log.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with self._exclusive, closing(self._engine.raw_connection()) as pooled:
            cursor = pooled.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            busy = cursor.fetchone()
            cursor.close()
        if busy is not None and busy[0]:
            raise DatabaseError(
                f"database {self._place} is being read by another process, so deleted text may still stand in its "
                "write-ahead log; end that process and do the same again"
            )

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
            self.raise_if_failed()
            self._queue.put(submission)

    def _work(self) -> None:
        try:
            try:
                while (batch := self._next_batch()) is not None:
                    rows = [submission for submission in batch if submission.job is None]
                    if rows:
                        self._commit(rows)
                    for submission in batch:
                        if submission.job is not None:
                            self._commit([submission])
            finally:
                self._let_go(broken=self._failed)
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

    def _commit(self, batch: list[Submission]) -> None:
        """Commit a batch and wake its callers, whatever comes of it."""
        if self._failed:
            _wake(batch, self._refusal)
            return
        try:
            with self._exclusive:
                if batch[0].job is not None:
                    self._apply_job(batch[0].job)
                else:
                    # Rows that were committed, though the answer was lost, may be written again: nothing changes.
                    patiently(self._engine, partial(self._apply_rows, batch))
        except Exception as error:
            if not self._rows_at_fault(error):
                self._give_up(error, batch)
            elif len(batch) > 1:
                # One caller's bad row must not cost the others theirs.
                for submission in batch:
                    self._commit([submission])
            else:
                self._commit_cleaned(batch[0], error)
        else:
            _wake(batch, None)

    def _commit_cleaned(self, submission: Submission, error: Exception) -> None:
        cleaned = [(kind, tuple(_clean(value) for value in values)) for kind, values in submission.rows]
        if cleaned != list(submission.rows):
            retry = Submission(cleaned)
            retry.future, retry.loop, retry.waiter = submission.future, submission.loop, submission.waiter
            self._commit([retry])
        elif not submission.waited:
            self._give_up(error, [])
        elif isinstance(error, InferloomError):
            _wake([submission], error)
        else:
            _wake([submission], f"database {self._place} refused a row ({reason(error)})")

    def _apply_rows(self, batch: list[Submission]) -> None:
        # The driver's own cursor: SQLAlchemy's way of running the same text costs as much again as SQLite's work.
        by_kind: dict[type[Row], list[Parameters]] = {}
        for submission in batch:
            for kind, values in submission.rows:
                by_kind.setdefault(kind, []).append(values)
        if self._pooled is None:
            self._pooled = self._engine.raw_connection()
        cursor = self._pooled.cursor()
        try:
            if self._begin is not None:
                cursor.execute(self._begin)
            for kind, rows in by_kind.items():
                cursor.executemany(self._statements[kind], rows)
            self._pooled.commit()
        except BaseException as error:
            # After a lost connection there is nothing to roll back, and the first error is the one to tell.
            with suppress(self._driver.Error):
                self._pooled.rollback()
            if is_away(self._engine, error):
                self._let_go(broken=True)
            raise
        finally:
            cursor.close()

    def _let_go(self, *, broken: bool) -> None:
        """Give the connection back; one that failed is not handed to anybody again."""
        if self._pooled is None:
            return
        if broken:
            self._pooled.invalidate()
        else:
            self._pooled.close()
        self._pooled = None

    def _apply_job(self, job: Job) -> None:
        committing = False

        def once() -> None:
            nonlocal committing
            with self._engine.connect() as plain:
                connection = plain.execution_options(inferloom_write=True)
                with connection.begin():
                    job(connection)
                    committing = True

        # A job may count or append: it is not done again where it may have been committed.
        patiently(self._engine, once, may_repeat=lambda: not committing)

    def _rows_at_fault(self, error: Exception) -> bool:
        """Whether an error comes from what one caller asked and not from the database as a whole."""
        said = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(said, self._driver.Error):
            # A bare DatabaseError is what a malformed file gives; other kinds speak of a statement or its values.
            return not isinstance(said, self._driver.OperationalError) and type(said) is not self._driver.DatabaseError
        return not isinstance(said, OSError)

    def _give_up(self, error: BaseException, batch: list[Submission]) -> None:
        """Fail the batch, everything queued and every later write with one and the same sentence."""
        with self._gate:
            if not self._failed:
                self._failed = True
                self._refusal = f"database {self._place} stopped taking writes ({reason(error)}); no new calls are made"
            batch = batch + self._drained()
            self._told = self._told or any(submission.waited for submission in batch)
        _wake(batch, self._refusal)

    def _drained(self) -> list[Submission]:
        """Everything that is queued; the mark that ends the thread stays queued."""
        found, closing = [], False
        while True:
            try:
                submission = self._queue.get_nowait()
            except queue.Empty:
                break
            if submission is None:
                closing = True
            else:
                found.append(submission)
        if closing:
            self._queue.put(None)
        return found


def encode(rows: Iterable[Row]) -> list[tuple[type[Row], Parameters]]:
    """Rows as parameters, each with its kind."""
    return [(type(row), CODECS[type(row)].encode(row)) for row in rows]


def clean_text(text: str) -> str:
    """A text that every database can hold: lone surrogates and NUL become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def _clean(value: Scalar) -> Scalar:
    return clean_text(value) if isinstance(value, str) else value


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
