from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.search.job import SearchJob
from inferloom.store import Store
from tests.search import workload


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "study.db")) as opened:
        yield opened


@pytest.fixture
def job(tmp_path: Path) -> SearchJob:
    return SearchJob.load(workload.job_text(workload.write_items(tmp_path)))
