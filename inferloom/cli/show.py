"""`inferloom show`: a pipeline as a picture, a study as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import print_json, print_text
from inferloom.core.errors import SetupError, UnknownNameError

if TYPE_CHECKING:
    from inferloom.store.rows import StudyRow


def show(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A pipeline's file, a preset's name, or a study's name.")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A pipeline as Mermaid text.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="A pipeline, or a study's winner, as YAML.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show a pipeline or a study."""
    from inferloom.pipelines.presets import names

    if what.endswith((".yaml", ".yml")) or Path(what).is_file() or what in names():
        _show_pipeline(what, mermaid, yaml, json)
        return
    store = open_to_read(db)
    try:
        study = store.study(what)
        if study is None:
            raise UnknownNameError("pipeline or study", what, [*names(), *(row.name for row in store.studies())])
    finally:
        store.close()
    _show_study(study, yaml, json)


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


def _show_study(study: StudyRow, yaml: bool, json: bool) -> None:
    if study.status != "done" or study.result is None:
        raise SetupError(
            f"the study `{study.name}` has no result yet (status: {study.status}); run its search again to go on",
            where="show",
        )
    import json as json_module

    document = json_module.loads(study.result)
    if json:
        print_json(document)
        return
    from inferloom.cli.study_table import print_study
    from inferloom.search.result import StudyResult

    result = StudyResult.from_json(document)
    if yaml:
        print_text(result.winner.pipeline_yaml)
    else:
        print_study(result)
