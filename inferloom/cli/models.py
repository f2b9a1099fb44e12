"""`inferloom models`: the models there are, and what an endpoint can really do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.output import print_json, print_table, print_text, usage_line
from inferloom.core.errors import UnknownNameError, UnreachableError

if TYPE_CHECKING:
    from inferloom.models.check import CheckReport
    from inferloom.models.spec import ModelSpec

app = typer.Typer(help="List models; probe an endpoint.")

_DEFAULT = Path("models.yaml")
ModelsFile = Annotated[
    Path | None,
    typer.Option("--models", metavar="FILE", help="A file of models by name; models.yaml where it is there."),
]


@app.command("list")
def list_models(models: ModelsFile = None, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the models that come along and those of a file."""
    found = _known(models)
    if json:
        print_json([{"name": name, **_fields(spec)} for name, spec in found.items()])
        return
    print_table(
        ["name", "model", "endpoint", "usd per million tokens", "at once"],
        [
            [
                name,
                spec.model,
                spec.base_url or "-",
                "-" if spec.price is None else f"{spec.price.input:g} in, {spec.price.output:g} out",
                str(spec.concurrency),
            ]
            for name, spec in found.items()
        ],
    )
    from inferloom.models.backends import BACKENDS

    print_text(f"schemes: {', '.join(f'{scheme}:' for scheme in BACKENDS.names())}")


@app.command("check")
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME|SPEC", help="A name of the file, or a spec like openai:llama-3.")
    ],
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Where the endpoint is.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VARIABLE", help="Environment variable with its key.")
    ] = None,
    models: ModelsFile = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Ask a model some fifteen short questions to find out what it can do."""
    from inferloom.models.check import check_model
    from inferloom.models.spec import ModelSpec
    from inferloom.pipelines.run import run_sync

    if ":" in name:
        fields = {"model": name, "base_url": base_url, "key": key}
        spec = ModelSpec.parse(
            {field: value for field, value in fields.items() if value is not None}, where="models check"
        )
    else:
        known = _known(models)
        if name not in known:
            raise UnknownNameError("model", name, known)
        given = {field: value for field, value in (("base_url", base_url), ("key", key)) if value is not None}
        spec = (
            ModelSpec.parse({**known[name].model_dump(mode="json"), **given}, where="models check")
            if given
            else known[name]
        )
    report = run_sync(check_model(spec))
    if not report.reachable:
        raise UnreachableError(report["reachable"].detail, where=name)
    if json:
        print_json(report.to_json())
    else:
        _print(report)


def _print(report: CheckReport) -> None:
    print_table([report.model, "", "found"], [[probe.name, probe.result, probe.detail] for probe in report.probes])
    if report.suggested:
        from inferloom.pipelines.document import dump

        print_text("put into its spec:\n" + "\n".join(f"  {line}" for line in dump(report.suggested).splitlines()))
    else:
        print_text("its spec is right as it is")
    print_text(f"this check: {usage_line(report.usage)}")


def _known(file: Path | None) -> dict[str, ModelSpec]:
    """The bundled models under their spec, and those of the file under their names."""
    from inferloom.models.spec import ModelSpec
    from inferloom.pipelines.modelfile import load_models

    bundled: dict[str, ModelSpec] = {f"pocket:{name}": ModelSpec.parse(f"pocket:{name}") for name in _pocket_names()}
    if file is None and not _DEFAULT.is_file():
        return bundled
    named: Mapping[str, ModelSpec] = load_models(file or _DEFAULT)
    return {**bundled, **named}


def _pocket_names() -> list[str]:
    import inferloom.models.pocket as pocket

    folder = Path(pocket.__path__[0])
    return sorted((entry.parent.name for entry in folder.glob("*/config.json")), key=lambda name: name != "small")


def _fields(spec: ModelSpec) -> dict[str, object]:
    return {
        "model": spec.model,
        "base_url": spec.base_url,
        "revision": spec.revision,
        "price": None if spec.price is None else spec.price.model_dump(mode="json"),
        "rates": spec.rates.model_dump(mode="json"),
        "concurrency": spec.concurrency,
    }
