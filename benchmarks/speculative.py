"""Speculative reasoning with the pocket pair beside its controls: `make bench-speculative`.

Settings are chosen on the items for development and tried on others. Tokens come from the runs' own accounts, and what
an arm costs is said in several ways at once, so that nothing wins by accounting: tokens; idealized runtime by rates
fitted here (`rates.py`) for one, a few and many requests at a time; parameters times tokens; and the wall time of
questions asked one after the other. The tables go to standard output and, with `--card`, into `docs/speculative.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from card import DOCS, command_of, show
from rates import fit_rates
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from inferloom.core.types import Json, Usage
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families
from inferloom.evaluation.stats import Interval, mean_interval, paired_difference
from inferloom.models.client import Gateway
from inferloom.models.spec import ModelSpec, Rates
from inferloom.pipelines.run import Pipeline, RunResult
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

CARD = DOCS / "speculative.md"
SIZES = {"small": 153_408, "medium": 460_704, "large": 903_840}
"""Parameters."""
Setting = tuple[float, float | None]
"""`threshold` and `trust`."""
CURVE: tuple[Setting, ...] = tuple((t, None) for t in (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.35, 0.55, 0.75, 0.95))
TRUSTING: tuple[Setting, ...] = tuple((t, trust) for trust in (0.99, 0.95, 0.9, 0.8) for t in (0.04, 0.1, 0.2, 0.35))
AT_ONCE = (1, 4, 16, 64)
"""Requests in flight together when the rates are fitted: latency at one end, throughput at the other."""
CHOOSE_AT = 1
MARGIN = 0.02
"""A setting may be chosen where its interval against the large model lies above minus this."""
MOST_TOKENS = 240
Fitted = Mapping[int, Mapping[str, Rates]]


@dataclass(slots=True)
class Arm:
    """What one pipeline did on a set of items."""

    label: str
    scores: list[float] = field(default_factory=list)
    usage: dict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    accepted: int = 0
    rejected: int = 0
    wall: float = 0.0
    """Mean wall seconds of a question asked alone."""

    @property
    def accuracy(self) -> Interval:
        return mean_interval(self.scores)

    def add(self, score: float, result: RunResult) -> None:
        """Count one item."""
        self.scores.append(score)
        for model, usage in result.usage_by_model.items():
            self.usage[model] += usage
        for candidate in result.candidates:
            for step in candidate.origin.get("steps", []):
                self.accepted += step["model"] == "small"
                self.rejected += "rejected" in step

    def each(self, total: float) -> float:
        return total / len(self.scores)

    def seconds(self, rates: Mapping[str, Rates]) -> float:
        """Idealized seconds of all items: by rates, without what a call costs besides."""
        return sum(
            ModelSpec(model=f"pocket:{model}", rates=rates[model].model_copy(update={"per_call": 0.0})).seconds(usage)
            for model, usage in self.usage.items()
        )

    def work(self) -> float:
        """Parameters times tokens, read (where no cache has them) and written."""
        return sum(SIZES[model] * (usage.tokens - usage.cached_tokens) for model, usage in self.usage.items())


def alone(model: str) -> Json:
    return [{"sample": {"model": model, "max_tokens": MOST_TOKENS}}]


def speculating(setting: Setting, **more: Json) -> Json:
    threshold, trust = setting
    step: dict[str, Json] = {"draft": "small", "model": "large", "expected": True, "max_tokens": MOST_TOKENS}
    return [{"spec_reason": {**step, "threshold": threshold, "trust": trust, **more}}]


def named(setting: Setting) -> str:
    threshold, trust = setting
    return f"threshold {threshold:g}" + ("" if trust is None else f", trust {trust:g}")


@dataclass(slots=True)
class Bench:
    """Runs arms."""

    store: Store
    progress: Progress
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.store)

    def pipeline(self, label: str, steps: Json) -> Pipeline:
        models: Json = {size: f"pocket:{size}" for size in SIZES}
        return Pipeline(
            PipelineSpec.from_data({"models": models, "prompts": "pocket", "steps": steps}, label), self.gateway
        )

    async def run(self, label: str, steps: Json, items: Sequence[Item], concurrency: int = 96) -> Arm:
        """An arm on items, many at a time."""
        arm, flow, grader, gate = (
            Arm(label),
            self.pipeline(label, steps),
            make_grader("pocket"),
            asyncio.Semaphore(concurrency),
        )
        task = self.progress.add_task(label, total=len(items))

        async def one(item: Item) -> tuple[float, RunResult]:
            async with gate:
                result = await flow.ainvoke(item.question, notes=item.notes, stream=f"bench/{item.id}")
            self.progress.advance(task)
            return grader.grade(item, result.answer, result.text), result

        for score, result in await asyncio.gather(*(one(item) for item in items)):
            arm.add(score, result)
        self.progress.remove_task(task)
        return arm

    async def clock(self, arms: Mapping[str, tuple[Arm, Json]], items: Sequence[Item]) -> None:
        """The wall time of one question after the other, the arms in turn, each with draws of its own."""
        flows = {label: self.pipeline(label, steps) for label, (_, steps) in arms.items()}
        spent: dict[str, float] = dict.fromkeys(arms, 0.0)
        task = self.progress.add_task("wall time", total=len(items))
        for item in items:
            for label, flow in flows.items():
                started = time.perf_counter()
                await flow.ainvoke(item.question, notes=item.notes)
                spent[label] += time.perf_counter() - started
            self.progress.advance(task)
        for label, (arm, _) in arms.items():
            arm.wall = spent[label] / len(items)


def choose(curve: Mapping[Setting, Arm], large: Arm, rates: Mapping[str, Rates]) -> Setting:
    """The cheapest setting whose interval against the large model lies above minus the margin."""
    fit = [one for one, arm in curve.items() if paired_difference(arm.scores, large.scores).low >= -MARGIN]
    return min(fit or list(curve), key=lambda setting: curve[setting].seconds(rates))


def percent(mean: Interval, scale: float = 100) -> str:
    return f"{scale * mean.mean:.1f} ({scale * mean.low:.1f} to {scale * mean.high:.1f})"


def points(difference: Interval) -> str:
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def table(arms: Sequence[Arm], large: Arm, fitted: Fitted, *, wall: bool) -> str:
    """The arms as Markdown; costs as shares of the large model's."""
    heads = ["arm", "accuracy, %", "against large, points", "drafts accepted", "rejected an item"]
    heads += [
        "tokens an item, small / medium / large",
        *(f"runtime, {k} at a time" for k in fitted),
        "parameters x tokens",
    ]
    heads += ["wall, ms an item"] if wall else []
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|" + "---:|" * (len(heads) - 3)]
    for arm in arms:
        drafts = arm.accepted + arm.rejected
        tokens = (
            arm.each(arm.usage[size].tokens - arm.usage[size].cached_tokens) if size in arm.usage else 0
            for size in SIZES
        )
        cells = [arm.label, percent(arm.accuracy)]
        cells.append("" if arm is large else points(paired_difference(arm.scores, large.scores)))
        cells += [f"{arm.accepted / drafts:.0%}" if drafts else "", f"{arm.each(arm.rejected):.2f}" if drafts else ""]
        cells.append(" / ".join(f"{count:.0f}" if count else "-" for count in tokens))
        cells += [f"{arm.seconds(rates) / large.seconds(rates):.0%}" for rates in fitted.values()]
        cells.append(f"{arm.work() / large.work():.0%}")
        cells += [f"{1000 * arm.wall:.0f}" if arm.wall else ""] if wall else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rates_table(fitted: Fitted) -> str:
    lines = ["| requests at a time | " + " | ".join(f"{size}: read / written a second" for size in SIZES) + " |"]
    lines.append("|---:|" + "---:|" * len(SIZES))
    for at_once, by_model in fitted.items():
        cells = (f"{rates.prefill:,.0f} / {rates.decode:,.0f}" for rates in by_model.values())
        lines.append(f"| {at_once} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


async def measure(bench: Bench, arguments: argparse.Namespace, fitted: Fitted) -> str:
    """All tables."""
    families = procedural_families(["pocket"])
    dev = make_items(families, count=int(arguments.dev), levels=None, seed=101)
    known = {item.group for item in dev}
    drawn = make_items(families, count=int(arguments.test * 1.5), levels=None, seed=202)
    test = [item for item in drawn if item.group not in known][: int(arguments.test)]
    dev_large = await bench.run("large", alone("large"), dev)
    curve = {one: await bench.run(named(one), speculating(one), dev) for one in (*CURVE, *TRUSTING)}
    as_paper = choose({one: curve[one] for one in CURVE}, dev_large, fitted[CHOOSE_AT])
    chosen = choose(curve, dev_large, fitted[CHOOSE_AT])
    settings = {
        f"spec_reason, {named(as_paper)}": speculating(as_paper),
        f"spec_reason, {named(chosen)}": speculating(chosen),
        f"spec_reason, {named(chosen)}, drafts ahead": speculating(chosen, ahead=True),
        "spec_reason, grades ignored (control)": speculating((0.0, None)),
    }
    pipelines = {
        "small alone": alone("small"),
        "medium alone (control)": alone("medium"),
        "large alone": alone("large"),
        **settings,
    }
    arms = {name: await bench.run(name, steps, test) for name, steps in pipelines.items()}
    await bench.clock({name: (arms[name], steps) for name, steps in pipelines.items()}, test[: int(arguments.wall)])
    large = arms["large alone"]
    verdicts = [verdict(name, arms[name], large, fitted) for name in list(settings)[:2]]
    return (
        f"### {len(test):,} test items\n\n"
        + table(list(arms.values()), large, fitted, wall=True)
        + f"\nThe settings were chosen on {len(dev)} other items: the cheapest (rates of {CHOOSE_AT} at a time) whose"
        f" interval against the large model lies above {-100 * MARGIN:g} points there, once without `trust`, as in the"
        " paper, and once with it. On the test items:\n\n"
        + "".join(f"- {line}\n" for line in dict.fromkeys(verdicts))
        + f"\n### The settings on the {len(dev)} items for development\n\n"
        + table([dev_large, *curve.values()], dev_large, fitted, wall=False)
        + "\n### Rates\n\nFitted in the same run, tokens a second:\n\n"
        + rates_table(fitted)
    )


def verdict(name: str, arm: Arm, large: Arm, fitted: Fitted) -> str:
    """An arm against the large model in one sentence."""
    against = paired_difference(arm.scores, large.scores)
    shares = (f"{arm.seconds(rates) / large.seconds(rates):.1%} ({k} at a time)" for k, rates in fitted.items())
    return f"{name}: {points(against)} points against the large model; of its idealized runtime {', '.join(shares)}."


async def fit_all() -> Fitted:
    return {k: {size: await fit_rates(f"pocket:{size}", k) for size in SIZES} for k in AT_ONCE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", type=int, default=1000, help="items on which settings are chosen")
    parser.add_argument("--test", type=int, default=2000, help="items on which they are tried")
    parser.add_argument("--wall", type=int, default=90, help="test items that are timed one after the other")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the tables into the card")
    arguments = parser.parse_args()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    fitted = asyncio.run(fit_all())
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(f"sqlite:///{folder}/bench.db") as store,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        text = asyncio.run(measure(Bench(store, progress), arguments, fitted))
    command = command_of("bench-speculative")
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    text = f"Measured {when} by `{command}`. Intervals are 95%, differences paired by item.\n\n{text}"
    show(text, arguments.card, __file__)


if __name__ == "__main__":
    main()
