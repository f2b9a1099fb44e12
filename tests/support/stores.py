"""Stores for tests: on a file, in memory, and on PostgreSQL where INFERLOOM_TEST_POSTGRES names a server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url

SERVER = os.environ.get("INFERLOOM_TEST_POSTGRES")
SHARED = ["file", *(["postgres"] if SERVER else [])]
"""The kinds that several processes can open."""
KINDS = [*SHARED, "memory"]


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new database of a kind."""
    if kind == "postgres":
        with postgres_database() as url:
            yield url
    else:
        yield "sqlite://" if kind == "memory" else str(folder / "s.db")


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a database of its own on the test server."""
    assert SERVER is not None
    name = f"inferloom_{uuid.uuid4().hex[:12]}"
    server = create_engine(make_url(SERVER), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield make_url(SERVER).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()
