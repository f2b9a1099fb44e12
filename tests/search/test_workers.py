"""Workers beside a search: the same trials, no call twice, whoever is killed, on every database that can be shared."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from inferloom.core.errors import InferloomError, SetupError, SpecError, StorageError
from inferloom.evaluation.evaluate import ItemResult
from inferloom.evaluation.splits import SplitName
from inferloom.models.budget import Budget
from inferloom.search.crew import MOST_DEATHS, Chunk, Crew, OnResult, Share, WorkerDiedError, cut
from inferloom.search.job import SearchJob
from inferloom.search.worker import Workers
from tests.search import workload
from tests.search.reading import BANKED, RECEIVED, SCORES, Reader
from tests.support.stores import SHARED, database_of

ROOT = Path(__file__).parents[2]
KILLS = 20


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database_of(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def read(url: str) -> Iterator[Reader]:
    reader = Reader(url)
    yield reader
    reader.close()


def started(url: str, folder: Path, workers: int, latency: float = 0.01) -> subprocess.Popen[bytes]:
    """A search with workers in a process of its own."""
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", workload.__name__, url, "adding", str(folder), str(workers)],
            cwd=ROOT,
            env={**os.environ, "ADDER_LATENCY": str(latency)},
            stderr=said,
        )


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a search started, but for Python's own that looks after shared memory."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to look at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def kill_somebody(process: subprocess.Popen[bytes], rng: random.Random, everybody: bool) -> bool:
    """kill -9 a worker, or the search itself; whether anybody was there."""
    workers = workers_of(process)
    if everybody:
        process.kill()
        process.wait()
        # Nobody tells them; they find out, and are gone before they could be in anybody's way.
        while not all(map(ended, workers)):
            time.sleep(0.01)
        return True
    if not workers:
        return False
    try:
        os.kill(rng.choice(workers), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def killed_until_done(url: str, folder: Path, workers: int, rng: random.Random, kills: int) -> int:
    """Run a search and kill somebody at random moments, so many times in all; how often it was."""
    process, read, done = started(url, folder, workers), Reader(url), 0
    while done < kills and process.poll() is None:
        until = read.progress() + rng.randint(1, 8)
        while process.poll() is None and read.progress() < until:
            time.sleep(0.01)
        if process.poll() is None and kill_somebody(process, rng, everybody=done % 5 == 4):
            done += 1
            if process.poll() is not None:
                process = started(url, folder, workers)
    process.wait(timeout=300)
    read.close()
    assert process.returncode == 0, (folder / "said.txt").read_text()
    return done


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("workers", [1, 4])
async def test_twenty_kills_repeat_no_call_and_change_no_trial(kind: str, workers: int, tmp_path: Path) -> None:
    rng, kills = random.Random(), 0
    whole_url = str(tmp_path / "whole.db")
    job = workload.short_job(tmp_path)
    whole = await workload.search(whole_url, job, "adding")
    alone = Reader(whole_url)
    while kills < KILLS:
        # A search that got through before the last kill is followed by one on a new database.
        folder = tmp_path / f"after_{kills}"
        folder.mkdir()
        with database_of(kind, folder) as url:
            kills += killed_until_done(url, folder, workers, rng, KILLS - kills)
            result = await workload.search(url, workload.short_job(folder), "adding")
            read = Reader(url)
            assert result.trials == whole.trials
            assert [entry.label for entry in result.front] == [entry.label for entry in whole.front]
            assert result.comparisons == whole.comparisons and result.winner.test == whole.winner.test
            assert read.rows(SCORES) == alone.rows(SCORES)
            # Every draw was made once: as many were received, by the ledger, as stand in the bank.
            assert read.rows(RECEIVED) == read.rows(BANKED) == alone.rows(BANKED)
            assert result.test_touches == 1
            read.close()
    alone.close()


async def test_workers_do_all_the_work_and_the_limit_on_what_is_billed_holds(
    url: str, read: Reader, tmp_path: Path
) -> None:
    workload.write_items(tmp_path)
    limit = 90
    with pytest.MonkeyPatch.context() as patch:
        # The processes import what the main module is.
        patch.setattr(sys.modules["__main__"], "__spec__", workload.__spec__)
        job = SearchJob.load(
            workload.job_text(tmp_path / "sums.jsonl", extra=f"baselines: none\nmax_billed: {{calls: {limit}}}")
        )
        stopped = await workload.search(url, job, "adding", Workers(count=2))
        assert stopped.stopped == "max_billed calls" and "not finished" in stopped.verdict
        assert limit / 2 < read.count("select sum(billed_calls) from calls") <= limit
        more = SearchJob.load(workload.job_text(tmp_path / "sums.jsonl", extra="baselines: none"))
        before = [len(model.served) for model in (workload.SMALL, workload.LARGE)]
        result = await workload.search(url, more, "adding", Workers(count=2))
        assert result.stopped is None
    assert [len(model.served) for model in (workload.SMALL, workload.LARGE)] == before, "this process asked nothing"
    assert read.rows(RECEIVED) == read.rows(BANKED)


@pytest.mark.parametrize(("extra", "url", "kind", "said"), [
    ("memory: online", "study.db", SpecError, "one item for the next"),
    ("", "sqlite://", SetupError, "in memory"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused(
    extra: str, url: str, kind: type[InferloomError], said: str, tmp_path: Path
) -> None:
    job = SearchJob.load(workload.job_text(workload.write_items(tmp_path), extra=extra))
    with pytest.raises(kind, match=said):
        Workers(count=2).check(job, url)


def share(trial: int, items: Sequence[str], split: SplitName = "dev") -> Share:
    return Share(trial=trial, split=split, yaml="", items=tuple(items))


def test_an_item_is_in_one_chunk_with_every_trial_that_wants_it() -> None:
    shares = [share(0, "abcdefgh"), share(1, "cdefghij"), share(2, "ab", "test")]
    chunks = cut(shares, workers=2, at_once=1, left=Budget(calls=12))
    pieces = [(part.split, item, part.trial) for chunk in chunks for part in chunk.shares for item in part.items]
    assert sorted(pieces) == sorted((part.split, item, part.trial) for part in shares for item in part.items)
    homes: dict[tuple[str, str], set[int]] = {}
    for place, chunk in enumerate(chunks):
        for part in chunk.shares:
            for item in part.items:
                homes.setdefault((part.split, item), set()).add(place)
    assert all(len(places) == 1 for places in homes.values())
    assert len(chunks) >= 4
    assert sum(chunk.budget.calls or 0 for chunk in chunks) == pytest.approx(12)


class Scripted:
    """A hand that does what it is told."""

    made = 0

    def __init__(self, act: Callable[[int, Chunk, OnResult], None]) -> None:
        self.act, self.number = act, Scripted.made
        Scripted.made += 1

    async def work(self, chunk: Chunk, on_result: OnResult) -> None:
        self.act(self.number, chunk, on_result)

    async def aclose(self) -> None:
        pass


def crew_of(act: Callable[[int, Chunk, OnResult], None], came: list[str], limit: Budget | None = None) -> Crew:
    Scripted.made = 0

    def note(trial: int, split: SplitName, result: ItemResult) -> None:
        came.append(result.item)

    return Crew(lambda: Scripted(act), workers=2, at_once=1, left=lambda: limit or Budget(), on_result=note)


async def test_workers_that_keep_dying_on_the_same_items_end_the_search_and_not_before() -> None:
    def dies(number: int, chunk: Chunk, on_result: OnResult) -> None:
        if "c" in chunk.shares[0].items:
            raise WorkerDiedError("exit code -9", where="worker")

    crew = crew_of(dies, [])
    with pytest.raises(WorkerDiedError, match=f"{MOST_DEATHS} workers died .*exit code -9"):
        await crew.answer(share(0, "abcdef"))
    # Two to begin with, and one for each that died, the last included.
    assert Scripted.made == 2 + MOST_DEATHS
    await crew.aclose()


async def test_after_a_death_no_other_worker_spends_the_same_allowance() -> None:
    tries: list[tuple[str, ...]] = []

    def dies(number: int, chunk: Chunk, on_result: OnResult) -> None:
        tries.append(chunk.shares[0].items)
        raise WorkerDiedError("exit code -9", where="worker")

    crew = crew_of(dies, [], Budget(usd=1))
    await crew.answer(share(0, "abcdef"))
    assert len(tries) == len(set(tries)), "the study itself does the rest, by the ledger"
    await crew.aclose()


async def test_a_worker_whose_disk_is_full_ends_the_search_with_its_sentence() -> None:
    def full(number: int, chunk: Chunk, on_result: OnResult) -> None:
        raise StorageError("database x stopped taking writes")

    crew = crew_of(full, [])
    with pytest.raises(StorageError, match="stopped taking writes"):
        await crew.answer(share(0, "abcdef"))
    await crew.aclose()
