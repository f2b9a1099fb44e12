"""The default engine: pydantic-monty, an interpreter of a part of Python without a way to files, network or processes.

Programs run in worker processes that are started with an empty environment, so that a crash or a hang costs a worker,
never us: the pool kills one that does not answer in time and starts another.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import importlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from inferloom.core.code import parsed
from inferloom.core.errors import SetupError
from inferloom.core.protocols import SandboxResult
from inferloom.core.types import Json
from inferloom.sandbox.limits import Limits, may_leave_early, sentence

if TYPE_CHECKING:
    from pydantic_monty import AsyncMonty, MontyError, OSPolicy, ResourceLimits

_GRACE = 1.0
"""Seconds past the time limit after which a worker that does not answer is killed."""
_KNOWN = frozenset({
    "asyncio", "base64", "collections", "copy", "dataclasses", "datetime", "decimal", "functools", "hashlib",
    "itertools", "json", "math", "operator", "os", "pathlib", "random", "re", "statistics", "string", "sys",
    "time", "typing",
})  # fmt: skip
"""Modules that monty has in part, and that are harmless to import here to see what they should have."""
_NO_MODULE_ATTRIBUTE = re.compile(r"module '(\w+)' has no attribute '(\w+)'")
_NO_ATTRIBUTE = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_NO_NAME = re.compile(r"name '(\w+)' is not defined")
_NO_IMPORT = re.compile(r"No module named '|attempted relative import|cannot import name '(\w+)' from '([\w.]+)'")
_EXITS = frozenset({"exit", "quit", "_exit", "abort", "SystemExit"})
"""What ends a program. That monty has none of it is no reason not to judge a program that uses it."""
_RUNNERS = frozenset({"exec", "eval", "compile"})
_OPENING = threading.Lock()
"""Starting workers looks for their program through `sysconfig`, whose first use must not be in two threads at once."""


class MontySandbox:
    """Runs programs in monty's worker processes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._pool: AsyncMonty | None = None
        self._owner = 0

    async def run(self, code: str, inputs: Mapping[str, Json] | None = None) -> SandboxResult:
        """Run a program with `inputs` as its global names; never raises for what the code does.

        Raises:
            SetupError: The worker program is not installed.
        """
        refused = self.limits.refusal(code, inputs)
        if refused:
            return refused
        from pydantic_monty import MontyError

        pool = await self._opened()
        printed = _Printed(self.limits.output)
        try:
            async with pool.checkout(limits=self._resources(), os_policy=_policy()) as session:
                value: object = await session.feed_run(code, inputs=dict(inputs or {}), print_callback=printed)
        except MontyError as error:
            result = self._failed(error, code)
        except (RuntimeError, ValueError) as error:
            # What the boundary between the processes cannot carry, such as a value of some hundred MiB.
            result = SandboxResult(outcome="limit", error=sentence(f"not handed out: {error}"))
        else:
            result = SandboxResult(outcome="ok", value=self.limits.plain(value))
        if result.outcome == "ok" and may_leave_early(code):
            result = SandboxResult(outcome="unsupported", error="it cannot be told whether the program ran to its end")
        if printed.over:
            result = SandboxResult(outcome="limit", error="the program printed past its output limit")
        return replace(result, output=self.limits.printed("".join(printed.parts)))

    async def _opened(self) -> AsyncMonty:
        """The pool of this process: workers that a parent of a fork has cannot be shared."""
        if self._pool is not None and self._owner == os.getpid():
            return self._pool
        # In a thread of its own, since whoever waits for the lock must not hold up an event loop.
        return await asyncio.to_thread(self._open)

    def _open(self) -> AsyncMonty:
        from pydantic_monty import AsyncMonty

        with _OPENING:
            if self._pool is not None and self._owner == os.getpid():  # another was faster
                return self._pool
            try:
                # Parsing is not held to the program's own time limit, so the whole turn has one too.
                pool = AsyncMonty(request_timeout=2 * self.limits.seconds + _GRACE, feed_duration_limit_grace=_GRACE)
                asyncio.run(_enter(pool))
            except (OSError, RuntimeError) as error:
                raise SetupError(
                    f"the sandbox `monty` cannot start its worker: {error}; install `pydantic-monty`"
                ) from error
            self._pool, self._owner = pool, os.getpid()
            return pool

    def _resources(self) -> ResourceLimits:
        return {
            "max_feed_duration_secs": self.limits.seconds,
            "max_memory": self.limits.memory,
            "max_recursion_depth": self.limits.recursion,
            "max_suspensions": 1000,
        }

    @staticmethod
    def _failed(error: MontyError, code: str) -> SandboxResult:
        from pydantic_monty import MontyCrashedError, MontyRuntimeError, MontySyntaxError

        if isinstance(error, MontyCrashedError):
            how = "did not stop in time" if error.timed_out else "brought its process down"
            return SandboxResult(outcome="limit", error=f"the program {how}")
        line: int | None = None
        own = False
        parsing = False
        if isinstance(error, MontySyntaxError | MontyRuntimeError):
            frames = error.traceback()
            line = frames[-1].line if frames else None
            # What the parser refuses stands in no function, not even in that of the module.
            parsing = bool(frames) and frames[-1].function_name is None
            # Without a frame it was monty itself.
            own = not parsing and bool(frames) and _raises(code, frames[-1].line)
        raised = error.exception()
        place = f" (line {line})" if line else ""
        said = sentence(f"{type(raised).__name__}: {raised}{place}")
        if isinstance(raised, RecursionError | MemoryError) or "limit exceeded" in str(raised):
            return SandboxResult(outcome="limit", error=said)
        if isinstance(raised, SyntaxError) and "deeply nested" in str(raised):
            return SandboxResult(outcome="limit", error=said)
        lacking = not own and _lacking(raised, parsing, code)
        return SandboxResult(outcome="unsupported" if lacking else "error", error=said)


async def _enter(pool: AsyncMonty) -> None:
    await pool.__aenter__()


class _Printed:
    """Takes what a program prints, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.parts: list[str] = []
        self.over = False
        self._left = limit

    def __call__(self, stream: str, text: str) -> None:
        self.parts.append(text[: self._left])
        self._left -= len(text.encode(errors="replace"))
        if self._left < 0:
            self._left, self.over = 0, True
            raise OverflowError  # the interpreter stops here; the program cannot catch it


def _policy() -> OSPolicy:
    """The same program gives the same result; nothing waits."""
    return {"sleep": "zero", "random_start": {"seed": 0}}


def _raises(code: str, line: int) -> bool:
    """Whether what was raised in a line may be the program's own: a `raise` stands there, or it runs code from text."""
    try:
        nodes = list(ast.walk(parsed(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "raise" in code
    return any(
        (isinstance(node, ast.Raise) and node.lineno <= line <= (node.end_lineno or node.lineno))
        or (isinstance(node, ast.Name) and node.id in _RUNNERS)
        for node in nodes
    )


def _lacking(raised: BaseException, parsing: bool, code: str) -> bool:
    """Whether it failed for something that Python has and the sandbox has not."""
    text = str(raised)
    match raised:
        case NotImplementedError():
            return parsing
        case ImportError():
            found = _NO_IMPORT.match(text)
            if found is None or found[1] in _EXITS:
                return False
            return found[2] not in _KNOWN or hasattr(importlib.import_module(found[2]), found[1])
        case PermissionError():
            return text.startswith("Permission denied: ")
        case RuntimeError():
            # The exception that ends a program takes a number, which monty's exceptions do not.
            ended = "exceptions can only be called" in text and "SystemExit" in code
            lacks = text.endswith("not supported in this environment") or text.startswith("Internal error in monty")
            return lacks and not ended
        case NameError():
            name = _NO_NAME.match(text)
            # The names of the namespace, not `__dict__` and other attributes that every module has.
            return name is not None and name[1] not in _EXITS and name[1] in vars(builtins)
        case AttributeError():
            module = _NO_MODULE_ATTRIBUTE.match(text)
            if module:
                if module[2] in _EXITS:
                    return False
                return module[1] in _KNOWN and hasattr(importlib.import_module(module[1]), module[2])
            found = _NO_ATTRIBUTE.match(text)
            owner = getattr(builtins, found[1], _function if found[1] == "function" else object) if found else None
            return found is not None and hasattr(owner, found[2])
    return False


def _function() -> None:
    """Has the attributes that functions have."""
