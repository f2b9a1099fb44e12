"""A study that another process runs is followed from the database to its end; an interrupt ends the watching only."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from inferloom.core.errors import UnknownNameError
from inferloom.search.job import SearchJob
from inferloom.search.progress import Event, State, render
from inferloom.search.watch import watch
from inferloom.store import Store
from tests.search import workload

ROOT = Path(__file__).parents[2]


class Seen:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.views: list[str] = []
        self.stages: set[str] = set()

    def on_event(self, event: Event, state: State) -> None:
        if event.text:
            self.texts.append(event.text)
        self.stages.add(state.stage)
        console = Console(file=io.StringIO(), width=120)
        console.print(render(state))
        self.views.append(console.file.getvalue())  # type: ignore[attr-defined]  # it is the StringIO above


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A search in a process of its own, with its database, which has the study's row by now."""
    file = tmp_path / "s.db"
    program = f"from tests.search.workload import main; main({str(file)!r}, 'adding', {str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "ADDER_LATENCY": "0.1"})
    try:
        with Store.open(str(file)) as store:
            while store.study("adding") is None:
                assert child.poll() is None
                time.sleep(0.02)
        yield child, file
    finally:
        child.kill()
        child.wait()


def test_a_study_of_another_process_is_followed_to_its_end(searching: tuple[subprocess.Popen[bytes], Path]) -> None:
    child, file = searching
    seen = Seen()
    with Store.open(str(file)) as store:
        record = watch(store, "adding", seen, every=0.05)
        billed = store.study_usage("adding").billed
    assert child.wait(30) == 0
    assert record.result is not None
    assert record.row.status == "done"
    # Every trial is told once, with what it reached; the front at the end is the study's own.
    told = [text.partition(":")[0] for text in seen.texts]
    distinct = [trial for trial in record.result.trials if trial.duplicate_of is None]
    assert sorted(told) == sorted(f"trial {trial.number}" for trial in distinct)
    assert seen.stages >= {"search", "test", "done"}
    last = seen.views[-1]
    assert f"{billed.calls:,} calls" in last
    assert f"{len(record.result.trials)} of {len(record.result.trials)}" in last
    for trial in distinct:
        if trial.on_front and trial.nominal is not None and trial.dev is not None:
            assert f"trial {trial.number}: {trial.dev.mean:.1%} at {trial.nominal.tokens:,.0f} tokens" in last
    assert any("items a second" in view and "left" in view for view in seen.views)


async def test_a_finished_study_is_told_at_once(store: Store, job: SearchJob, tmp_path: Path) -> None:
    await workload.search(str(tmp_path / "study.db"), job, "adding")

    def never(seconds: float) -> None:
        raise AssertionError("it waited")

    record = await asyncio.to_thread(watch, store, "adding", Seen(), sleep=never)
    assert record.finished
    with pytest.raises(UnknownNameError, match="unknown study `other`"):
        watch(store, "other", Seen())


def test_an_interrupt_ends_the_watching_cleanly_and_not_the_search(
    searching: tuple[subprocess.Popen[bytes], Path],
) -> None:
    child, file = searching
    command = "import sys; from inferloom.cli import main; main()"
    watcher = subprocess.Popen(
        [sys.executable, "-c", command, "study", "watch", "adding", "--db", f"sqlite:///{file}", "--every", "0.1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watcher.stderr is not None
    first = watcher.stderr.readline()
    watcher.send_signal(signal.SIGINT)
    out, rest = watcher.communicate(timeout=30)
    assert (watcher.returncode, out) == (130, "")
    assert first.startswith("trial "), first + rest
    assert "Traceback" not in rest
    assert rest.endswith("interrupted\n")
    assert child.wait(60) == 0
