"""The opt-in engine: CPython in a process without files, network or further processes (Linux only).

`jail.py` says how. Where the kernel does not allow all of it, nothing is run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from inferloom.core.errors import SetupError
from inferloom.core.protocols import SandboxResult
from inferloom.core.types import Json
from inferloom.sandbox.limits import Limits, sentence

_JAIL = Path(__file__).with_name("jail.py")
_GRACE = 10.0
"""Seconds past the time limit that the process may take to start and to end."""


class IsolatedSandbox:
    """Runs each program in a process of its own that has been shut off."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def run(self, code: str, inputs: Mapping[str, Json] | None = None) -> SandboxResult:
        """Run a program with `inputs` as its global names; never raises for what the code does.

        Raises:
            SetupError: This machine cannot shut off files and network.
        """
        refused = self.limits.refusal(code, inputs)
        if refused:
            return refused
        if sys.platform != "linux":
            raise _cannot(f"it needs Linux, this is {sys.platform}")
        loop = asyncio.get_running_loop()
        turns = self._turns.setdefault(loop, asyncio.Semaphore(os.cpu_count() or 1))
        async with turns:
            answer = await self._answer(
                {
                    "code": code,
                    "inputs": dict(inputs or {}),
                    "seconds": self.limits.seconds,
                    "memory": self.limits.memory,
                    "recursion": self.limits.recursion,
                    "output": self.limits.output,
                }
            )
        if "refused" in answer:
            raise _cannot(str(answer["refused"]))
        outcome = answer.get("outcome")
        output = self.limits.printed(str(answer.get("output", "")))
        error = sentence(str(answer.get("error", "")))
        match outcome:
            case "ok":
                return SandboxResult(outcome="ok", output=output, value=self.limits.plain(answer.get("value")))
            case "error" | "limit" | "unsupported":
                return SandboxResult(outcome=outcome, output=output, error=error)
        return SandboxResult(outcome="limit", output=output, error="the program brought its process down")

    async def _answer(self, request: dict[str, Json]) -> dict[str, Json]:
        """What the jail answered; empty where it died."""
        # Hashes that are the same every time, as the random numbers are: the same program gives the same result.
        environment = {"PYTHONHASHSEED": "0"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-s", "-S", "-P", "-B", str(_JAIL)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        try:
            async with asyncio.timeout(self.limits.seconds + _GRACE):
                with suppress(ConnectionError):  # it died; what it said tells why
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    await process.stdin.drain()
                # The pipe stays open: the jail takes its end for ours.
                text = await process.stdout.read()
        except TimeoutError:
            text = b""
        finally:
            process.stdin.close()
            await _ended(process)
        try:
            answer = json.loads(text)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait until the jail has ended; without its stdin it does so by itself, and takes its child with it."""
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _cannot(why: str) -> SetupError:
    return SetupError(
        f"the sandbox `isolated` cannot shut off files and network here ({sentence(why)}); use `monty`",
        where="INFERLOOM_SANDBOX",
    )
