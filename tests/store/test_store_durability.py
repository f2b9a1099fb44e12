"""What was said to be written is there: after kill -9, beside other processes, and on a full disk."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from inferloom.core.errors import StorageError
from inferloom.store import Store
from tests.store.store_samples import address, banked, call

CHILD = Path(__file__).with_name("child_writer.py")


def start(database: Path, name: str, tasks: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parents[2])}
    command = [sys.executable, str(CHILD), str(database), name, str(tasks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_after(child: subprocess.Popen[str], lines: int, delay: float) -> list[str]:
    """Kill a child some time after its first lines; give every whole line that it printed."""
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    assert all(said), "the child ended by itself"
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    return [line.strip() for line in "".join([*said, rest]).splitlines(keepends=True) if line.endswith("\n")]


def test_kill_9_loses_no_write_that_returned(tmp_path: Path) -> None:
    database, chance = tmp_path / "s.db", random.Random(1)
    promised: list[str] = []
    for round in range(6):
        child = start(database, f"child{round}", tasks=4)
        promised += kill_after(child, lines=5, delay=chance.random() * 0.2)
        with Store.open(str(database)) as store:
            there = {row.id for name in range(round + 1) for row in store.calls(f"child{name}")}
            assert set(promised) <= there
            in_bank = {size.completions for size in store.bank_size()}
            assert in_bank == {len(there)}, "a write is there as a whole or not at all"
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_processes_share_one_file(tmp_path: Path) -> None:
    # They start together on a file that is not there yet, so making the tables is contested as well.
    children = [start(tmp_path / "s.db", f"child{number}", tasks=2) for number in range(3)]
    said = [kill_after(child, lines=20, delay=0) for child in children]
    with Store.open(str(tmp_path / "s.db")) as store:
        for number, lines in enumerate(said):
            assert set(lines) <= {row.id for row in store.calls(f"child{number}")}


async def fill(store: Store) -> tuple[list[int], int]:
    """Write from several tasks until the disk is full: the numbers whose write returned, and how many were refused."""
    written: list[int] = []
    refused: list[int] = []

    async def one(task: int) -> None:
        for number in range(task, 100_000, 8):
            try:
                await store.write(banked(address(number), text="x" * 2_000))
            except StorageError:
                refused.append(number)
                return
            written.append(number)

    await asyncio.gather(*(one(task) for task in range(8)))
    return written, len(refused)


async def check_full(store: Store, database: Path) -> None:
    written, refused = await fill(store)
    assert refused == 8, "every waiter is told"
    assert written
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"database `.*` stopped taking writes \(.*full.*\); no new calls are made"
        ):
            await store.write(call("late"))
        with pytest.raises(StorageError, match="full"):
            store.submit(call("late"))
        with pytest.raises(StorageError, match="full"):
            store.raise_if_failed()
    for number in written:
        assert await store.banked(address(number), [0]), "reading goes on"
    store.close()
    with sqlite3.connect(database) as connection:
        stored = {row[0] for row in connection.execute("SELECT request FROM completions")}
    connection.close()
    assert {f"{number:032x}" for number in written} <= stored


async def test_a_database_that_may_not_grow_stops_with_one_error(tmp_path: Path) -> None:
    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 150")

    event.listen(Engine, "connect", limit)
    try:
        await check_full(Store.open(str(tmp_path / "s.db")), tmp_path / "s.db")
    finally:
        event.remove(Engine, "connect", limit)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here: the full disk is tested by a page limit only")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_stops_with_one_error(tiny_disk: Path) -> None:
    await check_full(Store.open(str(tiny_disk / "s.db")), tiny_disk / "s.db")


async def test_a_full_disk_found_by_rows_nobody_waited_for_is_told_on_close(tiny_disk: Path) -> None:
    store = Store.open(str(tiny_disk / "s.db"))
    store.submit(*(banked(address(number), text="x" * 2_000) for number in range(2_000)))
    with pytest.raises(StorageError, match="full"):
        store.close()
