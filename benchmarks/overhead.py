"""CPU per node of a pipeline beside a bare LangGraph graph of the same shape: `make bench-overhead`.

A chain of nodes that draw one completion each from a model that answers at once (a sample, then fusions of it); bank
on, every row written to a SQLite file. Beside it a LangGraph graph with as many async nodes that write one text. CPU
seconds of the whole process, writer thread included, measured in turns within one run, so that the ratio holds whatever
else the machine does. Concurrent runs share commits, as they do in a search. Every run draws from a fresh stream, as
`inferloom run` does: its completions are written to the bank, which need not be searched for them.

The figure is the ratio of all rounds together. Python collects garbage in lumps, each a good part of a
round: a median of rounds would leave them out on the side that has fewer. What is loaded is kept out of them, for both
sides, as `inferloom search` and `eval` do.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from inferloom.cli.options import keep_what_is_loaded
from inferloom.models.client import Gateway
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

NODES, RUNS, CONCURRENCY, ROUNDS = 10, 64, 32, 15
BAR = 2.0


def pipeline_in(folder: Path, store: Store) -> Pipeline:
    steps = "  - sample: {model: m, max_tokens: 8}\n" + "  - fuse: {model: m, max_tokens: 8}\n" * (NODES - 1)
    path = folder / "chain.yaml"
    path.write_text(f"models: {{m: 'scripted:constant'}}\nsteps:\n{steps}\n")
    return Pipeline(PipelineSpec.load(path), Gateway(store))


def bare_graph() -> Callable[[int], Awaitable[object]]:
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        text: str

    async def node(state: State) -> State:
        return {"text": "A: 1"}

    builder = StateGraph(State)
    for i in range(NODES):
        builder.add_node(f"n{i}", node)
        builder.add_edge(START if i == 0 else f"n{i - 1}", f"n{i}")
    builder.add_edge(f"n{NODES - 1}", END)
    graph = builder.compile()
    return lambda index: graph.ainvoke({"text": ""})


async def cpu_per_node(run: Callable[[int], Awaitable[object]], first: int) -> float:
    """CPU microseconds per node over RUNS runs, CONCURRENCY at a time."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(index: int) -> None:
        async with gate:
            await run(index)

    started = time.process_time()
    await asyncio.gather(*(one(first + index) for index in range(RUNS)))
    return (time.process_time() - started) / (RUNS * NODES) * 1e6


async def measure() -> float:
    with tempfile.TemporaryDirectory() as folder, Store.open(f"{folder}/bench.db") as store:
        pipeline = pipeline_in(Path(folder), store)
        runs: dict[str, Callable[[int], Awaitable[object]]] = {
            "LangGraph": bare_graph(),
            "inferloom": lambda index: pipeline.ainvoke(f"question {index}"),
        }
        keep_what_is_loaded()
        figures: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(ROUNDS + 1):
            for name, run in runs.items():
                figure = await cpu_per_node(run, turn * RUNS)
                if turn:  # the first turn warms up
                    figures[name].append(figure)
        store.flush()
    for name, values in figures.items():
        low, high = min(values), max(values)
        sys.stdout.write(f"{name:10} {statistics.mean(values):7.0f} us CPU a node (rounds: {low:.0f} to {high:.0f})\n")
    ours, bare = (statistics.mean(figures[name]) for name in ("inferloom", "LangGraph"))
    ratio = (ours - bare) / bare
    sys.stdout.write(
        f"(inferloom - LangGraph) / LangGraph = {ratio:.2f}; bar: {BAR:g}\n"
        f"{NODES} nodes, {RUNS} runs, {CONCURRENCY} at a time, {ROUNDS} rounds, {datetime.now(UTC):%Y-%m-%d}\n"
    )
    return ratio


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(measure()) <= BAR else 1)
