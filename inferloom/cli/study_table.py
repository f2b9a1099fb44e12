"""A study's result as a table: baselines and the Pareto front, on the untouched test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferloom.cli.output import count, print_table, print_text, usage_line

if TYPE_CHECKING:
    from inferloom.evaluation.stats import Interval
    from inferloom.search.result import Entry, StudyResult


def print_study(result: StudyResult) -> None:
    """The table, the comparisons and the verdict."""
    sizes = ", ".join(f"{size} {split}" for split, size in result.sizes.items())
    front = {entry.pipeline_hash for entry in result.front}
    entries = [*result.baselines, *result.front]
    if result.winner.pipeline_hash not in front:
        entries.append(result.winner)
    print_table(
        ["", "pipeline", "test", "95% interval", "n", "tokens", "seconds", "calls", "usd"],
        [
            _row(entry, "winner" if entry.pipeline_hash == result.winner.pipeline_hash else entry.kind)
            for entry in entries
        ],
        title=f"study {result.study}: {sizes} items; nominal cost of one item",
    )
    for comparison in result.comparisons:
        print_text(comparison.verdict)
    print_text(result.verdict)
    print_text(f"billed: {usage_line(result.billed)}")
    print_text(f"this data set's test split has been looked at {count(result.test_touches, 'time')}")
    if result.stopped:
        print_text(f"the search ended early: {result.stopped}")


def _row(entry: Entry, kind: str) -> list[str]:
    usage = entry.nominal
    return [
        kind,
        entry.label,
        _mean(entry.test),
        _bounds(entry.test),
        "-" if entry.test is None else str(entry.test.n),
        f"{usage.tokens:,.0f}",
        f"{usage.seconds:.2f}",
        f"{usage.calls:.1f}",
        f"${usage.usd:.5f}" if usage.usd else "-",
    ]


def _mean(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.1%}"


def _bounds(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.1%} to {interval.high:.1%}"
