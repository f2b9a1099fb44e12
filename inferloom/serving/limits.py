"""How much a server takes on, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from inferloom.serving.errors import ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server."""

    body: int = 1 << 20
    """Bytes of a request's body."""
    turns: int = 200
    """Messages of a conversation."""
    choices: int = 8
    """Answers to one request."""
    running: int = 64
    """Requests that are answered at once."""
    queue: int = 256
    """Requests that wait for their turn."""
    connections: int = 2048
    """Connections that are open at once."""
    seconds: float = 600.0
    """The longest that an answer may take, from its turn on."""
    slow: float = 10.0
    """The longest that a client may take to send a request's head, and again its body."""
    grace: float = 30.0
    """How long a server that is told to stop lets its requests run on."""


class Admission:
    """Lets requests in, in the order in which they came."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._gate = asyncio.Semaphore(limits.running)
        self.waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the requests that are answered.

        Raises:
            ApiError: 503; the queue is full.
        """
        if self._gate.locked() and self.waiting >= self._limits.queue:
            message = f"{self.waiting} requests wait already; at most {self._limits.queue} may"
            raise ApiError(503, message, code="queue_full", headers={"retry-after": "1"})
        self.waiting += 1
        try:
            await self._gate.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._gate.release()
