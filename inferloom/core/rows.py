"""Rows of data files: JSONL and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferloom.core.types import Json


def read_rows(path: str) -> Sequence[Mapping[str, Json]]:
    """The rows of a file."""
    raise NotImplementedError
