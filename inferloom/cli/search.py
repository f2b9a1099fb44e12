"""`inferloom search`: search a space of pipelines for the best under a cost."""

from __future__ import annotations

from inferloom.cli.options import DEFAULT_DB, Db, Json


def search(job: str, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Search a space of pipelines."""
