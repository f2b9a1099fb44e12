"""What was learned stays: beside many writers in several processes, and after kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from inferloom.core.memory import Add, Mark, Rules
from inferloom.memory.book import MemoryBook
from inferloom.nodes.testing import FakeContext
from inferloom.store import Store

CHILD = Path(__file__).with_name("child_curator.py")
WRITERS, STORES = 50, 5


async def test_fifty_writers_lose_nothing_and_skip_no_version(url: str) -> None:
    """Each adds an entry and marks one that all share; five stores, as of five processes."""
    stores = [Store.open(url) for _ in range(STORES)]
    books = [MemoryBook(store, FakeContext(), "letters") for store in stores]
    rules = Rules(dedup=None)
    await books[0].open("shared").commit([Add("strategy", "of all", "text of all")], rules)
    [common] = await books[0].open("shared").entries()

    async def write(number: int) -> None:
        sheet = books[number % STORES].open("shared")
        added = Add("strategy", f"key {number}", f"text {number}")
        await sheet.commit([added, Mark(common.id, "helpful")], rules, source=f"s{number}")

    await asyncio.gather(*(write(number) for number in range(WRITERS)))
    sheet = books[0].open("shared")
    found = {entry.text: entry for entry in await sheet.entries()}
    assert found.keys() == {"text of all", *(f"text {number}" for number in range(WRITERS))}
    assert found["text of all"].helpful == WRITERS
    assert sorted(row.version for row in books[0].versions(sheet)) == list(range(WRITERS + 2))
    for store in stores:
        store.close()


def killed(url: str, name: str, delay: float) -> tuple[int, list[str]]:
    """Let a child learn, kill it; how many lines it had surely printed, and all its whole lines."""
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parents[2]), "INFERLOOM_EMBEDDER": "letters"}
    command = [sys.executable, str(CHILD), url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(2)]
        assert all(said), "the child ended by itself"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
    return len(said), [line.strip() for line in [*said, *rest.splitlines(keepends=True)] if line.endswith("\n")]


async def test_kill_9_during_curation_leaves_the_last_complete_version(url: str) -> None:
    chance = random.Random(2)
    learned: list[str] = []
    newest = 0
    for round in range(20):
        least, said = await asyncio.to_thread(killed, url, f"child{round}", chance.random() * 0.1)
        learned += said
        with Store.open(url) as store:
            book = MemoryBook(store, FakeContext(), "letters")
            sheet = book.open("m", create=False)
            history = book.versions(sheet)
            assert [row.version for row in history] == list(range(sheet.head(), -1, -1))
            assert sheet.head() >= newest + least
            newest = sheet.head()
            for row in history[:20]:
                entries = await sheet.entries(row.version)
                assert (len(entries), sum(entry.tokens for entry in entries)) == (row.entries, row.tokens)
            assert history[0].tokens <= 200
    # A question whose run has returned has made its version.
    with Store.open(url) as store:
        book = MemoryBook(store)
        runs = {run.id: run.question for run in store.runs(1_000_000)}
        made = {runs[row.run] for row in book.versions(book.open("m")) if row.run in runs}
        assert set(learned) <= made
