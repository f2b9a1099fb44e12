"""A search on scripted models that takes a second: additions, which `small` gets right less often than `large`."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from pathlib import Path

# These are loaded late by the package; loaded here, a forked search starts at once.
import alembic.command  # noqa: F401
import langgraph.graph  # noqa: F401
import optuna  # noqa: F401

from inferloom.core.types import Request
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.search.job import SearchJob
from inferloom.search.result import StudyResult
from inferloom.search.study import run_study
from inferloom.search.worker import Workers
from inferloom.store import Store

_SUM = re.compile(r"(\d+) \+ (\d+)")
_SAID = re.compile(r"A: (-?\d+)")


def solver(skill: float, judgement: float):  # type: ignore[no-untyped-def]  # the registry's own type is long
    """A model that is right with probability `skill`, and judges rightly with probability `judgement`."""

    def reply(request: Request, seed: int) -> str:
        text = "\n".join(message.content for message in request.messages)
        rng = random.Random(f"{seed}|{text}")
        left, right = _SUM.search(text).groups()  # type: ignore[union-attr]  # every question holds a sum
        truth = int(left) + int(right)
        if "single digit from 0" in text:
            sure = (_SAID.findall(text)[-1] == str(truth)) == (rng.random() < judgement)
            return "9" if sure else "0"
        answer = truth if rng.random() < skill else truth + rng.randint(1, 3)
        return f"{left} + {right}\nA: {answer}"

    return reply


LATENCY = float(os.environ.get("ADDER_LATENCY", "0"))
SMALL = register_backend("adder-small", ScriptedBackend(solver(0.4, 0.7), name="adder-small", latency=LATENCY))
LARGE = register_backend("adder-large", ScriptedBackend(solver(0.6, 0.9), name="adder-large", latency=LATENCY))

SPACE = """\
models: {small: scripted:adder-small, large: scripted:adder-large}
steps:
  - sample:
      model: {choice: [small, large]}
      n: {choice: [1, 2, 4, 8]}
      temperature: {float: [0.4, 1.0], step: 0.2}
  - optional: {score: {model: large, name: judge}}
  - choice:
      - vote
      - vote: {weight: judge}
      - best: {by: judge}
rules:
  - steps.0.sample.n <= 4 or not steps.1.optional
"""


SIZES = "{dev: 8, confirm: 4, test: 12}"


def job_text(data: Path, *, trials: int = 8, sizes: str = SIZES, extra: str = "") -> str:
    space = "\n".join(f"  {line}" for line in SPACE.splitlines())
    return f"""\
name: adding
data: {{file: {data}, grader: numeric}}
split: {sizes}
objectives: [quality, tokens]
trials: {trials}
batch: 4
seed: 3
concurrency: 16
finalists: 3
{extra}
space:
{space}
"""


def short_job(folder: Path) -> SearchJob:
    """A search with every stage, as short as can be."""
    return SearchJob.load(job_text(write_items(folder), trials=8, sizes="{dev: 6, confirm: 3, test: 6}"))


POCKET = """\
name: pocket
data: {procedural: ["pocket:sum", "pocket:sort"], count: 24}
split: {dev: 6, confirm: 3, test: 6}
trials: 6
batch: 3
seed: 5
finalists: 2
space:
  models: {small: pocket:small, large: pocket:large}
  steps:
    - sample: {model: {choice: [small, large]}, n: {choice: [1, 2, 4]}, max_tokens: 120}
    - vote
"""


def pocket_job(folder: Path) -> SearchJob:
    """A search on the language models that come along."""
    return SearchJob.load(POCKET)


JOBS = {"adding": short_job, "pocket": pocket_job}


def write_items(folder: Path, count: int = 24) -> Path:
    path = folder / "sums.jsonl"
    lines = [
        f'{{"question": "What is {12 + 7 * k} + {31 * k % 89 + 3}?", "answer": "{12 + 7 * k + 31 * k % 89 + 3}"}}'
        for k in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


async def search(db: str, job: SearchJob, name: str, workers: Workers | None = None) -> StudyResult:
    store = Store.open(db)
    try:
        return await run_study(job, store, name=name, workers=workers)
    finally:
        store.close()


def main(db: str, name: str, folder: str, workers: str = "0") -> None:
    """A search in a process of its own, to be killed."""
    crew = Workers(count=int(workers)) if int(workers) else None
    asyncio.run(search(db, JOBS[name](Path(folder)), name, crew))


if __name__ == "__main__":
    main(*sys.argv[1:])
