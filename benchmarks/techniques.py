"""Every technique on the pocket suite, beside self-consistency and best-of-n at equal tokens: `make bench-techniques`.

The pipelines are those of `techniques.yaml`; all of them use one model, so that equal tokens are equal cost. A
technique is compared, item by item, with the member of each baseline's family whose nominal tokens come closest to its
own. The table goes to standard output and, with `--card`, into `docs/techniques.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from ruamel.yaml import YAML

from inferloom.core.types import Json
from inferloom.evaluation.evaluate import Evaluation, evaluate
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families
from inferloom.evaluation.stats import Interval, paired_difference
from inferloom.models.client import Gateway
from inferloom.nodes.base import NODES
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

HERE = Path(__file__).parent
CARD = HERE.parent / "docs" / "techniques.md"
MARK = "<!-- measured: written by benchmarks/techniques.py -->"
CURVE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The numbers of samples at which the baselines are measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """A technique's figures: accuracy, nominal tokens and model seconds an item, and its leads over the baselines."""

    label: str
    node: str
    result: Evaluation
    leads: dict[str, tuple[str, Interval]]
    """Baseline family -> (its member, technique minus it)."""

    @property
    def tokens(self) -> float:
        return tokens_of(self.result)


def tokens_of(result: Evaluation) -> float:
    """Mean nominal tokens of an item."""
    return result.usage.tokens / len(result.results)


class Bench:
    """Evaluates pipelines on the same items and draws."""

    def __init__(self, store: Store, items: Sequence[Item], model: str, progress: Progress) -> None:
        self._gateway, self._store, self._items, self._model = Gateway(store), store, items, model
        self._grader = make_grader("pocket")
        self._progress = progress

    async def run(self, label: str, steps: list[Json]) -> Evaluation:
        """A pipeline's results."""
        spec = PipelineSpec.from_data({"models": {"m": self._model}, "prompts": "pocket", "steps": steps}, label)
        task = self._progress.add_task(label, total=len(self._items))
        result = await evaluate(
            Pipeline(spec, self._gateway),
            self._items,
            grader=self._grader,
            store=self._store,
            stream="bench",
            split="bench",
            concurrency=128,
            on_item=lambda _: self._progress.advance(task),
        )
        self._progress.remove_task(task)
        return result


def baseline_steps(family: str, n: int) -> list[Json]:
    """The pipeline of a baseline with n samples."""
    draw: Json = {"sample": {"model": "m", "n": n, "max_tokens": 160}}
    if family == "self-consistency":
        return [draw, "vote"]
    return [draw, {"score": {"model": "m", "name": "judge", "expected": True}}, {"best": {"by": "judge"}}]


async def measure(bench: Bench, techniques: Sequence[dict[str, Json]], curve: Sequence[int]) -> list[Row]:
    """The rows of the table: baselines first."""
    rows: list[Row] = []
    curves: dict[str, dict[str, Evaluation]] = {}
    for family in ("self-consistency", "best-of-n"):
        curves[family] = {}
        for n in curve:
            label = f"{family}, n = {n}" if n > 1 else "one call"
            if n == 1 and family == "best-of-n":
                curves[family][label] = curves["self-consistency"][label]
                continue
            curves[family][label] = await bench.run(label, baseline_steps(family, n))
            rows.append(Row(label, "", curves[family][label], {}))
    for technique in techniques:
        label, steps = str(technique["label"]), technique["steps"]
        assert isinstance(steps, list)
        result = await bench.run(label, steps)
        leads: dict[str, tuple[str, Interval]] = {}
        for family, members in curves.items():
            nearest = min(members, key=lambda name: abs(tokens_of(members[name]) - tokens_of(result)))
            leads[family] = (nearest, paired_difference(result.scores, members[nearest].scores))
        rows.append(Row(label, str(technique["node"]), result, leads))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| technique | accuracy, % | tokens an item | model seconds | against self-consistency | against best-of-n |",
        "|---|---|---:|---:|---|---|",
    ]
    for row in rows:
        mean = row.result.mean
        accuracy = f"{100 * mean.mean:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
        seconds = row.result.usage.seconds / len(row.result.results)
        cells = [row.label, accuracy, f"{row.tokens:,.0f}", f"{seconds:.3f}"]
        for family in ("self-consistency", "best-of-n"):
            cells.append(_lead(*row.leads[family]) if family in row.leads else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lead(member: str, lead: Interval) -> str:
    words = "no difference" if not lead.excludes_zero else "better" if lead.mean > 0 else "worse"
    figure = f"{100 * lead.mean:+.1f} ({100 * lead.low:+.1f} to {100 * lead.high:+.1f})"
    return f"{words}: {figure} ({member.split(', ')[-1]})"


def unmeasured(techniques: Sequence[dict[str, Json]]) -> list[str]:
    """The registered nodes that no row measures."""
    return sorted(set(NODES.names()) - {str(technique["node"]) for technique in techniques})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=252, help="items of the suite")
    parser.add_argument("--model", default="pocket:large")
    parser.add_argument("--only", nargs="+", metavar="NODE", help="only the rows of these nodes")
    parser.add_argument("--most", type=int, default=CURVE[-1], help="the most samples of a baseline")
    parser.add_argument("--db", type=Path, help="keep the bank in this file, so that a second run costs nothing")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the table into the card")
    arguments = parser.parse_args()
    listed = YAML(typ="safe").load((HERE / "techniques.yaml").read_text(encoding="utf-8"))
    chosen = [one for one in listed if not arguments.only or one["node"] in arguments.only]
    items = make_items(procedural_families(["pocket"]), count=arguments.items, levels=None, seed=3)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.db or Path(folder) / "bench.db"
        from rich.console import Console

        with Store.open(f"sqlite:///{path}") as store, Progress(*columns, console=Console(stderr=True)) as progress:
            bench = Bench(store, items, arguments.model, progress)
            rows = asyncio.run(measure(bench, chosen, [n for n in CURVE if n <= arguments.most]))
    text = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `make bench-techniques` on {len(items)} items of the pocket suite"
        f" with `{arguments.model}`; intervals are 95%. Leads are in points, paired by item, over the baseline whose"
        f" nominal tokens come closest (named in brackets).\n\n{table(rows)}"
    )
    if not arguments.only:
        text += "\nNot measured on pocket: " + ", ".join(f"`{name}`" for name in unmeasured(listed)) + ".\n"
    sys.stdout.write(text)
    if arguments.card:
        before = arguments.card.read_text(encoding="utf-8").split(MARK)[0]
        arguments.card.write_text(f"{before}{MARK}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
