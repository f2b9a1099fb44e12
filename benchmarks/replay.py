"""How fast a banked study runs again, and what a large database costs: `make bench-replay`.

Archon's composition with eight candidates, on the pocket models, is answered once on some items, which fills the bank.
Then trials of it run again from the bank, each in a process of its own on one core: every node through LangGraph, every
row (run, steps, candidates, ledger, score) written, no model loaded. Beside it the same with a million completions of
other streams in the database. The two take turns, so that the ratios hold whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from card import command_of
from rich.console import Console

if TYPE_CHECKING:
    from inferloom.pipelines.spec import PipelineSpec

CLASSIC = "archon_classic"
ITEMS, ROUNDS, OTHERS = 100, 5, 1_000_000
RATE, SLOWER = 100.0, 1.2
"""The bars: item-evaluations a second on one core, and what a large database may add."""
FILL = """
    WITH RECURSIVE numbers(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM numbers WHERE k < {count})
    INSERT INTO completions (address, draw, stream, fingerprint, request, text, finish_reason, prompt_tokens,
                             cached_tokens, completion_tokens, created)
    SELECT lower(hex(randomblob(16))), k % 8, 'other/' || (k / 64), 'other', lower(hex(randomblob(16))),
           hex(randomblob(100)), 'stop', 40, 0, 60, 1.0
    FROM numbers
"""


def with_eight() -> PipelineSpec:
    """The preset with eight candidates: the large model has two more than in it."""
    from inferloom.pipelines.document import load_document
    from inferloom.pipelines.presets import resolve
    from inferloom.pipelines.spec import PipelineSpec

    document = load_document(resolve(CLASSIC))
    data = json.loads(json.dumps(document.data).replace('"n": 2', '"n": 4'))
    spec = PipelineSpec.from_data(data, name=CLASSIC)
    assert [step["sample"]["n"] for branch in data["steps"][0]["parallel"] for step in branch] == [4, 4]
    return spec


async def replay(database: str, study: str) -> dict[str, float]:
    """One trial over all items; seconds until it can begin, and what it took."""
    began = time.perf_counter()
    from inferloom.evaluation.data import DataSpec, load_items
    from inferloom.evaluation.evaluate import evaluate
    from inferloom.models.client import Gateway
    from inferloom.pipelines.run import Pipeline
    from inferloom.store import Store

    pipeline_spec = with_eight()
    imported = time.perf_counter()
    with Store.open(database) as store:
        gateway = Gateway(store)
        pipeline = Pipeline(pipeline_spec, gateway)
        store.study_usage(study)
        data = load_items(DataSpec.model_validate({"procedural": "pocket", "count": ITEMS, "seed": 41}))
        ready, cpu = time.perf_counter(), time.process_time()
        result = await evaluate(
            pipeline, data.items, grader=data.grader, store=store, stream="replay", split="dev", study=study, trial=0
        )
        store.flush()
        took, used = time.perf_counter() - ready, time.process_time() - cpu
        billed = store.study_usage(study).billed.calls
        rows = len(store.evaluations(study))
    assert rows == ITEMS == len(result.results), "every score is a row"
    return {
        "import": imported - began,
        "start": ready - imported,
        "wall": took,
        "cpu": used,
        "billed": billed,
        "torch": float("torch" in sys.modules),
    }


def child(database: Path, study: str, *, one_core: bool = True) -> dict[str, float]:
    """The same in a new process."""
    command = [sys.executable, __file__, "--child", str(database), study]
    cores = os.sched_getaffinity(0)
    pinned = {max(cores)} if one_core else cores
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, pinned)
    )
    figures: dict[str, float] = json.loads(said.stdout)
    return figures


def measure() -> bool:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.db", Path(folder) / "large.db"
        with console.status(f"answering {ITEMS} items once"):
            child(small, "first", one_core=False)
        shutil.copy(small, large)
        with console.status(f"putting {OTHERS:,} other completions into a database"):
            connection = sqlite3.connect(large)
            connection.execute(FILL.format(count=OTHERS))
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        figures: dict[Path, list[dict[str, float]]] = {small: [], large: []}
        with console.status("running trials again"):
            for turn in range(ROUNDS + 1):
                for database, found in figures.items():
                    one = child(database, f"again-{turn}")
                    assert not one["billed"] and not one["torch"], "nothing is called and no model is loaded"
                    if turn:  # the first turn warms up
                        found.append(one)
    return report(figures[small], figures[large])


def report(small: list[dict[str, float]], large: list[dict[str, float]]) -> bool:
    """Print the figures beside their bars; whether all hold."""

    def median(rounds: list[dict[str, float]], name: str) -> float:
        return statistics.median(one[name] for one in rounds)

    rates = sorted(ITEMS / one["wall"] for one in small)
    rate = statistics.median(rates)
    slower = {name: median(large, name) / median(small, name) for name in ("start", "wall", "cpu")}
    sys.stdout.write(
        f"{command_of('bench-replay')}, {datetime.now(UTC):%Y-%m-%d}: {ITEMS} items, {ROUNDS} rounds, one core\n"
        f"{CLASSIC} with n = 8 from the bank: {rate:.0f} item-evaluations a second ({rates[0]:.0f} to {rates[-1]:.0f}; "
        f"{ITEMS / median(small, 'cpu'):.0f} a second of CPU); bar: {RATE:g}\n"
        f"with {OTHERS:,} other completions: start {slower['start']:.2f} of it "
        f"({1000 * median(small, 'start'):.0f} ms without), trial {slower['wall']:.2f} of it "
        f"({slower['cpu']:.2f} in CPU); bar: {SLOWER:g}\n"
    )
    return rate >= RATE and slower["start"] <= SLOWER and slower["wall"] <= SLOWER


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.stdout.write(json.dumps(asyncio.run(replay(sys.argv[2], sys.argv[3]))))
        sys.exit(0)
    sys.exit(0 if measure() else 1)
