"""Studies as tables: one with its baselines and its Pareto front on the test split, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferloom.cli.output import count, print_json, print_table, print_text, remark, usage_line
from inferloom.core.errors import SetupError

if TYPE_CHECKING:
    from inferloom.evaluation.stats import Interval
    from inferloom.search.record import StudyRecord
    from inferloom.search.result import Entry, StudyResult
    from inferloom.store.rows import StudyRow


def show_study(row: StudyRow, yaml: bool, json: bool, *, where: str) -> None:
    """Print a study: its table, its winner's YAML, or its result as JSON.

    Raises:
        SetupError: It has no result yet.
    """
    from inferloom.search.record import StudyRecord

    record = StudyRecord.of(row)
    result = result_of(record, where)
    if json:
        print_json(record.earlier)
    elif yaml:
        print_text(result.winner.pipeline_yaml)
    else:
        print_study(result)


def result_of(record: StudyRecord, where: str) -> StudyResult:
    """A study's result; where it goes on with more trials, the last one and a remark.

    Raises:
        SetupError: It has none yet.
    """
    if record.result is None:
        raise SetupError(
            f"the study `{record.name}` has no result yet (status: {record.row.status}); go on with it: "
            f"inferloom study resume {record.name}",
            where=where,
        )
    if not record.finished:
        remark(
            f"the study `{record.name}` is not through with its {count(record.trials, 'trial')} yet (status: "
            f"{record.row.status}); this is what it found with {len(record.result.trials):,}"
        )
    return record.result


def print_side_by_side(results: Sequence[StudyResult]) -> None:
    """One line for each study: its winner, what it scored and costs, and what the study was billed."""
    print_table(
        [
            "study",
            "winner",
            "test",
            "95% interval",
            "n",
            "tokens",
            "calls",
            "usd",
            "trials",
            "billed calls",
            "billed tokens",
        ],
        [
            [
                result.study,
                result.winner.label,
                _mean(result.winner.test),
                _bounds(result.winner.test),
                "-" if result.winner.test is None else str(result.winner.test.n),
                f"{result.winner.nominal.tokens:,.0f}",
                f"{result.winner.nominal.calls:.1f}",
                f"${result.winner.nominal.usd:.5f}" if result.winner.nominal.usd else "-",
                f"{len(result.trials):,}",
                f"{result.billed.calls:,}",
                f"{result.billed.tokens:,}",
            ]
            for result in results
        ],
        title="winners on the test split; nominal cost of one item; what each study was billed in all",
    )


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
    for comparison in result.ablation:
        print_text(comparison.verdict)
    print_text(result.verdict)
    if result.break_even:
        print_text(result.break_even)
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
