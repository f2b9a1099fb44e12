"""Opening a database: its URL, the checks before anything is touched, the engine, the migrations."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from inferloom.core.errors import DatabaseError, SetupError
from inferloom.store.access import reason
from inferloom.store.tables import Base

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every revision of the schema, oldest first."""
VERSION_TABLE = "inferloom_alembic_version"
BUSY_SECONDS = 30.0
"""How long a SQLite writer waits for another process's transaction."""
_MIGRATION_LOCK = 0x1F_E2_10_03
"""The advisory lock that PostgreSQL migrations take."""
_ONE_MIGRATION = threading.Lock()
"""Alembic keeps its context in module globals."""
_HEADER = b"SQLite format 3\x00"
_ALLOWED = "a file path, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"


def parse_url(text: str) -> URL:
    """The URL of a database; a plain path stands for a SQLite file.

    Raises:
        DatabaseError: It is no URL of a kind that we know.
    """
    if text == ":memory:":
        text = "sqlite://"
    if "://" not in text:
        if not text:
            raise DatabaseError(f"a database needs a name; allowed is {_ALLOWED}")
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(f"`{text}` is no database URL; allowed is {_ALLOWED}") from error
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    elif url.drivername in {"sqlite", "sqlite+pysqlite"}:
        url = url.set(drivername="sqlite")
        if url.query:
            raise DatabaseError(f"database `{text}` has settings after `?`, which SQLite files do not take")
    if url.drivername not in {"sqlite", "postgresql+psycopg"}:
        shown = url.render_as_string(hide_password=True)
        raise DatabaseError(f"database `{shown}` is of a kind that is not supported; allowed is {_ALLOWED}")
    return url


def is_memory(url: URL) -> bool:
    """Whether a SQLite database lives in memory only."""
    return url.drivername == "sqlite" and url.database in {None, "", ":memory:"}


def place(url: URL) -> str:
    """The database as messages name it: the path of a file, the URL of a server without its password."""
    if url.drivername != "sqlite":
        return f"`{url.render_as_string(hide_password=True)}`"
    return "in memory" if is_memory(url) else f"`{url.database}`"


def open_engine(url: URL) -> Engine:
    """Check a database, bring it to the newest revision and give its engine.

    Raises:
        DatabaseError: It cannot be used; a file is left byte for byte as it was.
        SetupError: The driver is not installed.
    """
    if url.drivername == "sqlite" and not is_memory(url):
        check_file(url)
    engine = _engine(url)
    try:
        if url.drivername == "sqlite" and not is_memory(url):
            _set_wal(engine)
        _migrate(engine, place(url))
    except BaseException as error:
        engine.dispose()
        if isinstance(error, DBAPIError):
            raise DatabaseError(f"database {place(url)} cannot be used: {reason(error)}") from error
        raise
    return engine


def check_file(url: URL) -> None:
    """See, without writing, that a SQLite file is absent, empty, or a database of a revision that we know.

    Raises:
        DatabaseError: It is anything else.
    """
    path = Path(url.database or "")
    if not path.parent.is_dir():
        raise DatabaseError(f"database {place(url)} cannot be made: the folder `{path.parent}` does not exist")
    if path.is_dir():
        raise DatabaseError(f"database {place(url)} is a folder; allowed is {_ALLOWED}")
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatabaseError(f"database {place(url)} cannot be read: {error.strerror}") from error
    if not header:
        return
    if header != _HEADER:
        raise DatabaseError(f"database {place(url)} is no SQLite database; name another file, or move this one away")
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone()
            found = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() if known else []
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"database {place(url)} is corrupt or cannot be read: {reason(error)}") from error
    for (revision,) in found:
        _check_revision(str(revision), place(url))


def _check_revision(revision: str, where: str) -> None:
    if revision not in REVISIONS:
        raise DatabaseError(
            f"database {where} was written by a newer inferloom (schema {revision}); "
            f"this one knows schemas up to {REVISIONS[-1]}"
        )


def _engine(url: URL) -> Engine:
    if url.drivername != "sqlite":
        try:
            # `format` makes parameters positional, as SQLite has them, so that rows are encoded the same way for both.
            return create_engine(url, paramstyle="format", pool_pre_ping=True, max_overflow=-1)
        except ModuleNotFoundError as error:
            raise SetupError("PostgreSQL needs psycopg: run `pip install 'inferloom[postgres]'`") from error
    if is_memory(url):
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    def connected(connection: sqlite3.Connection, record: object) -> None:
        # Transactions are begun below, explicitly; the driver's own way would begin a read and fail to upgrade it.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        # What is deleted is overwritten with zeros and not only unlinked: forgetting means it.
        connection.execute("PRAGMA secure_delete = ON")

    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("inferloom_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _set_wal(engine: Engine) -> None:
    """Switch a file to the write-ahead log, which stays set in the file.

    SQLite does not wait for other processes here, so we do.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    pooled = engine.raw_connection()
    try:
        while True:
            try:
                pooled.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise DatabaseError(f"database {place(engine.url)} cannot be used: {reason(error)}") from error
                time.sleep(0.02)
    finally:
        pooled.close()


def _migrate(engine: Engine, where: str) -> None:
    with engine.connect() as connection:
        if _revision(connection, where) == REVISIONS[-1]:
            return
    with engine.connect() as plain:
        connection = plain.execution_options(inferloom_write=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            # Another process may have been first while this one waited for the lock.
            current = _revision(connection, where)
            if current is None:
                _check_free(connection, where)
            if current != REVISIONS[-1]:
                _upgrade(connection)


def _revision(connection: Connection, where: str) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    if row is None:
        return None
    _check_revision(str(row[0]), where)
    return str(row[0])


def _check_free(connection: Connection, where: str) -> None:
    taken = sorted(set(inspect(connection).get_table_names()) & set(Base.metadata.tables))
    if taken:
        raise DatabaseError(
            f"database {where} belongs to something else: it has a table `{taken[0]}` that inferloom did not make"
        )


def _upgrade(connection: Connection) -> None:
    # Alembic is imported only where there is something to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ONE_MIGRATION:
        command.upgrade(config, "head")
