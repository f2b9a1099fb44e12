"""Hashes that stand for a text."""

from __future__ import annotations

import hashlib


def digest(text: str, size: int = 16) -> str:
    """The BLAKE2b hash of a text as `2 * size` hex digits; any text of Python's has one."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
