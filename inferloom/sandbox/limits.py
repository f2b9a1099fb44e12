"""What every engine holds a program to, and how what it hands out is tidied."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from inferloom.core.code import check, parsed
from inferloom.core.protocols import SandboxResult
from inferloom.core.types import Json

_ERROR = 300
"""The longest sentence on what went wrong, in characters."""
_LEAVING = re.compile(r"\b(?:return|yield|await)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """Time that it runs."""
    memory: int = 256 * 2**20
    """Bytes that it holds."""
    recursion: int = 1000
    """Calls inside one another."""
    output: int = 64 * 2**10
    """Bytes that it prints, and bytes of its value as JSON."""
    source: int = 2**20
    """Characters of the program and its inputs."""

    def refusal(self, code: str, inputs: Mapping[str, Json] | None) -> SandboxResult | None:
        """The result of a program that is not even tried, or None."""
        if len(code) > self.source:
            return SandboxResult(outcome="limit", error=f"the program has more than {self.source} characters")
        try:
            code.encode()
            handed = json.dumps(dict(inputs or {}), ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            return SandboxResult(outcome="error", error="the program or an input is not Unicode text")
        except (TypeError, ValueError, RecursionError) as error:
            return SandboxResult(outcome="unsupported", error=sentence(f"the inputs are not plain data: {error}"))
        if len(handed) > self.source:
            return SandboxResult(outcome="limit", error=f"the inputs have more than {self.source} bytes")
        return _misplaced(code)

    def plain(self, value: object) -> Json:
        """A value as plain data; None where it is not plain or too large."""
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
        except (TypeError, ValueError, RecursionError):
            return None
        if len(text) > self.output:
            return None
        data: Json = json.loads(text)
        return data

    def printed(self, output: str) -> str:
        """Output, cut and without what no database takes."""
        return output.encode(errors="replace")[: self.output].decode(errors="ignore")


def may_leave_early(code: str) -> bool:
    """Whether a program may have a `return` outside a function that was not found: this Python cannot parse it."""
    if not _LEAVING.search(code):
        return False
    try:
        parsed(code)
    except (SyntaxError, ValueError):
        return True
    return False


def _misplaced(code: str) -> SandboxResult | None:
    """The result of a program that parses and does not compile, such as one with a `return` outside a function.

    An engine that takes it runs nothing of what follows, not even tests. A program that this Python cannot parse is
    left to the engine, which may know a later grammar.
    """
    try:
        tree = parsed(code)
    except (SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError):
        return SandboxResult(outcome="limit", error="the program is too deeply nested")
    try:
        check(tree)
    except SyntaxError as error:
        place = f" (line {error.lineno})" if error.lineno else ""
        return SandboxResult(outcome="error", error=sentence(f"SyntaxError: {error.msg}{place}"))
    except (ValueError, RecursionError, MemoryError) as error:
        return SandboxResult(outcome="limit", error=sentence(f"the program cannot be compiled: {error}"))
    return None


def sentence(text: str) -> str:
    """A message on one line, cut, without what no database takes."""
    line = " ".join(text.encode(errors="replace").decode().replace("\0", "").split())
    return line if len(line) <= _ERROR else line[: _ERROR - 1] + "…"
