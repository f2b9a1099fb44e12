"""Alembic's entry: migrates on the connection, and inside the transaction, that the caller hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from inferloom.store.engine import VERSION_TABLE
from inferloom.store.tables import Base


def _ours(name: str | None, kind: str, parents: object) -> bool:
    """Leave other tables of the same database (Optuna's) alone when differences are looked for."""
    return kind != "table" or name in Base.metadata.tables


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=_ours,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
