"""The options that every command shares, and the small things done with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from inferloom.core.errors import UnknownNameError

if TYPE_CHECKING:
    from typer._click.core import Command, Context

    from inferloom.pipelines.spec import PipelineSpec
    from inferloom.store import Store

DEFAULT_DB = "sqlite:///inferloom.db"

Db = Annotated[
    str,
    typer.Option(
        "--db", metavar="URL", envvar="INFERLOOM_DB", help="Database: sqlite:///FILE or postgresql+psycopg://..."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
Stream = Annotated[
    str | None,
    typer.Option(
        "--stream",
        metavar="NAME",
        help="Draw from this named stream: what was drawn under it before is taken from the bank.",
    ),
]

Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="Whose memories the pipeline means: a user's, a team's.")
]


def open_store(url: str) -> Store:
    """The database of `--db`, made or upgraded where needed.

    Raises:
        DatabaseError: It is corrupt, newer than this version, or cannot be reached.
    """
    from inferloom.store import Store

    return Store.open(url)


def load_pipeline(source: str) -> PipelineSpec:
    """A pipeline whose models can be opened: what is wrong with it is said before a database is made.

    Raises:
        SpecError: There is no such pipeline, or it is wrong.
        SetupError, UnknownNameError: A model cannot be opened.
    """
    from inferloom.models.backends import open_backend
    from inferloom.pipelines.spec import PipelineSpec

    spec = PipelineSpec.load(source)
    for name, model in spec.models.items():
        open_backend(model, where=spec.where("models", name))
    return spec


def open_to_read(url: str) -> Store:
    """The database of `--db` for commands that only look: where there is none yet, an empty one that is not kept.

    Raises:
        DatabaseError: It is corrupt, newer than this version, or cannot be reached.
    """
    from inferloom.store.engine import parse_url

    parsed = parse_url(url)
    missing = parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists()
    return open_store("sqlite://" if missing else url)


def keep_what_is_loaded() -> None:
    """Load what runs pipelines and take it out of garbage collection, where a command goes on for long.

    None of it is ever garbage, and looking through it costs a tenth of a second each time.
    """
    import gc

    import langgraph.graph  # noqa: F401

    gc.collect()
    gc.freeze()


class Group(TyperGroup):
    """A command group whose unknown commands are our own errors, and that may have a command for no command."""

    default: str | None = None

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        if self.default is not None and (
            not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        ):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Context) -> object:
        """Run; a reader of our output that went away is no error of ours."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(141) from None

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Find the command.

        Raises:
            UnknownNameError: There is none of that name.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UnknownNameError("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def group_with_default(command: str) -> type[Group]:
    """A group that runs `command` where none is named."""
    return type(f"{command.title()}Group", (Group,), {"default": command})
