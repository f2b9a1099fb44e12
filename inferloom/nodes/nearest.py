"""What nodes that read files of rows share: a column of texts, and how near each is to a question.

A file's texts are embedded once per process, and again after the file has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from inferloom.core.errors import DataError, nearest
from inferloom.core.protocols import NodeContext
from inferloom.core.rows import text_of
from inferloom.core.types import Json, NodeState

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

Rows: TypeAlias = "Sequence[Mapping[str, Json]]"
_CHUNK = 1000
"""Texts embedded at a time, so that a large file is never in memory as lists of numbers."""
_DIGITS = 6
"""Of a cosine; the digits after depend on where a row stands, and equal texts must tie."""
_EMBEDDED: dict[tuple[str, str], tuple[Rows, NDArray[float32]]] = {}
"""By file and field: the rows as they were read and the vectors of their texts."""
_LOCKS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], asyncio.Lock]] = WeakKeyDictionary()


def last_question(state: NodeState) -> str:
    """What the user asked last."""
    return next((turn.content for turn in reversed(state.messages) if turn.role == "user"), state.question)


def field_of(rows: Rows, index: int, name: str, path: str) -> str:
    """The text in a field of a row.

    Raises:
        DataError: The row has no such field, or it holds no text.
    """
    row, place = rows[index], f"{path}: row {index + 1}"
    if name not in row:
        there = ", ".join(f"`{key}`" for key in list(row)[:12]) or "no fields"
        raise DataError(
            f"the field `{name}` is missing; the row has {there}", where=place, suggestion=nearest(name, row)
        )
    return text_of(row[name], name, place)


async def similarities(context: NodeContext, path: str, rows: Rows, field: str, question: str) -> list[float]:
    """The cosine of the question with a field of every row.

    Raises:
        DataError: A row has no such field, or it holds no text.
    """
    import numpy as np

    if not rows:
        return []
    key = (path, field)
    # Runs that come while a file is being embedded wait for it instead of embedding it too.
    async with _LOCKS.setdefault(asyncio.get_running_loop(), {}).setdefault(key, asyncio.Lock()):
        known = _EMBEDDED.get(key)
        if known is None or known[0] is not rows:
            texts = [field_of(rows, index, field, path) for index in range(len(rows))]
            parts = [
                np.asarray(await context.embed(texts[start : start + _CHUNK]), dtype=np.float32)
                for start in range(0, len(texts), _CHUNK)
            ]
            known = _EMBEDDED[key] = (rows, np.concatenate(parts))
    [own] = await context.embed([question])
    cosines: list[float] = (known[1] @ np.asarray(own, dtype=np.float32)).tolist()
    return [round(cosine, _DIGITS) for cosine in cosines]
