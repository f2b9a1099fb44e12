"""kill -9 at any moment, run again: no committed call is repeated, and the trials are those of a search left alone."""

from __future__ import annotations

import multiprocessing
import random
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from inferloom.search.result import StudyResult
from tests.search import workload
from tests.search.reading import BANKED, RECEIVED, SCORES, Reader

KILLS = 20


async def finish(db: Path, folder: Path, job: str) -> StudyResult:
    return await workload.search(str(db), workload.JOBS[job](folder), job)


def run_until_killed(
    context: ForkServerContext, job: str, db: Path, folder: Path, rng: random.Random, kill: int
) -> bool:
    """Start a search and kill it at a random moment; False where it got through before.

    Most moments are counted from what it commits, so that they fall into its work on fast and on slow machines; every
    fifth is a moment of its start.
    """
    searcher = context.Process(target=workload.main, args=(str(db), job, str(folder)))
    read = Reader(str(db))
    until = read.progress() + rng.randint(1, 40)
    searcher.start()
    if kill % 5 == 4:
        searcher.join(rng.uniform(0.0, 1.0))
    while kill % 5 != 4 and searcher.exitcode is None and read.progress() < until:
        searcher.join(0.02)
    read.close()
    searcher.join(rng.uniform(0.0, 0.03))
    if searcher.exitcode is not None:
        assert searcher.exitcode == 0, "a search that is not killed ends well"
        return False
    searcher.kill()
    searcher.join()
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize("job", sorted(workload.JOBS))
async def test_twenty_kills_repeat_no_call_and_change_no_trial(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A little latency makes sure that calls are in flight when the kill comes.
    monkeypatch.setenv("ADDER_LATENCY", "0.01")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workload.__name__])
    # A child would import the test runner's main module first, which takes longer than the search.
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)
    databases, rng = [tmp_path / "killed_0.db"], random.Random()
    kills, seen = 0, (0, 0)
    while kills < KILLS:
        if not run_until_killed(context, job, databases[-1], tmp_path, rng, kills):
            # It got through between two kills: the others hit a new one.
            databases.append(tmp_path / f"killed_{len(databases)}.db")
            seen = (0, 0)
            continue
        kills += 1
        read = Reader(str(databases[-1]))
        now = read.counts()
        read.close()
        assert now[0] >= seen[0] and now[1] >= seen[1], "what was committed is still there"
        seen = now

    whole_db = tmp_path / "whole.db"
    whole = await finish(whole_db, tmp_path, job)
    for db in databases:
        result = await finish(db, tmp_path, job)
        assert result.trials == whole.trials
        assert result.comparisons == whole.comparisons and result.winner.test == whole.winner.test
        read, alone = Reader(str(db)), Reader(str(whole_db))
        assert read.rows(SCORES) == alone.rows(SCORES)
        # Every draw was made once: as many were received, by the ledger, as stand in the bank.
        assert read.rows(RECEIVED) == read.rows(BANKED) == alone.rows(BANKED)
        read.close()
        alone.close()
        # One search took its look at the test split, however often it was begun again.
        assert result.test_touches == 1
