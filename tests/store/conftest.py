"""A store of each kind: on a file, in memory, and on PostgreSQL where INFERLOOM_TEST_POSTGRES names a server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from inferloom.store import Store

SERVER = os.environ.get("INFERLOOM_TEST_POSTGRES")
KINDS = ["file", "memory", *(["postgres"] if SERVER else [])]


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
            connection.exec_driver_sql(f"DROP DATABASE {name}")
        server.dispose()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "postgres":
        with postgres_database() as url, Store.open(url) as opened:
            yield opened
    else:
        with Store.open(str(tmp_path / "s.db") if request.param == "file" else "sqlite://") as opened:
            yield opened
