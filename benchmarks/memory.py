"""What a memory gains and what it costs to read: `make bench-memory`.

Three sections. Streams: questions of one hidden world in five orders, each with draws of its own, with memories of
several kinds beside the `empty` control under the same feedback; then a new process reads what was learned. Limits: a
long stream under a limit that holds a few entries only, `delta` beside `cumulative`. Reading: the nearest of many
entries beside the plain product and partial sort in numpy, on one core, in turns. The tables go to standard output and,
with `--card`, into `docs/memory.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

# One core for everything that is timed; numpy reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from card import DOCS, command_of, show
from memory_world import UNKNOWN, world
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from inferloom.core.memory import Add, Entry, Rules
from inferloom.core.types import Json, Request
from inferloom.evaluation.evaluate import Evaluation, evaluate
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.stats import Interval, mean_interval, paired_difference
from inferloom.memory.book import MemoryBook, book_of
from inferloom.memory.scope import MemoryScope
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

HERE = Path(__file__).parent
CARD = DOCS / "memory.md"
PACK = HERE / "memory_pack.yaml"
MEMORY = "rules"
MODEL = "large"
SAMPLES = 5
NEAREST: dict[str, Json] = {"memory": MEMORY, "kinds": ["example"], "k": 2, "least": 0.5}
FEEDBACK: dict[str, Json] = {"memory": MEMORY, "feedback": "verifier", "by": "rule", "least": 1.0, "below": UNKNOWN}


def steps(recall: Json, curate: Json, samples: int = SAMPLES) -> list[Json]:
    """Read, draw, vote, check, learn."""
    return [
        {"recall": recall},
        {"sample": {"model": MODEL, "n": samples, "max_tokens": 160}},
        "vote",
        {"score": {"method": "callable", "scorer": "bench/rule", "name": "rule"}},
        {"curate": curate},
    ]


DELTA: Json = {**FEEDBACK, "keep": ["example"], "limit": 4000}
ARMS: dict[str, list[Json]] = {
    "empty": steps({**NEAREST, "mode": "empty"}, DELTA),
    "delta, 2 nearest": steps(NEAREST, DELTA),
    "delta, 2 nearest of any cosine": steps({**NEAREST, "least": -1.0}, DELTA),
    "full_history, 2 nearest": steps(NEAREST, {**FEEDBACK, "mode": "full_history", "limit": 4000}),
}
CHOSEN = "delta, 2 nearest"


def spec_of(label: str, parts: list[Json], pack: str = "pocket") -> PipelineSpec:
    models: Json = {MODEL: f"pocket:{MODEL}", "curator": "scripted:bench-curator"}
    return PipelineSpec.from_data({"models": models, "prompts": pack, "steps": parts}, label)


@dataclass(slots=True)
class Bench:
    """Runs streams."""

    store: Store
    progress: Progress
    seed: int

    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.store)

    async def run(
        self, label: str, spec: PipelineSpec, items: Sequence[Item], scope: MemoryScope, order: int
    ) -> Evaluation:
        """One stream in one order, with draws of its own."""
        task = self.progress.add_task(f"{label}, order {order}", total=len(items))
        result = await evaluate(
            Pipeline(spec, self.gateway),
            items,
            grader=make_grader("pocket"),
            store=self.store,
            stream=f"memory/{self.seed}/{order}",
            split="bench",
            concurrency=32,
            memory=scope,
            order=order,
            on_item=lambda _: self.progress.advance(task),
        )
        self.progress.remove_task(task)
        return result


def scope_of(label: str, order: int) -> MemoryScope:
    return MemoryScope(protocol="online", fork=f"{label}/{order}")


def late(results: Sequence[Evaluation], *, explained: bool | None = None) -> dict[str, list[float]]:
    """Scores in the last half of the stream, by item, over all orders."""
    scores: dict[str, list[float]] = {}
    for result in results:
        half = len(result.results) // 2
        for one in result.results:
            wanted = explained is None or (int(one.item.split("-")[1]) % 5 == 0) == explained
            if one.position is not None and one.position >= half and wanted:
                scores.setdefault(one.item, []).append(one.score)
    return scores


def paired(ours: Mapping[str, list[float]], others: Mapping[str, list[float]]) -> Interval:
    """The mean lead with its interval; an item that stands in the last half of several orders counts once."""
    return paired_difference(
        [statistics.mean(ours[item]) for item in ours], [statistics.mean(others[item]) for item in ours]
    )


def percent(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{100 * interval.mean:{sign}.1f} ({100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f})"


def mean_of(scores: Mapping[str, list[float]]) -> Interval:
    return mean_interval([statistics.mean(own) for own in scores.values()], seed=0)


async def streams(bench: Bench, count: int, orders: int, database: str) -> str:
    items = world(count, bench.seed)
    results = {
        label: [
            await bench.run(label, spec_of(label, parts), items, scope_of(label, order), order)
            for order in range(orders)
        ]
        for label, parts in ARMS.items()
    }
    control = late(results["empty"])
    rows = []
    for label, evaluations in results.items():
        scores = late(evaluations)
        lead = "" if label == "empty" else percent(paired(scores, control), signed=True)
        unexplained = mean_of(late(evaluations, explained=False))
        tokens = statistics.mean(one.usage.tokens for one in evaluations) / count
        rows.append(f"| {label} | {percent(mean_of(scores))} | {percent(unexplained)} | {lead} | {tokens:.0f} |")
    fork = scope_of(CHOSEN, 0).home
    entries = await book_of(bench.store).open(MEMORY, fork).entries()
    continued = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, __file__, "--continue", database, str(bench.seed), str(count)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    again = Interval(**json.loads(continued.stdout))
    before = mean_of(late(results[CHOSEN][:1], explained=False))
    return (
        f"{count} questions of one world in {orders} orders, each with draws of its own; one question in five comes"
        f" explained, and only for those there is a check; votes of {SAMPLES} samples of `pocket:large`.\n\n"
        "| memory | right in the last half | of those not explained | lead over `empty` | tokens a question |\n"
        "|---|---:|---:|---:|---:|\n" + "\n".join(rows) + "\n\n"
        f"A new process that reads the sheet of the first order ({len(entries)} entries, frozen) answers"
        f" {percent(again)} of {again.n} fresh questions that are not explained; the stream itself had reached"
        f" {percent(before)}.\n"
    )


async def go_on(database: str, seed: int, count: int) -> Interval:
    """What a new process makes of the stored sheet: fresh questions of the same world, none of them explained."""
    asked = {item.question for item in world(count, seed)}
    fresh = [item for item in world(2 * count, seed) if item.question not in asked and not item.notes]
    with Store.open(database) as store, Progress(console=Console(stderr=True)) as progress:
        bench = Bench(store, progress, seed)
        scope = MemoryScope(scope_of(CHOSEN, 0).home, "frozen")
        result = await bench.run("new process", spec_of(CHOSEN, ARMS[CHOSEN]), fresh, scope, 1000)
        await bench.gateway.aclose()
    return result.mean


_SYMBOL = re.compile(r"\d([#@&%$~^!])\d")
_TAGGED = r"<{name}-(?P<tag>\w+)>\n(?P<text>.*?)\n</{name}-(?P=tag)>"


def rewrite(request: Request, seed: int) -> str:
    """A curator at its best: it copies the sheet, adds what was found right, and drops the oldest where it must."""
    said = request.messages[-1].content
    found = {name: re.search(_TAGGED.format(name=name), said, re.DOTALL) for name in ("sheet", "question", "answer")}
    sheet, question, answer = (match["text"] if match else "" for match in found.values())
    tag = found["sheet"]["tag"] if found["sheet"] else ""
    items = [] if sheet == "(empty)" else sheet.split("\n\n")
    if "is right" in said:
        items.append(f"{question}\n{answer}")
    while len("\n\n".join(items)) > 4 * (LIMIT - 8):
        items.pop(0)
    return f"<new-sheet-{tag}>\n" + "\n\n".join(items) + f"\n</new-sheet-{tag}>"


register_backend("bench-curator", ScriptedBackend(rewrite, name="bench-curator"))
LIMIT = 300


async def limits(bench: Bench, count: int) -> str:
    """`delta` and `cumulative` under one limit over a long stream."""
    levels = (2,)  # of easier questions there are too few
    items = world(count, bench.seed + 1, levels)
    fresh = [item for item in world(count + 300, bench.seed + 1, levels)[count:] if not item.notes]
    arms = {
        "delta": steps(NEAREST, {**FEEDBACK, "keep": ["example"], "limit": LIMIT}, 1),
        # A sheet in the notes is nothing that the pocket models were taught to read: it is written, not read.
        "cumulative": steps(
            {**NEAREST, "mode": "empty"}, {**FEEDBACK, "mode": "cumulative", "model": "curator", "limit": LIMIT}, 1
        ),
    }
    book, rows = book_of(bench.store), []
    for label, parts in arms.items():
        scope = scope_of(f"limit {label}", 0)
        await bench.run(label, spec_of(label, parts, str(PACK)), items, scope, 0)
        sheet = book.open(MEMORY, scope.home)
        history = book.versions(sheet)
        kept = as_examples(await sheet.entries())
        told = described(kept, bench.store.memories.every_state(sheet.id)) if label == "delta" else "no counters"
        await book.bring(book.open(MEMORY, f"kept by {label}"), kept, source=label)
        reader = steps(NEAREST, {**FEEDBACK, "keep": ["example"]}, 1)
        reads = MemoryScope(f"kept by {label}", "frozen")
        read = await bench.run(f"{label}, read", spec_of(f"{label}, read", reader), fresh, reads, 1)
        largest, symbols = (
            max(version.tokens for version in history),
            len({_SYMBOL.findall(one.key)[0] for one in kept}),
        )
        rows.append(f"| {label} | {largest} | {len(history) - 1:,} | {told} | {symbols} of 8 | {percent(read.mean)} |")
    return (
        f"{count:,} questions, a limit of {LIMIT} tokens, one sample of `pocket:large` a question. `cumulative` is"
        " written anew after every question by a scripted curator that copies without a slip, which no model does, and"
        f" drops the oldest. What each kept is then read in the same way (2 nearest) for {len(fresh)} fresh questions"
        " that are not explained.\n\n"
        "| | largest sheet, tokens | versions | entries that helped 3 times or more: kept | symbols with an example |"
        " right of the fresh questions |\n|---|---:|---:|---|---:|---:|\n" + "\n".join(rows) + "\n"
    )


def as_examples(entries: Sequence[Entry]) -> list[Entry]:
    """The solved examples of a sheet, whatever its form."""
    made = [entry for entry in entries if entry.kind == "example"]
    for text in (part for entry in entries if entry.kind == "sheet" for part in entry.text.split("\n\n")):
        key, _, answer = text.partition("\n")
        made.append(Entry(id=f"sheet-{len(made)}", kind="example", key=key, text=answer))
    return made


def described(kept: Sequence[Entry], states: Sequence[Entry]) -> str:
    """How many of the entries that helped are still there."""
    worth: dict[str, int] = {}
    for state in states:
        worth[state.id] = max(worth.get(state.id, 0), state.worth)
    there = {entry.id for entry in kept}
    lost = [most for id, most in worth.items() if most >= 3 and id not in there]
    helped = sum(most >= 3 for most in worth.values())
    proven = [entry.worth for entry in kept if entry.worth > 0]
    told = f"{helped - len(lost)} of {helped} (kept: +{min(proven)} to +{max(proven)})" if proven else "none"
    return f"{told[:-1]}; lost: at most +{max(lost)})" if lost else told


@dataclass
class Given:
    """An embedder that hands out the vectors that it was given."""

    vectors: Mapping[str, tuple[float, ...]]

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        return [self.vectors[text] for text in texts]


async def reading(store: Store, entries: int, dimensions: int, k: int, rounds: int) -> str:
    """The nearest of many entries beside plain numpy, in turns on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    matrix = units(rng.standard_normal((entries, dimensions), dtype=np.float32))
    asked = matrix[rng.integers(entries, size=rounds)]
    queries = units(asked + 0.1 * rng.standard_normal((rounds, dimensions), dtype=np.float32))
    vectors = {f"e{row}": tuple(map(float, vector)) for row, vector in enumerate(matrix)}
    vectors |= {f"q{row}": tuple(map(float, vector)) for row, vector in enumerate(queries)}
    sheet = MemoryBook(store, Given(vectors), "given").open("many")
    adds = [Add("example", f"e{row}", "x") for row in range(entries)]
    await sheet.commit(adds, Rules(dedup=None, mask=False))
    await sheet.nearest("q0", k)
    ours: list[float] = []
    plain: list[float] = []
    for row, query in enumerate(queries):
        best: NDArray[np.intp] = np.empty(0, np.intp)
        found: list[tuple[Entry, float]] = []
        # In turns, and each first every other time: who comes second finds the caches as the other left them.
        for turn in (row % 2, 1 - row % 2):
            began = time.perf_counter()
            if turn == 0:
                found = await sheet.nearest(f"q{row}", k)
                ours.append(time.perf_counter() - began)
            else:
                cosines = matrix @ query
                chosen = np.argpartition(cosines, entries - k)[entries - k :]
                best = chosen[np.argsort(-cosines[chosen])]
                plain.append(time.perf_counter() - began)
        assert {entry.key for entry, _ in found} == {f"e{index}" for index in best}
    ratio = sum(ours) / sum(plain)
    return (
        f"The {k} nearest of {entries:,} entries with {dimensions} dimensions, {rounds} times on one core, the look"
        " into the database for a newer version included, the embedding of the question not:"
        f" {1000 * statistics.median(ours):.2f} ms, plain numpy (`@` and `argpartition`)"
        f" {1000 * statistics.median(plain):.2f} ms; ratio of all rounds {ratio:.2f}.\n"
    )


def units(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows with length 1."""
    scaled: NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return scaled


async def measure(arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/bench.db"
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Store.open(database) as store, Progress(*columns, console=Console(stderr=True)) as progress:
            bench = Bench(store, progress, arguments.seed)
            told = [
                "### Streams\n\n" + await streams(bench, arguments.questions, arguments.orders, database),
                "### Under a limit\n\n" + await limits(bench, arguments.long),
            ]
            await bench.gateway.aclose()
            told.append("### Reading\n\n" + await reading(store, 100_000, 128, 4, 400))
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=240, help="questions of a stream")
    parser.add_argument("--orders", type=int, default=5, help="orders of the stream")
    parser.add_argument("--long", type=int, default=2000, help="questions of the long stream")
    parser.add_argument("--seed", type=int, default=20, help="of the world and the draws")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the tables into the card")
    parser.add_argument("--continue", nargs=3, dest="rest", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rest:
        database, seed, count = arguments.rest
        sys.stdout.write(json.dumps(asdict(asyncio.run(go_on(database, int(seed), int(count))))))
        return
    tables = asyncio.run(measure(arguments))
    command = command_of("bench-memory")
    text = f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command}`. In brackets 95% intervals.\n\n{tables}"
    show(text, arguments.card, __file__)


if __name__ == "__main__":
    main()
