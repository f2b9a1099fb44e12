"""Read access shared by the reading modules: short read transactions, and rows as mappings."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from sqlalchemy import Engine, Executable, RowMapping
from sqlalchemy.exc import DBAPIError

from inferloom.core.errors import DatabaseError


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

    def rows(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> Sequence[RowMapping]:
        """Every row that a statement gives.

        Raises:
            DatabaseError: The database cannot be read.
        """
        try:
            with self.exclusive, self.engine.connect() as connection:
                return connection.execute(statement, parameters or {}).mappings().all()
        except DBAPIError as error:
            raise DatabaseError(f"database {self.place} cannot be read: {str(error.orig).strip()}") from error

    def row(self, statement: Executable) -> RowMapping | None:
        """The first row, or None."""
        found = self.rows(statement)
        return found[0] if found else None
