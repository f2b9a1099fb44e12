"""LangGraph's own checkpointers beside our database: SQLite in a file, PostgreSQL in the same database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.base import BaseCheckpointSaver


@asynccontextmanager
async def saver_beside(url: str) -> AsyncIterator[BaseCheckpointSaver[str]]:
    """A checkpointer that several processes can open, by the URL of our database."""
    if url.startswith("postgresql"):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url.replace("+psycopg", "")) as postgres:
            await postgres.setup()
            yield postgres
    else:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(f"{url}.checkpoints") as sqlite:
            yield sqlite
