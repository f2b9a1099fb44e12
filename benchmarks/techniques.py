"""Every technique on the pocket suite, beside self-consistency and best-of-n at equal cost: `make bench-techniques`.

The pipelines are those of `techniques.yaml`; all of them use one model, so that equal tokens are equal cost. A
technique is compared, item by item, with the member of each baseline's family whose cost comes closest to its own. Four
sections: all techniques at equal tokens; the searches over steps on the chained families at equal seconds and at equal
parameters times tokens; adaptive sampling beside 16 samples; a verifier on the family that is easy to check. The tables
go to standard output and, with `--card`, into `docs/techniques.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from card import DOCS, command_of, show
from rates import fit_rates
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from ruamel.yaml import YAML

from inferloom.core.types import Candidate, Json
from inferloom.evaluation.evaluate import Evaluation, evaluate
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families
from inferloom.evaluation.stats import Interval, paired_difference
from inferloom.models.client import Gateway
from inferloom.models.pocket.tasks import FAMILIES
from inferloom.models.pocket.tasks.base import Item as Task
from inferloom.models.spec import Rates
from inferloom.nodes.base import NODES
from inferloom.nodes.scorers import register_scorer
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

HERE = Path(__file__).parent
CARD = DOCS / "techniques.md"
CURVE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The numbers of samples at which the baselines are measured."""
CHAINED = ("sum", "multiply", "sort", "reverse", "story", "operator", "code")
OVER_STEPS = {"beam_search", "dvts", "particle_filter", "mcts"}
SELF_CONSISTENCY, BEST_OF_N = "self-consistency", "best-of-n"

Cost = Callable[[Evaluation], float]
Technique = Mapping[str, Json]


@register_scorer("bench/target")
def reaches_target(question: str, candidate: Candidate) -> float:
    """A verifier that one could deploy: it evaluates the expression and looks at the question, not at an answer."""
    task = Task(family="target", level=1, question=question, steps=(), answer="")
    return float(candidate.answer is not None and FAMILIES["target"].is_right(task, candidate.answer))


def tokens_of(result: Evaluation) -> float:
    """Mean nominal tokens of an item, read and written ones alike: parameters times tokens, for one model."""
    return (result.usage.tokens - result.usage.cached_tokens) / len(result.results)


def seconds_of(result: Evaluation) -> float:
    """Mean nominal model seconds of an item, by the model's rates."""
    return result.usage.seconds / len(result.results)


@dataclass(frozen=True, slots=True)
class Row:
    """A technique's results and its leads over the baselines: (member of the family, technique minus it)."""

    label: str
    result: Evaluation
    leads: Sequence[tuple[str, Interval]] = ()


@dataclass(slots=True)
class Bench:
    """Evaluates pipelines on the same draws."""

    store: Store
    model: str
    rates: Rates
    progress: Progress
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.store)

    async def run(self, label: str, steps: Json, items: Sequence[Item]) -> Evaluation:
        """A pipeline's results."""
        models: Json = {"m": {"model": self.model, "rates": dict(self.rates.model_dump())}}
        spec = PipelineSpec.from_data({"models": models, "prompts": "pocket", "steps": steps}, label)
        task = self.progress.add_task(label, total=len(items))
        result = await evaluate(
            Pipeline(spec, self.gateway),
            items,
            grader=make_grader("pocket"),
            store=self.store,
            stream="bench",
            split="bench",
            concurrency=128,
            on_item=lambda _: self.progress.advance(task),
        )
        self.progress.remove_task(task)
        return result

    async def curve(self, family: str, items: Sequence[Item], most: int) -> dict[str, Evaluation]:
        """A baseline with more and more samples."""
        return {
            f"n = {n}": await self.run(f"{family}, n = {n}", baseline(family, n), items) for n in CURVE if n <= most
        }


def draw(n: int) -> Json:
    """The step that samples."""
    return {"sample": {"model": "m", "n": n, "max_tokens": 160}}


def baseline(family: str, n: int) -> Json:
    """The steps of a baseline with n samples."""
    if n == 1:
        return [draw(1)]
    if family == SELF_CONSISTENCY:
        return [draw(n), "vote"]
    return [draw(n), {"score": {"model": "m", "name": "judge", "expected": True}}, {"best": {"by": "judge"}}]


def lead(result: Evaluation, curve: Mapping[str, Evaluation], cost: Cost) -> tuple[str, Interval]:
    """The member of a curve whose cost comes closest, and the lead over it."""
    nearest = min(curve, key=lambda name: abs(cost(curve[name]) - cost(result)))
    return nearest, paired_difference(result.scores, curve[nearest].scores)


async def all_techniques(bench: Bench, techniques: Sequence[Technique], items: Sequence[Item], most: int) -> str:
    """Every technique on the whole suite, at equal tokens."""
    curves = {family: await bench.curve(family, items, most) for family in (SELF_CONSISTENCY, BEST_OF_N)}
    rows = [Row("one call", curves[SELF_CONSISTENCY]["n = 1"])]
    for family, members in curves.items():
        rows += [Row(f"{family}, {name}", result) for name, result in members.items() if name != "n = 1"]
    for technique in techniques:
        result = await bench.run(str(technique["label"]), technique["steps"], items)
        leads = [] if result.oracle else [lead(result, curve, tokens_of) for curve in curves.values()]
        rows.append(Row(str(technique["label"]), result, leads))
    heading = f"### All techniques, {len(items)} items of the suite, at equal tokens\n\n"
    return heading + table(rows, ["against self-consistency", "against best-of-n"])


async def over_steps(bench: Bench, techniques: Sequence[Technique], items: Sequence[Item], most: int) -> str:
    """The searches over steps beside best-of-n on the chained families."""
    curve = await bench.curve(BEST_OF_N, items, most)
    rows = [Row(f"{BEST_OF_N}, {name}", result) for name, result in curve.items()]
    for technique in techniques:
        if technique["node"] in OVER_STEPS:
            result = await bench.run(str(technique["label"]), technique["steps"], items)
            leads = [lead(result, curve, cost) for cost in (seconds_of, tokens_of)]
            rows.append(Row(str(technique["label"]), result, leads))
    heading = (
        f"### Search over steps, {len(items)} items of the chained families ({', '.join(CHAINED)})\n\n"
        f"Seconds by fitted rates, {bench.rates.prefill:,.0f} tokens read and {bench.rates.decode:,.0f} written a"
        " second (`benchmarks/rates.py`); by parameters a token written costs what a token read costs. Cached prompt"
        " tokens cost nothing.\n\n"
    )
    return heading + table(rows, ["best-of-n at equal seconds", "best-of-n at equal parameters x tokens"])


async def adaptive(bench: Bench, items: Sequence[Item]) -> str:
    """Adaptive sampling beside 16 samples."""
    whole = await bench.run("16 samples", [draw(16), "vote"], items)
    lines = [f"### Adaptive sampling, {len(items)} items\n"]
    for stop in ("beta", "agreement"):
        step: Json = {"adaptive_sample": {"model": "m", "n": 16, "stop": stop, "max_tokens": 160}}
        result = await bench.run(f"adaptive, {stop}", [step, "vote"], items)
        against = paired_difference(result.scores, whole.scores)
        share = tokens_of(result) / tokens_of(whole)
        lines.append(
            f"- `stop: {stop}`: {percent(result.mean)}, against 16 samples {percent(whole.mean)};"
            f" difference {points(against)} points at {share:.0%} of their tokens"
        )
    return "\n".join(lines) + "\n"


async def verifier(bench: Bench, items: Sequence[Item]) -> str:
    """The family that is hard to solve and easy to check: a verifier beside the bound."""
    bound = await bench.run("any of 16", [draw(16), "oracle"], items)
    checked: Json = {"score": {"method": "callable", "scorer": "bench/target", "name": "reaches"}}
    guided = await bench.run("verifier", [draw(16), checked, {"best": {"by": "reaches"}}], items)
    judged = await bench.run("judge", baseline(BEST_OF_N, 16), items)
    return (
        f"### Make-the-target, {len(items)} items\n\n"
        f"- any of 16 right (oracle, a bound): {percent(bound.mean)}\n"
        f"- best of 16 by a verifier that evaluates the expression: {percent(guided.mean)},"
        f" {guided.mean.mean / bound.mean.mean:.1%} of the bound\n"
        f"- best of 16 by the model's own judgement: {percent(judged.mean)}\n"
    )


def table(rows: Sequence[Row], against: Sequence[str]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| technique | accuracy, % | tokens an item | seconds an item | {' | '.join(against)} |",
        "|---|---|---:|---:|" + "---|" * len(against),
    ]
    for row in rows:
        cells = [row.label, percent(row.result.mean), f"{tokens_of(row.result):,.0f}", f"{seconds_of(row.result):.4f}"]
        cells += [verdict(*one) for one in row.leads] or [""] * len(against)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def verdict(member: str, difference: Interval) -> str:
    """A lead in words and figures."""
    words = "no difference" if not difference.excludes_zero else "better" if difference.mean > 0 else "worse"
    return f"{words}: {points(difference)} ({member})"


def percent(mean: Interval) -> str:
    return f"{100 * mean.mean:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"


def points(difference: Interval) -> str:
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


async def measure(bench: Bench, arguments: argparse.Namespace, techniques: Sequence[Technique]) -> str:
    """The sections that are asked for."""
    count = int(arguments.items)

    def items(families: Sequence[str], size: int) -> list[Item]:
        return make_items(procedural_families(families), count=size, levels=None, seed=3)

    chained = [f"pocket:{family}" for family in CHAINED]
    makers = {
        "all": lambda: all_techniques(bench, techniques, items(["pocket"], count), arguments.most),
        "steps": lambda: over_steps(bench, techniques, items(chained, count), min(arguments.most, 16)),
        "adaptive": lambda: adaptive(bench, items(["pocket"], int(arguments.adaptive_items))),
        "target": lambda: verifier(bench, items(["pocket:target"], count)),
    }
    return "\n".join([await makers[section]() for section in arguments.sections])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=252, help="items of a section")
    parser.add_argument("--adaptive-items", type=int, default=1000, help="items of the section on adaptive sampling")
    parser.add_argument("--model", default="pocket:large")
    parser.add_argument("--sections", nargs="+", choices=("all", "steps", "adaptive", "target"))
    parser.add_argument("--most", type=int, default=CURVE[-1], help="the most samples of a baseline")
    parser.add_argument("--db", type=Path, help="keep the bank in this file, so that a second run costs nothing")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the tables into the card")
    arguments = parser.parse_args()
    arguments.sections = arguments.sections or ["all", "steps", "adaptive", "target"]
    techniques = YAML(typ="safe").load((HERE / "techniques.yaml").read_text(encoding="utf-8"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rates = asyncio.run(fit_rates(arguments.model))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.db or Path(folder) / "bench.db"
        with Store.open(f"sqlite:///{path}") as store, Progress(*columns, console=Console(stderr=True)) as progress:
            text = asyncio.run(measure(Bench(store, arguments.model, rates, progress), arguments, techniques))
    unmeasured = sorted(set(NODES.names()) - {str(technique["node"]) for technique in techniques})
    text = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command_of('bench-techniques')}` with `{arguments.model}`."
        " Intervals are 95%."
        " A lead is in points, paired by item, over the baseline whose cost comes closest (in brackets). Tokens are"
        f" nominal, without those of a cached prefix.\n\n{text}\n"
        f"Nodes that no row is about: {', '.join(f'`{name}`' for name in unmeasured)}.\n"
    )
    show(text, arguments.card, __file__)


if __name__ == "__main__":
    main()
