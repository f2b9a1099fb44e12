"""`inferloom serve`: pipelines behind OpenAI's chat completions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, keep_what_is_loaded, load_pipeline, open_store
from inferloom.cli.output import remark
from inferloom.core.errors import SetupError

if TYPE_CHECKING:
    from inferloom.pipelines.spec import PipelineSpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,119}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    pipelines: Annotated[
        list[str],
        typer.Argument(
            metavar="PIPELINE...", help="Files or presets, served under the name of the file; NAME=FILE for another."
        ),
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The port; 0 takes any that is free.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="A YAML file of API keys; more in INFERLOOM_API_KEYS."),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Listen beyond this machine without any API key.")
    ] = False,
    running: Annotated[int, typer.Option("--running", min=1, help="Requests that are answered at once.")] = 64,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait; more are refused.")] = 256,
    body: Annotated[int, typer.Option("--body", min=1024, help="The longest body of a request, in bytes.")] = 1 << 20,
    turns: Annotated[int, typer.Option("--turns", min=1, help="The most messages of a conversation.")] = 200,
    choices: Annotated[int, typer.Option("--choices", min=1, max=128, help="The largest `n` of a request.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="The longest that an answer may take.")] = 600.0,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds for requests that still run when the server is stopped."),
    ] = 30.0,
    db: Db = DEFAULT_DB,
) -> None:
    """Serve pipelines behind OpenAI's chat completions."""
    try:
        from inferloom.serving.server import open_socket
        from inferloom.serving.server import serve as run_server
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise SetupError(f"serving needs {name}: run `pip install 'inferloom[serve]'`", where="serve") from None
    from inferloom.serving.keys import load_keys
    from inferloom.serving.limits import Limits

    specs = _specs(pipelines)
    entries = load_keys(keys)
    if not entries and host not in _LOOPBACK and not open_to_all:
        message = f"anybody who reaches {host} could spend your money; name API keys with --keys, or say --open"
        raise SetupError(message, where="serve")
    listening = open_socket(host, port)
    store = open_store(db)
    limits = Limits(body=body, turns=turns, choices=choices, running=running, queue=queue, seconds=seconds, grace=grace)
    shown = f"[{host}]" if ":" in host else host

    def ready() -> None:
        keep_what_is_loaded()
        where = f"http://{shown}:{listening.getsockname()[1]}/v1"
        locked = f"{len(entries)} API keys" if entries else "no API keys"
        remark(f"serving {', '.join(specs)} at {where}; {locked}; Ctrl-C stops")

    try:
        run_server(specs, store, entries, limits, listening, ready)
    finally:
        store.close()


def _specs(arguments: list[str]) -> dict[str, PipelineSpec]:
    """The pipelines by the names under which they are served.

    Raises:
        SpecError: A pipeline is wrong.
        SetupError: A name cannot be one, or stands for two.
    """
    found: dict[str, PipelineSpec] = {}
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if not equals:
            name, source = Path(argument).stem, argument
        if not _NAME.fullmatch(name):
            raise SetupError(f"`{name[:80]}` cannot name a model; use letters, digits and . _ - / :", where="serve")
        if name in found:
            raise SetupError(f"two pipelines would be served as `{name}`; write one as NAME=FILE", where="serve")
        found[name] = load_pipeline(source)
    return found
