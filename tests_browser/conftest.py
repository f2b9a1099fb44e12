from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests_browser import browser as chromium
from tests_browser import pages as kinds

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    reason = chromium.why_not()
    if reason is not None:
        pytest.skip(reason)
    with chromium.started() as opened:
        yield opened


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of every kind, by name."""
    return chromium.apart(kinds.make(tmp_path_factory.mktemp("pages")))
