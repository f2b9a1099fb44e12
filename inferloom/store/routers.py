"""Routers in the database: versions that never change but for their status.

Of each name at most one version is the `champion`, which decides. A `challenger` is tried beside it; a `retired` one
has been champion, or was given up. Promoting is one transaction: the former champion retires in the same moment.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Connection, func, insert, select, update

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.store import tables
from inferloom.store.access import Access
from inferloom.store.bank import run_job
from inferloom.store.writer import Writer

RouterStatus = Literal["champion", "challenger", "trained", "retired"]
_ROUTERS = tables.table(tables.RouterTable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterRow:
    """One version of a router, without its weights."""

    name: str
    version: int
    status: str
    manifest: str
    """JSON."""
    promoted: float | None
    """When it last became the champion."""
    created: float


class Routers:
    """The part of the store that concerns routers."""

    def __init__(self, access: Access, writer: Writer) -> None:
        self._access = access
        self._writer = writer

    def add(self, name: str, manifest: str, weights: bytes) -> RouterRow:
        """Keep a router as the next version of its name; the first of a name is the champion.

        Raises:
            StorageError: The database takes no writes.
        """
        now = time.time()

        def work(connection: Connection) -> int:
            newest = connection.execute(select(func.max(_ROUTERS.c.version)).where(_ROUTERS.c.name == name)).scalar()
            version = int(newest or 0) + 1
            champions = select(_ROUTERS.c.version).where(_ROUTERS.c.name == name, _ROUTERS.c.status == "champion")
            first = connection.execute(champions).first() is None
            connection.execute(
                insert(_ROUTERS).values(
                    name=name,
                    version=version,
                    status="champion" if first else "trained",
                    manifest=manifest,
                    weights=weights,
                    promoted=now if first else None,
                    created=now,
                )
            )
            return version

        return self.get(name, run_job(self._writer, work))

    def all(self, name: str | None = None) -> list[RouterRow]:
        """Every version, by name, the newest first."""
        columns = [column for column in _ROUTERS.c if column.name != "weights"]
        statement = select(*columns).order_by(_ROUTERS.c.name, _ROUTERS.c.version.desc())
        if name is not None:
            statement = statement.where(_ROUTERS.c.name == name)
        return [RouterRow(**row) for row in self._access.rows(statement)]

    def get(self, name: str, version: int | None = None) -> RouterRow:
        """A version of a router; None: its champion.

        Raises:
            UnknownNameError: There is none of this name or version.
            UserError: No version of it is the champion.
        """
        rows = self.all(name)
        if not rows:
            raise UnknownNameError("router", name, sorted({row.name for row in self.all()}))
        if version is None:
            champion = next((row for row in rows if row.status == "champion"), None)
            if champion is None:
                versions = ", ".join(str(row.version) for row in rows)
                raise UserError(f"no version of the router `{name}` is the champion; its versions are {versions}")
            return champion
        found = next((row for row in rows if row.version == version), None)
        if found is None:
            raise UnknownNameError(f"version of the router `{name}`", str(version), [str(row.version) for row in rows])
        return found

    def weights(self, row: RouterRow) -> bytes:
        """The weights of a version, as safetensors."""
        here = (_ROUTERS.c.name == row.name, _ROUTERS.c.version == row.version)
        found = self._access.row(select(_ROUTERS.c.weights).where(*here))
        assert found is not None, "a version is never deleted"
        return bytes(found["weights"])

    def set_status(self, name: str, version: int, status: RouterStatus) -> RouterRow:
        """Change a version's status; where it becomes the champion, the former one retires.

        Raises:
            UnknownNameError: There is none of this name or version.
            StorageError: The database takes no writes.
        """
        assert status in get_args(RouterStatus)
        self.get(name, version)
        now = time.time()

        def work(connection: Connection) -> None:
            if status == "champion":
                former = (_ROUTERS.c.name == name, _ROUTERS.c.status == "champion", _ROUTERS.c.version != version)
                connection.execute(update(_ROUTERS).where(*former).values(status="retired"))
            here = (_ROUTERS.c.name == name, _ROUTERS.c.version == version)
            changed = {"status": status} | ({"promoted": now} if status == "champion" else {})
            connection.execute(update(_ROUTERS).where(*here).values(changed))

        run_job(self._writer, work)
        return self.get(name, version)
