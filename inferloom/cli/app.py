"""The tree of commands. Each is a file of this folder; what they do is in the other rooms."""

from __future__ import annotations

from typing import Annotated

import typer

from inferloom.cli import (
    bank,
    evaluation,
    init,
    memory,
    models,
    nodes,
    plan,
    router,
    run,
    runs,
    scaling,
    search,
    serve,
    show,
    space,
    study,
)
from inferloom.cli.options import Group, group_with_default

app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Compose inference-time techniques in YAML, search for the best composition, keep the accounts.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from inferloom import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("search")(search.search)
app.command("eval")(evaluation.evaluate)
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("show")(show.show)
app.command("nodes")(nodes.nodes)
app.command("scaling")(scaling.scaling)
app.command("init")(init.init)
for _name, _module, _default in (
    ("study", study, "list"),
    ("models", models, "list"),
    ("runs", runs, "list"),
    ("space", space, "list"),
    ("bank", bank, "size"),
    ("memory", memory, "list"),
    ("router", router, "list"),
):
    app.add_typer(_module.app, name=_name, cls=group_with_default(_default))
