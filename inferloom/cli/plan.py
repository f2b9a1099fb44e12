"""`inferloom plan`: what a pipeline would cost, before it is spent."""

from __future__ import annotations

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.run import PipelineArgument


def plan(pipeline: PipelineArgument, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Predict a pipeline's calls, tokens and money."""
