"""Several endpoints that serve one model: each call goes to the one that has the fewest in hand.

The model's fingerprint is that of the first address, so what the bank holds stays valid where replicas come and go. A
replica that cannot be reached is passed over for a while, and its call goes to another one at once: nothing was asked
yet. Everything else that goes wrong is the client's business, whose next attempt may come to another replica.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferloom.core.errors import UnreachableError
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.types import Completion, Request

if TYPE_CHECKING:
    from inferloom.models.openai import OpenAIBackend

AWAY_SECONDS = 10.0
"""How long a replica that could not be reached is left alone while others are there."""


class _Replica:
    """One endpoint and what it has in hand."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self.backend = backend
        self.calls = 0
        self.away_until = 0.0


class Fleet:
    """A model behind several addresses.

    Args:
        backends: One for each address; the first stands for all.
    """

    def __init__(self, backends: Sequence[OpenAIBackend]) -> None:
        self._replicas = [_Replica(backend) for backend in backends]

    @property
    def capabilities(self) -> Capabilities:
        """As one replica has them: they serve the same."""
        return self._replicas[0].backend.capabilities

    async def fingerprint(self) -> str:
        """The first replica's."""
        return await self._replicas[0].backend.fingerprint()

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """As `OpenAIBackend.generate`, from the replica with the fewest calls in hand.

        Raises:
            ModelError: `UnreachableError` only where no replica is reached.
        """
        untried = list(self._replicas)
        while True:
            now = time.monotonic()
            replica = min(untried, key=lambda one: (one.away_until > now, one.calls))
            untried.remove(replica)
            replica.calls += 1
            try:
                return await replica.backend.generate(request, seeds, on_token)
            except UnreachableError:
                replica.away_until = time.monotonic() + AWAY_SECONDS
                if not untried:
                    raise
            finally:
                replica.calls -= 1

    async def aclose(self) -> None:
        """Close every replica's connections."""
        for replica in self._replicas:
            await replica.backend.aclose()
