"""`inferloom show`: a pipeline as a picture, a study as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import print_json, print_text
from inferloom.core.errors import UnknownNameError


def show(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A pipeline's file, a preset's name, or a study's name.")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A pipeline as Mermaid text.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="A pipeline, or a study's winner, as YAML.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show a pipeline or a study."""
    from inferloom.cli.study_table import show_study
    from inferloom.pipelines.presets import names

    if what.endswith((".yaml", ".yml")) or Path(what).is_file() or what in names():
        _show_pipeline(what, mermaid, yaml, json)
        return
    store = open_to_read(db)
    try:
        row = store.study(what)
        if row is None:
            raise UnknownNameError("pipeline or study", what, [*names(), *(known.name for known in store.studies())])
    finally:
        store.close()
    show_study(row, yaml, json, where="show")


def _show_pipeline(source: str, mermaid: bool, yaml: bool, json: bool) -> None:
    from inferloom.cli.picture import picture
    from inferloom.pipelines.draw import mermaid as mermaid_text
    from inferloom.pipelines.spec import PipelineSpec

    spec = PipelineSpec.load(source)
    if json:
        print_json({"name": spec.name, "hash": spec.hash, "yaml": spec.to_yaml(), "mermaid": mermaid_text(spec)})
    elif yaml:
        print_text(spec.to_yaml())
    else:
        print_text(mermaid_text(spec) if mermaid else picture(spec))
