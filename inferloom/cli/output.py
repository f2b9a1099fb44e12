"""What the commands print, and where: results on standard output, everything else on standard error.

Text from users and models is never read as markup, and its control characters never reach a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from inferloom.core.errors import InferloomError, SetupError, SpecError
from inferloom.core.types import Usage

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def out() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def err() -> Console:
    """The console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def clean(text: str) -> str:
    """A text without control characters other than newline and tab."""
    return _CONTROL.sub("", text)


def print_json(document: object) -> None:
    """The one JSON document of a command run with `--json`; characters outside ASCII stay as they are."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """A text as it is, one newline at its end; control characters go where a terminal would obey them."""
    sys.stdout.write((clean(text) if sys.stdout.isatty() else text).rstrip("\n") + "\n")


def print_error(error: InferloomError, as_json: bool) -> None:
    """One line on standard error, or the `error` document on standard output."""
    if as_json:
        print_json({"error": error.to_json()})
    else:
        sys.stderr.write("error: " + clean(" ".join(error.sentence.split())) + "\n")


def remark(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    err().print(clean(text), style="dim", soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table of texts; columns whose cells are all figures are set to the right."""
    from rich import box
    from rich.table import Table

    cells = [[clean(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        figures = bool(cells) and all(re.fullmatch(r"[-+$~<]?[\d.,]*[%sk]?|-", row[index]) for row in cells)
        table.add_column(column, justify="right" if figures else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = out()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print_text(f"{name:<{width}}  {value}")


def usage_line(usage: Usage) -> str:
    """A usage in one line."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    money = f", ${usage.usd:.4f}" if usage.usd else ""
    return (
        f"{count(usage.calls, 'call')}, {usage.prompt_tokens:,} prompt{cached} + "
        f"{usage.completion_tokens:,} completion tokens{money}, "
        f"{usage.seconds:.1f} model seconds"
    )


def count(number: float, what: str, several: str | None = None) -> str:
    """A number of things: `1 call`, `1,200 calls`."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


def check_new(path: Path, *endings: str, where: str) -> None:
    """See that a file can be made there.

    Args:
        path: The file.
        endings: The suffixes that it may have; none: any.
        where: The command, for errors.

    Raises:
        SpecError: It has another suffix.
        SetupError: It exists already, or its folder does not.
    """
    if endings and path.suffix not in endings:
        raise SpecError(f"`{path.name}` must end in {' or '.join(endings)}", where=where)
    if path.exists():
        raise SetupError("the file exists already; name another", where=str(path))
    if not path.resolve().parent.is_dir():
        raise SetupError("the folder does not exist", where=str(path.parent))


def write_new(path: Path, text: str) -> None:
    """A new file, which appears only when it is whole.

    Raises:
        SetupError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(path)
    except OSError as error:
        raise SetupError(f"cannot be written: {error.strerror or error}", where=str(path)) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def report(document: Mapping[str, object], sentence: str, as_json: bool) -> None:
    """What a command did: a sentence, or a document."""
    if as_json:
        print_json(document)
    else:
        print_text(sentence)


def short(text: str, width: int = 48) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def moment(seconds: float) -> str:
    """A time (Unix seconds) on this machine's clock."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
