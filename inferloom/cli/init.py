"""`inferloom init`."""

from __future__ import annotations

from inferloom.cli.options import DEFAULT_DB, Db, Json


def init(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Set up."""
