"""A store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.store import Store
from tests.support.stores import KINDS, database_of


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with database_of(request.param, tmp_path) as url, Store.open(url) as opened:
        yield opened
