"""Vectors for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """A unit vector for each text."""
        ...


def default_embedder() -> Embedder:
    """The embedder that comes along."""
    raise NotImplementedError
