"""Rows of data files: JSONL (an object a line), CSV (a header line first) and plain text (a row `text` a line).

Every mistake in a file is one `DataError` that names the file and the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from inferloom.core.errors import DataError, nearest
from inferloom.core.types import Json

Row: TypeAlias = "dict[str, Json]"
SUFFIXES = (".jsonl", ".csv", ".txt")
_READ: dict[str, tuple[tuple[int, int], tuple[Row, ...]]] = {}
"""By path: time of change and size of the file as it was read, and its rows."""


def read_rows(path: str) -> Sequence[Mapping[str, Json]]:
    """The rows of a file, read once per process and again after the file has changed.

    Until then every call returns the same object, so that what is derived from it can be kept beside it.

    Raises:
        DataError: The file cannot be read, or a line of it is malformed; `where` is `file:line`.
    """
    file = Path(path)
    try:
        status = file.stat()
        version = (status.st_mtime_ns, status.st_size)
    except OSError:
        version = (0, 0)  # reading it says what is wrong
    known = _READ.get(path)
    if known is None or known[0] != version:
        known = _READ[path] = (version, tuple(row for _, row in placed_rows(file)))
    return known[1]


def placed_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(`file:line`, row) for each row of a file; a malformed line is met only when the reader gets there.

    Raises:
        DataError: The file cannot be read, or a line of it is malformed; `where` is `file:line`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"a file of rows ends in .jsonl, .csv or .txt, not in `{path.suffix}`", where=str(path))
    text = _read(path)
    return {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".txt": _plain_rows}[suffix](path, text)


def text_of(value: Json, name: str, place: str) -> str:
    """A field's value as text.

    Raises:
        DataError: It is neither text nor a number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        raise DataError(f"the field `{name}` must be text or a number, not {_kind(value)}", where=place)
    return str(value)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8; save the file as UTF-8",
            where=f"{path}:{line}",
        ) from None
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise DataError("there is no such file", where=str(path), suggestion=near) from None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from None


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    # Split at newlines only: `splitlines` would also break at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row: Json = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", where=place) from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"not valid JSON: {error}", where=place) from None
        if not isinstance(row, dict):
            raise DataError(f"a line must be a JSON object, not {_kind(row)}", where=place)
        yield place, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"{path}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = next((name for index, name in enumerate(header) if name in header[:index]), None)
                if twice is not None:
                    raise DataError(f"the header names the column `{twice}` twice", where=place)
                continue
            if len(cells) != len(header):
                raise DataError(f"the row has {len(cells)} cells, the header has {len(header)}", where=place)
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}:{line}") from None


def _plain_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", {"text": line.strip()}


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a number"
