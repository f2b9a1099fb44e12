"""Where a command line becomes an exit code: every way a command can end is one line here, never a traceback.

Exit codes: 0 done; 1 something failed; 2 the user can mend it; 130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from inferloom.cli.output import print_error
from inferloom.core.errors import InferloomError, UserError, nearest

INTERRUPTED = 130
BROKEN_PIPE = 141


class UsageError(UserError):
    """A command line that cannot be read."""

    kind = "usage"


class InternalError(InferloomError):
    """Something went wrong that inferloom did not foresee."""

    kind = "internal"


def main() -> NoReturn:
    """The console script."""
    raise SystemExit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code.
    """
    from inferloom.cli.app import app

    arguments = list(arguments) or ["--help"]
    as_json = "--json" in arguments[: arguments.index("--")] if "--" in arguments else "--json" in arguments
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="inferloom", standalone_mode=False)
        sys.stdout.flush()
    except InferloomError as error:
        return _fail(error, as_json)
    except typer.TyperException as error:
        return _fail(_usage_error(error), as_json)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = BROKEN_PIPE
    except Exception as error:  # the outermost frame: whatever comes here becomes one line
        return _fail(_unforeseen(error), as_json)
    if code == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    if code == BROKEN_PIPE:
        _silence_stdout()
    return code if isinstance(code, int) else 0


def _fail(error: InferloomError, as_json: bool) -> int:
    try:
        print_error(error, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    return error.exit_code


def _usage_error(error: typer.TyperException) -> UsageError:
    """The framework's complaint as one sentence with the nearest name and where to read on."""
    context = getattr(error, "ctx", None)
    command = str(context.command_path) if context is not None else "inferloom"
    option = getattr(error, "option_name", None)
    near = list(getattr(error, "possibilities", None) or ())
    if option is not None and type(error).__name__ == "NoSuchOption":
        return UsageError(
            f"unknown option `{option}` (see `{command} --help`)",
            suggestion=nearest(str(option), near) or (near[0] if near else None),
        )
    message = " ".join(error.format_message().split()).rstrip(".")
    return UsageError(f"{message[:1].lower()}{message[1:]} (see `{command} --help`)")


def _unforeseen(error: Exception) -> InternalError:
    if os.environ.get("INFERLOOM_DEBUG"):
        traceback.print_exception(error)
    text = " ".join(str(error).split())[:300]
    return InternalError(
        f"unexpected {type(error).__name__}"
        + (f": {text}" if text else "")
        + " (set INFERLOOM_DEBUG=1 for the traceback)"
    )


def _silence_stdout() -> None:
    """Point standard output nowhere, so that the interpreter's last flush is not another broken pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
