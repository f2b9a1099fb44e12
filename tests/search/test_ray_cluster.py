"""A search on a Ray cluster of this machine: the same trials as without it, though a worker is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.search import workload
from tests.search.reading import BANKED, RECEIVED, SCORES, Reader
from tests.search.test_workers import ROOT

pytest.importorskip("ray")

MAIN = """
import asyncio, sys
from pathlib import Path
from inferloom.search.ray_cluster import ray_workers
from tests.search import workload

if __name__ == "__main__":
    asyncio.run(workload.search(sys.argv[1], workload.pocket_job(Path()), "pocket", ray_workers("local", 2)))
"""


def started(db: Path, said: Path) -> subprocess.Popen[bytes]:
    """A search in a process of its own."""
    main = db.with_name("main.py")
    main.write_text(MAIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with said.open("wb") as log:
        return subprocess.Popen([sys.executable, str(main), str(db)], cwd=ROOT, env=environment, stderr=log)


def actors(process: subprocess.Popen[bytes]) -> list[int]:
    """The workers of the cluster that a search started."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    table = [re.split(r"\s+", line.strip(), maxsplit=2) for line in found.splitlines()[1:]]
    family = {process.pid}
    for _ in range(4):
        family |= {int(pid) for pid, parent, _ in table if int(parent) in family}
    return [int(pid) for pid, _, what in table if int(pid) in family and what.startswith("ray::_Actor")]


@pytest.mark.timeout(600)
async def test_a_search_on_a_cluster_survives_a_killed_worker(tmp_path: Path) -> None:
    db, said = tmp_path / "ray.db", tmp_path / "said.txt"
    process = started(db, said)
    read = Reader(str(db))
    killed = False
    while process.poll() is None:
        time.sleep(0.05)  # noqa: ASYNC251  # nothing else goes on here
        if not killed and db.exists() and read.progress() > 10 and (found := actors(process)):
            os.kill(found[0], signal.SIGKILL)
            killed = True
    assert process.returncode == 0, said.read_text()
    assert killed

    whole = Reader(str(tmp_path / "whole.db"))
    await workload.search(str(tmp_path / "whole.db"), workload.pocket_job(tmp_path), "pocket")
    assert read.rows(SCORES) == whole.rows(SCORES)
    assert read.rows(RECEIVED) == read.rows(BANKED) == whole.rows(BANKED)
    read.close()
    whole.close()
