"""A PostgreSQL server that goes away in mid-search, and a full disk: nothing is paid twice, the end is the same."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search import workload
from tests.search.reading import BANKED, RECEIVED, SCORES, Reader
from tests.search.test_workers import started
from tests.support.stores import SERVER


async def check_same_as_undisturbed(url: str, folder: Path) -> None:
    job = workload.short_job(folder)
    whole = await workload.search(str(folder / "whole.db"), job, "adding")
    result = await workload.search(url, job, "adding")
    read, alone = Reader(url), Reader(str(folder / "whole.db"))
    assert result.trials == whole.trials and result.comparisons == whole.comparisons
    assert read.rows(SCORES) == alone.rows(SCORES)
    assert read.rows(RECEIVED) == read.rows(BANKED) == alone.rows(BANKED)
    assert result.test_touches == 1
    read.close()
    alone.close()


def wait_for(process: subprocess.Popen[bytes], read: Reader, progress: int) -> None:
    while process.poll() is None and read.progress() < progress:
        time.sleep(0.02)


@pytest.mark.skipif(SERVER is None, reason="needs PostgreSQL: make test-postgres")
@pytest.mark.timeout(600)
async def test_a_server_that_is_restarted_in_mid_search_only_makes_it_wait(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pgserver")
    from pgserver._commands import pg_ctl  # type: ignore[attr-defined]  # made when the module is loaded

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder)
        try:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
            process, read, restarts = started(url, tmp_path, 2), Reader(url), 0
            for mode in ("fast", "immediate", "fast"):
                wait_for(process, read, read.progress() + 40)
                if process.poll() is None:
                    pg_ctl(["-w", "-m", mode, "stop"], pgdata=server.pgdata, user=server.system_user)
                    server.ensure_postgres_running()
                    restarts += 1
                read.close()
            process.wait(timeout=300)
            assert process.returncode == 0, (tmp_path / "said.txt").read_text()
            assert restarts >= 2, "the search was at work when the server went away"
            await check_same_as_undisturbed(url, tmp_path)
        finally:
            server.cleanup()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which a search's database does not fit."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(place)], check=False)
    if made.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


@pytest.mark.timeout(600)
async def test_a_search_goes_on_where_a_full_disk_ended_it(disk: Path, tmp_path: Path) -> None:
    url = str(disk / "s.db")
    process = started(url, tmp_path, 2)
    process.wait(timeout=300)
    said = (tmp_path / "said.txt").read_text()
    assert process.returncode != 0 and "stopped taking writes" in said, said
    read = Reader(url)
    assert read.progress() > 0
    read.close()
    grow(disk)
    again = started(url, tmp_path, 2)
    again.wait(timeout=300)
    assert again.returncode == 0, (tmp_path / "said.txt").read_text()
    await check_same_as_undisturbed(url, tmp_path)
