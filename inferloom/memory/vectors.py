"""Embeddings of entries, kept in the database by text, so that a text is embedded once for all memories and forks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferloom.core.digest import digest
from inferloom.core.memory import Entry
from inferloom.models.embedding import Embedder, default_embedder, embedder_choice
from inferloom.store import Store

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

_CHUNK = 1000


def searched_text(entry: Entry) -> str:
    """What an entry is found by: an example by its question, everything else by all of it."""
    return searched(entry.kind, entry.key, entry.text)


def searched(kind: str, key: str, text: str) -> str:
    """The same from an entry's parts."""
    return key if kind == "example" else f"{key}\n{text}".strip()


class Vectors:
    """Unit vectors of texts, from the database where they are there.

    Args:
        store: Where vectors are kept.
        embedder: What makes them; None: the one that `INFERLOOM_EMBEDDER` names, opened when first needed.
        name: What the embedder is called in the database.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None, name: str | None = None) -> None:
        self._store = store
        self._embedder = embedder
        self.name = name or embedder_choice()

    async def of(self, texts: Sequence[str]) -> list[NDArray[float32]]:
        """A unit vector for each text, each of the shape (dimensions,)."""
        hashes = [digest(text) for text in texts]
        distinct = dict(zip(hashes, texts, strict=True))
        found = await asyncio.to_thread(self._store.memories.vectors, self.name, list(distinct))
        missing = [hash for hash in distinct if hash not in found]
        embedder = self._embedder or default_embedder()
        for start in range(0, len(missing), _CHUNK):
            part = missing[start : start + _CHUNK]
            made = await embedder.embed([distinct[hash] for hash in part])
            fresh = {hash: np.asarray(vector, dtype="<f4").tobytes() for hash, vector in zip(part, made, strict=True)}
            await asyncio.to_thread(self._store.memories.keep_vectors, self.name, fresh)
            found.update(fresh)
        return [np.frombuffer(found[hash], dtype="<f4") for hash in hashes]

    async def of_query(self, text: str) -> NDArray[float32]:
        """The unit vector of a question, which is not kept."""
        embedder = self._embedder or default_embedder()
        [vector] = await embedder.embed([text])
        return np.asarray(vector, dtype=np.float32)
