r"""Mathematical equality: `\frac{1}{2}`, `0.5` and `1/2` are the same answer. Needs `pip install 'inferloom[math]'`.

The comparison is math-verify's. It runs in a process of its own (`inferloom/evaluation/math_worker.py`), one at a time:
an expression whose simplification does not end is given up after `seconds`, which no thread could be.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from inferloom.core.errors import SetupError
from inferloom.evaluation.graders.base import Grader, GraderParams, register_grader
from inferloom.evaluation.item import Item

_LONGEST = 2_000
"""Characters of an answer: longer ones are no expressions."""
_START = 60.0
"""Seconds that the process may take to come up."""


class MathParams(GraderParams):
    """How long one comparison may take."""

    seconds: float = Field(5.0, gt=0, le=600, description="an answer that is not shown equal by then is wrong")


@register_grader("math")
class Math(Grader):
    """1 where the answer, as a whole, is an expression equal to the right one; it may be LaTeX, with or without `$`."""

    Params = MathParams
    params: MathParams

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        said = _worker.ask(item.answer, None, self.params.seconds) if len(item.answer) <= _LONGEST else None
        return (
            None if said and said["readable"] else f"the answer `{item.answer[:60]}` is not a mathematical expression"
        )

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right)."""
        if answer is None or not answer.strip() or len(answer) > _LONGEST:
            return 0.0
        said = _worker.ask(item.answer, answer, self.params.seconds)
        return float(said is not None and said["equal"])

    async def agrade(self, item: Item, answer: str | None, text: str) -> float:
        """The grade, waited for off the event loop."""
        return await asyncio.to_thread(self.grade, item, answer, text)


class _Worker:
    """The process, started when first asked and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, right: str, given: str | None, seconds: float) -> dict[str, bool] | None:
        """What the process says of a pair; None where it did not answer in time."""
        with self._lock:
            process = self._started()
            said = self._exchange(process, {"right": right, "given": given}, seconds)
            if said is None:
                self._end()
            return said

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        if find_spec("math_verify") is None:
            raise SetupError("the grader `math` needs math-verify; install it with `pip install 'inferloom[math]'`")
        self._end()
        script = Path(__file__).parents[1] / "math_worker.py"
        # Without -P the script's folder would be searched for modules first, and ours have names of common ones.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self._end)
        if self._exchange(self._process, {"right": "1", "given": "1"}, _START) is None:
            self._end()
            raise SetupError("the grader `math` could not start its process; see whether `import math_verify` works")
        return self._process

    @staticmethod
    def _exchange(
        process: subprocess.Popen[bytes], pair: dict[str, str | None], seconds: float
    ) -> dict[str, bool] | None:
        assert process.stdin is not None and process.stdout is not None
        try:
            # ASCII JSON has no other line ends, and lone surrogates are escaped.
            process.stdin.write(json.dumps(pair).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        ends, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            ready = waiting.poll(1000 * max(0.0, ends - time.monotonic()))
            part = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not part:
                return None
            line += part
        said: dict[str, bool] = json.loads(line)
        return said

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self._end)
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # closing writes out what the process no longer reads
                        pipe.close()


_worker = _Worker()
