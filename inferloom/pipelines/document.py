"""YAML documents: plain data with the line of every value, and the one canonical way to write data down again.

Knows nothing of pipelines; search jobs read their files through it too. Only plain YAML comes in: text, numbers,
true/false, null, lists and mappings with text keys. Tags, merge keys and infinities have no place here.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from inferloom.core.digest import digest
from inferloom.core.errors import SpecError, nearest
from inferloom.core.types import Json

if TYPE_CHECKING:
    from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Place: TypeAlias = "tuple[str | int, ...]"
"""The way from the top of a document to a value: keys and list positions."""

MAX_BYTES = 4 << 20
MAX_DEPTH = 60
MAX_VALUES = 200_000
"""Values after aliases are written out, so that nested aliases cannot fill the memory."""

_TAG = "tag:yaml.org,2002:"
_FLOW_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data and where each value stood. `name` is the file as the user gave it, or what stands for it."""

    data: Json
    name: str
    lines: dict[Place, int]
    """Line (from 1) by place; empty for data that never was a file."""
    path: Path | None = None

    @classmethod
    def from_data(cls, data: Json, name: str = "pipeline") -> Document:
        """A document for data made in code; its places have no lines."""
        return cls(data=data, name=name, lines={})

    def where(self, place: Place = ()) -> str:
        """`file:line` of a value, or of the nearest thing around it that has a line."""
        for length in range(len(place), -1, -1):
            line = self.lines.get(place[:length])
            if line is not None:
                return f"{self.name}:{line}"
        return self.name

    def error(self, place: Place, message: str, suggestion: str | None = None) -> SpecError:
        """The error for a value of this document, with file, line and field."""
        field = field_name(place)
        where = f"{self.where(place)}: {field}" if field else self.where(place)
        return SpecError(message, where=where, suggestion=suggestion)


def field_name(place: Place) -> str:
    """A place as the user would write it: `steps[1].sample.n`."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def load_document(source: str | Path, *, name: str | None = None) -> Document:
    """Read a document from a file (`Path`) or from text (`str`).

    Raises:
        SpecError: There is no such file, it is not UTF-8, it is empty, or it is not plain YAML.
    """
    if isinstance(source, Path):
        return _parse(_read(source), name or str(source), source)
    return _parse(source, name or "<text>", None)


def content_hash(data: Json) -> str:
    """32 hex digits that stand for the content: the hash of its canonical JSON (sorted keys)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return digest(text)


def dump(data: Json) -> str:
    """Data as canonical YAML: block style, keys in their order, short lists of scalars on one line.

    Loading the text gives the same data back, and dumping that gives the same text.
    """
    if isinstance(data, dict | list) and data:
        return "\n".join(_block(data, 0)) + "\n"
    return _inline(data) + "\n"


# Reading


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise SpecError("is a folder; a YAML file was expected", where=str(path))
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"the file has {path.stat().st_size} bytes; at most {MAX_BYTES} are read", where=str(path))
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SpecError("no such file", where=str(path), suggestion=_near_file(path)) from None
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", where=str(path)) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"not UTF-8 text (byte 0x{raw[error.start]:02x} at offset {error.start})", where=f"{path}:{line}"
        ) from None


def _near_file(path: Path) -> str | None:
    try:
        siblings = {entry.name.lower(): entry.name for entry in path.parent.iterdir() if entry.is_file()}
    except OSError:
        return None
    near = nearest(path.name, siblings)
    return str(path.with_name(siblings[near])) if near else None


def _parse(text: str, name: str, path: Path | None) -> Document:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
    from ruamel.yaml.reader import ReaderError

    if len(text) > MAX_BYTES:
        raise SpecError(f"the text has {len(text)} characters; at most {MAX_BYTES} are read", where=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(
            _yaml_problem(error.problem or str(error), text, mark.line if mark else 0), where=where
        ) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"holds the character U+{ord(text[error.position]):04X}, which YAML does not allow", where=f"{name}:{line}"
        ) from None
    except ReusedAnchorWarning:
        raise SpecError("the same anchor (`&name`) is defined twice", where=name) from None
    except RecursionError:
        raise SpecError(f"is nested deeper than {MAX_DEPTH} levels", where=name) from None
    except (YAMLError, ValueError) as error:
        raise SpecError(f"not valid YAML: {str(error).splitlines()[0]}", where=name) from None
    if root is None:
        raise SpecError("the file is empty" if path else "the text is empty", where=name)
    builder = _Builder(name)
    data = builder.build(root, (), root.start_mark.line + 1)
    return Document(data=data, name=name, lines=builder.lines, path=path)


def _yaml_problem(problem: str, text: str, line: int) -> str:
    lines = text.split("\n")
    if "\\t" in problem or "'\t'" in problem or (line < len(lines) and lines[line].lstrip(" ").startswith("\t")):
        return "a tab is used to indent; YAML takes spaces only"
    if "another document" in problem:
        return "holds more than one YAML document; one was expected"
    if "undefined alias" in problem:
        return f"{problem}; no anchor has that name before it"
    return f"not valid YAML: {problem}"


class _Builder:
    """Turns YAML nodes into plain data and notes their lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self._values = 0

    def build(self, node: Node, place: Place, line: int) -> Json:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(place, line, f"holds more than {MAX_VALUES} values once aliases are written out")
        if len(place) > MAX_DEPTH:
            raise self._error(place[:1], line, f"is nested deeper than {MAX_DEPTH} levels")
        self.lines[place] = line
        if isinstance(node, MappingNode):
            self._plain_tag(node, "map", place, line)
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            self._plain_tag(node, "seq", place, line)
            return [
                self.build(item, (*place, position), item.start_mark.line + 1)
                for position, item in enumerate(node.value)
            ]
        if not isinstance(node, ScalarNode):
            raise self._error(place, line, "is no value that YAML has")
        return self._scalar(node, place, line)

    def _mapping(self, node: MappingNode, place: Place) -> Json:
        from ruamel.yaml.nodes import ScalarNode

        result: dict[str, Json] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise self._error(place, line, "a key must be text, not a list or a mapping")
            if key.tag == f"{_TAG}merge":
                raise self._error(place, line, "merge keys (`<<`) are not read; write the keys out")
            if key.tag != f"{_TAG}str" and not key.style and key.tag not in (f"{_TAG}timestamp",):
                raise self._error(place, line, f'the key `{key.value}` must be text; write it as "{key.value}"')
            if key.value in result:
                first = self.lines[(*place, key.value)]
                raise self._error((*place, key.value), line, f"the key stands here twice (first on line {first})")
            result[key.value] = self.build(value, (*place, key.value), line)
        return result

    def _scalar(self, node: ScalarNode, place: Place, line: int) -> Json:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            try:
                number = _number(text.replace("_", ""), kind)
            except ValueError:
                raise self._error(place, line, f"`{text[:40]}` is not a number that can be read") from None
            if not math.isfinite(number):
                raise self._error(place, line, f"`{text}` is not a finite number")
            return number
        raise self._error(place, line, f"the tag `{node.tag}` is not read; only plain YAML values are")

    def _plain_tag(self, node: Node, kind: str, place: Place, line: int) -> None:
        if str(node.tag) != _TAG + kind:
            raise self._error(place, line, f"the tag `{node.tag}` is not read; only plain YAML values are")

    def _error(self, place: Place, line: int, message: str) -> SpecError:
        field = field_name(place)
        return SpecError(message, where=f"{self.name}:{line}: {field}" if field else f"{self.name}:{line}")


def _number(text: str, kind: str) -> int | float:
    if kind == "float":
        return float(
            text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan")
        )
    bare = text.lower().lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(bare[:2], 10)
    return int(text, base)


# Writing

_PLAIN = re.compile(r"(?:[A-Za-z_]|\.{0,2}/)(?:[A-Za-z0-9_./+()%<>=*@$^~-]|:(?=[^\s,\[\]{}])|[ ](?=[^\s#:-]))*")
_RESERVED = frozenset({"null", "true", "false", "yes", "no", "on", "off", ".inf", ".nan", "...", "<<", "="})
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def _block(data: dict[str, Json] | list[Json], indent: int) -> list[str]:
    pad = "  " * indent
    lines: list[str] = []
    if isinstance(data, list):
        for item in data:
            nested = _nested(item, indent + 1)
            if nested is None:
                lines.append(f"{pad}- {_inline(item)}")
            elif isinstance(item, str):
                lines.append(f"{pad}- {nested[0]}")
                lines.extend(nested[1:])
            else:
                lines.append(f"{pad}- {nested[0].lstrip()}")
                lines.extend(nested[1:])
        return lines
    for key, value in data.items():
        nested = _nested(value, indent + 1)
        if nested is None:
            lines.append(f"{pad}{_scalar(key)}: {_inline(value)}")
        elif isinstance(value, str):
            lines.append(f"{pad}{_scalar(key)}: {nested[0]}")
            lines.extend(nested[1:])
        else:
            lines.append(f"{pad}{_scalar(key)}:")
            lines.extend(nested)
    return lines


def _nested(value: Json, indent: int) -> list[str] | None:
    """The lines of a value that does not fit behind its key, or None for one that does."""
    if isinstance(value, str):
        return _literal(value, indent)
    if isinstance(value, dict) and value:
        return _block(value, indent)
    if isinstance(value, list) and value:
        scalars = all(not isinstance(item, dict | list) and "\n" not in str(item) for item in value)
        if not scalars or len(_inline(value)) > _FLOW_WIDTH:
            return _block(value, indent)
    return None


def _literal(text: str, indent: int) -> list[str] | None:
    """A text of several lines as a `|` block, where that keeps it exactly."""
    if "\n" not in text or len(text) < 2:
        return None
    body = text[:-1] if text.endswith("\n") else text
    lines = body.split("\n")
    fine = all(line.isprintable() and not line.endswith(" ") for line in lines)
    if not fine or not lines[0] or lines[0].startswith(" ") or not lines[-1] or "\ufeff" in text:
        return None
    pad = "  " * indent
    return ["|" if text.endswith("\n") else "|-", *(pad + line if line else "" for line in lines)]


def _inline(value: Json) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: bool | int | float | str | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"{value} is not a finite number and cannot be written")
        return _float(value)
    if len(value) <= 200 and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in value) + '"'


def _float(value: float) -> str:
    text = repr(value)
    mantissa, sign, exponent = text.partition("e")
    return text if not sign or "." in mantissa else f"{mantissa}.0e{exponent}"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
