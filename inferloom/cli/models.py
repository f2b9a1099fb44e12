"""`inferloom models`: the models there are, and what an endpoint can do."""

from __future__ import annotations

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json

app = typer.Typer(help="List models; probe an endpoint.")


@app.command("list")
def list_models(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the models."""


@app.command("check")
def check(name: str, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Probe."""
