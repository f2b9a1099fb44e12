"""Measure the pocket models: `python -m inferloom.models.pocket.measure --sizes small large --items 500`.

Everything is asked through the same backend that a pipeline uses. `--sweep` shows one-try accuracy by family and level;
without it, every job of every size is measured, and `--card` writes the tables into the model card.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from inferloom.core.errors import SetupError
from inferloom.models.pocket.asking import ask, is_right, solve
from inferloom.models.pocket.measuring import TRIES, Case, Replies, Report, Share, measure
from inferloom.models.pocket.suite import SUITE_LEVELS, pocket_items
from inferloom.models.pocket.tasks import FAMILIES
from inferloom.models.spec import ModelSpec
from inferloom.models.transformers import (
    POCKET_FOLDER,
    POCKET_SIZES,
    TransformersBackend,
    open_pocket,
    open_transformers,
)

CARD = POCKET_FOLDER / "README.md"
_MARK = "<!-- measured: written by inferloom.models.pocket.measure -->"


def open_size(size: str, weights: dict[str, str]) -> TransformersBackend:
    """The backend of a size: the folder named for it, else the one in the package."""
    if size in weights:
        path = weights[size]
        return open_transformers(path, ModelSpec(model=f"transformers:{path}", extra={"device": "cpu"}))
    return open_pocket(size, ModelSpec(model=f"pocket:{size}"))


async def sweep(sizes: Sequence[str], weights: dict[str, str], each: int, families: Sequence[str]) -> None:
    """Show one-try accuracy by family and level."""
    for size in sizes:
        backend = open_size(size, weights)
        show(f"{size}: one-try accuracy (%) by level, {each} items each")
        for family in families:
            levels = range(1, FAMILIES[family].levels + 1)
            items = [item for level in levels for item in pocket_items([family], [level], each, 0, purpose="sweep")]
            replies = await ask(backend, [solve(item) for item in items], salt=f"sweep {family}")
            right = dict.fromkeys(levels, 0)
            for item, reply in zip(items, replies, strict=True):
                right[item.level] += is_right(item, reply[0].text)
            show(f"  {family:10s}" + " ".join(f"{100 * right[level] / each:4.0f}" for level in levels))
        await backend.aclose()


async def measure_all(sizes: Sequence[str], weights: dict[str, str], count: int, seed: int) -> list[Report]:
    """Measure each size over the same items; every size also judges the small one's attempts."""
    items = pocket_items("pocket", SUITE_LEVELS, count, seed)
    reports: list[Report] = []
    others: tuple[list[Case], list[Replies]] = ([], [])
    for size in sorted(sizes, key=POCKET_SIZES.index):
        backend = open_size(size, weights)
        report, cases, replies = await measure(backend, size, items, others)
        await backend.aclose()
        if size == "small":
            others = cases, replies
        reports.append(report)
        show(f"{size} done: {report.answers_per_minute:.0f} answers a minute")
    return reports


def tables(reports: Sequence[Report], command: str) -> str:
    """The measurements as Markdown."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    shares: dict[str, Callable[[Report, str], str]] = {
        "One try at temperature 0.8 (%)": lambda r, f: _percent(r.one_try[f]),
        f"Any of {TRIES} tries right (%)": lambda r, f: _percent(r.any_try[f]),
        "Tokens per answer": lambda r, f: f"{r.tokens[f]:.0f}",
    }
    families = list(reports[0].one_try)
    parts = [f"Measured {today} by `{command}`; the half-width of the 95% interval stands behind each share."]
    for title, cell in shares.items():
        parts.append(f"### {title}\n\n" + _table(reports, families, cell))
    for way in reports[0].choices:
        rows = _table(reports, families, partial(_chosen, way))
        parts.append(f"### One of {TRIES} tries, {way} (%)\n\n{rows}")
    judges: dict[str, Callable[[Report], dict[str, dict[str, float]]]] = {
        "Answer judge": lambda report: report.answer_auc,
        "Answer judge within an item": lambda report: report.within_auc,
        "Step judge": lambda report: report.step_auc,
    }
    for title, curves in judges.items():
        for whose, heading in (("own", "its own"), ("small's", "the small model's")):
            having = [report for report in reports if whose in curves(report)]
            if having:
                cells = {id(report): curves(report)[whose] for report in having}
                rows = _table(having, families, partial(_area, cells))
                parts.append(f"### {title}: area under the curve on {heading} attempts\n\n{rows}")
    jobs = list(dict.fromkeys(job for report in reports for job in report.jobs))
    parts.append("### Other jobs (%)\n\n" + _table(reports, jobs, lambda r, job: _percent(r.jobs[job])))
    parts.append(
        "### Speed\n\n" + _table(reports, ["answers a minute, 64 at once"], lambda r, _: f"{r.answers_per_minute:.0f}")
    )
    return "\n\n".join(parts) + "\n"


def _table(reports: Sequence[Report], rows: Sequence[str], cell: Callable[[Report, str], str]) -> str:
    lines = ["| | " + " | ".join(report.size for report in reports) + " |", "|---|" + "---:|" * len(reports)]
    lines += [f"| {row} | " + " | ".join(cell(report, row) for report in reports) + " |" for row in rows]
    return "\n".join(lines)


def _percent(share: Share) -> str:
    return "-" if math.isnan(share.value) else f"{100 * share.value:.1f} ± {100 * share.margin:.1f}"


def _chosen(way: str, report: Report, family: str) -> str:
    return _percent(report.choices[way][family])


def _area(cells: dict[int, dict[str, float]], report: Report, family: str) -> str:
    value = cells[id(report)].get(family, math.nan)
    return "-" if math.isnan(value) else f"{value:.2f}"


def write_card(text: str, card: Path = CARD) -> None:
    """Put the tables after the mark in the model card, in place of the old ones."""
    before = card.read_text(encoding="utf-8").split(_MARK)[0] if card.is_file() else "# The pocket models\n\n"
    card.write_text(f"{before}{_MARK}\n\n{text}", encoding="utf-8")


def show(line: str) -> None:
    """Write a line for whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _weights(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        size, equals, path = pair.partition("=")
        if size not in POCKET_SIZES or not equals or not path:
            raise SetupError(
                f"must be SIZE=PATH with a size of {', '.join(POCKET_SIZES)}, not `{pair}`", where="--weights"
            )
    return dict(pair.split("=", 1) for pair in pairs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=POCKET_SIZES, default=list(POCKET_SIZES))
    parser.add_argument("--weights", action="append", default=[], metavar="SIZE=PATH", help="a folder for a size")
    parser.add_argument("--items", type=int, default=500, help="items of the whole suite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers there too")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the tables into the model card")
    parser.add_argument("--sweep", action="store_true", help="one-try accuracy by family and level, and no more")
    parser.add_argument("--each", type=int, default=40, help="items of each family and level of the sweep")
    parser.add_argument("--families", nargs="+", choices=sorted(FAMILIES), default=list(FAMILIES))
    arguments = parser.parse_args()
    try:
        weights = _weights(arguments.weights)
        if arguments.sweep:
            asyncio.run(sweep(arguments.sizes, weights, arguments.each, arguments.families))
            return
        reports = asyncio.run(measure_all(arguments.sizes, weights, arguments.items, arguments.seed))
    except SetupError as error:
        parser.exit(error.exit_code, f"{error.sentence}\n")
    command = f"python -m inferloom.models.pocket.measure --sizes {' '.join(arguments.sizes)} --items {arguments.items}"
    text = tables(reports, command + (f" --seed {arguments.seed}" if arguments.seed else ""))
    show(text)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(report) for report in reports], indent=1), encoding="utf-8")
    if arguments.card:
        write_card(text, arguments.card)


if __name__ == "__main__":
    main()
