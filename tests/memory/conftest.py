"""Memories on a store of each kind, embedded by their letters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.memory.book import MemoryBook
from inferloom.nodes.testing import FakeContext
from inferloom.store import Store
from tests.support.stores import KINDS, SHARED, database_of


@pytest.fixture(params=KINDS)
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryBook]:
    with database_of(request.param, tmp_path) as url, Store.open(url) as store:
        yield MemoryBook(store, FakeContext(), "letters")


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database that several processes can open."""
    with database_of(request.param, tmp_path) as opened:
        yield opened
