"""Nearest entries by embedding: one matrix of unit vectors for each kind of entry, kept up with a memory's versions.

The search is exact, a product and a partial sort: at the size of a cheatsheet an approximate index costs more to keep
than it saves. Vectors live in a matrix with room to grow, so that a new entry does not copy the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

_DIGITS = 6
"""Of a cosine; digits after these depend on where a row stands, and equal texts must tie."""
_ROOM = 64


class VectorIndex:
    """Unit vectors by id.

    Shapes: the matrix is (entries, dimensions), float32.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix: NDArray[float32] | None = None

    def add(self, vectors: Mapping[str, NDArray[float32]]) -> None:
        """Put vectors in; an id that is there gets its new one."""
        fresh = [id for id in vectors if id not in self._rows]
        if fresh:
            self._grow(len(fresh), len(vectors[fresh[0]]))
        assert self._matrix is not None or not vectors
        for id in fresh:
            self._rows[id] = len(self.ids)
            self.ids.append(id)
        for id, vector in vectors.items():
            assert self._matrix is not None
            self._matrix[self._rows[id]] = vector

    def remove(self, ids: Sequence[str]) -> None:
        """Take ids out; those that are not there are passed over."""
        for id in ids:
            row = self._rows.pop(id, None)
            if row is None or self._matrix is None:
                continue
            # The last row moves into the gap, so that the matrix stays dense.
            last = self.ids.pop()
            if last != id:
                self._matrix[row] = self._matrix[len(self.ids)]
                self.ids[row] = last
                self._rows[last] = row

    def nearest(self, query: NDArray[float32], k: int) -> list[tuple[str, float]]:
        """The k ids nearest to a unit vector with their cosines, the nearest first; equal ones by id."""
        count = len(self.ids)
        if not count or k < 1 or self._matrix is None:
            return []
        cosines = self._matrix[:count] @ query
        if k < count:
            # A little more than k, so that ties at the edge are cut by id and not by place.
            wanted = min(count, k + 8)
            chosen = np.argpartition(cosines, count - wanted)[count - wanted :] if wanted < count else np.arange(count)
        else:
            chosen = np.arange(count)
        found = [(self.ids[row], round(float(cosines[row]), _DIGITS)) for row in chosen.tolist()]
        found.sort(key=lambda one: (-one[1], one[0]))
        return found[:k]

    def _grow(self, more: int, dimensions: int) -> None:
        needed = len(self.ids) + more
        if self._matrix is None:
            self._matrix = np.zeros((max(needed, _ROOM), dimensions), dtype=np.float32)
        elif needed > len(self._matrix):
            larger = np.zeros((max(needed, 2 * len(self._matrix)), self._matrix.shape[1]), dtype=np.float32)
            larger[: len(self.ids)] = self._matrix[: len(self.ids)]
            self._matrix = larger
