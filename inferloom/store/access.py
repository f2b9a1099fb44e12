"""Read access shared by the reading modules: short read transactions, and rows as mappings."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from sqlalchemy import Engine, Executable
from sqlalchemy.exc import DBAPIError

from inferloom.core.errors import DatabaseError
from inferloom.store.outage import patiently


class Access:
    """Reads from one database.

    Args:
        engine: The database.
        place: The database as messages name it.
        exclusive: Held while reading where the writer shares the connection (a database in memory); else None.
    """

    def __init__(self, engine: Engine, place: str, exclusive: threading.RLock | None = None) -> None:
        self.engine = engine
        self.place = place
        self.exclusive = exclusive or nullcontext()

    def rows(self, statement: Executable) -> list[Mapping[str, Any]]:
        """Every row that a statement gives, by column name; what a column holds is known only to the tables.

        Raises:
            DatabaseError: The database cannot be read.
        """

        def read() -> list[Mapping[str, Any]]:
            with self.exclusive, self.engine.connect() as connection:
                return [dict(row) for row in connection.execute(statement).mappings()]

        try:
            return patiently(self.engine, read)
        except DBAPIError as error:
            raise DatabaseError(f"database {self.place} cannot be read: {reason(error)}") from error

    def row(self, statement: Executable) -> Mapping[str, Any] | None:
        """The first row, or None."""
        found = self.rows(statement)
        return found[0] if found else None


def reason(error: BaseException) -> str:
    """The first line of what a driver said."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(said).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(said).__name__
