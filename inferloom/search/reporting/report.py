"""A study's result as one self-contained HTML file: charts, tables, verdicts, and how to get there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inferloom.core.errors import InferloomError
from inferloom.core.types import Json, Usage
from inferloom.evaluation.stats import Interval
from inferloom.pipelines.page import date, duration, money, number, page_environment, percent, short, write_page
from inferloom.search.reporting.charts import (
    Point,
    difference_scale,
    front_chart,
    history_chart,
)
from inferloom.search.reporting.items import item_table
from inferloom.search.result import Comparison, Entry, StudyResult, TrialSummary
from inferloom.store import Store

WIDE, NARROW = 860.0, 380.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table: a pipeline with the key under which the chart shows it."""

    key: str
    entry: Entry
    winner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A comparison with its bar: all places are percentages of the bar's width."""

    comparison: Comparison
    low: float
    mean: float
    high: float
    zero: float
    outcome: Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoleLine:
    """A hole with what its values reached."""

    name: str
    share: float | None
    """Its importance; None where there were too few trials."""
    values: list[tuple[str, float, int]]
    """(value, mean score on dev, trials), best first."""


def write_report(
    result: StudyResult, path: str | Path, store: Store | None = None, expected: Mapping[str, str] | None = None
) -> Path:
    """Write the report; an older file of that name is replaced in one step. Arguments as for `render_report`.

    Raises:
        SetupError: The file cannot be written.
    """
    return write_page(render_report(result, store, expected), path)


def render_report(result: StudyResult, store: Store | None = None, expected: Mapping[str, str] | None = None) -> str:
    """The report as HTML text.

    Args:
        result: What the study found.
        store: The database, for the items one by one; without it the report has no table of them.
        expected: The right answers by item, shown beside what the pipelines said.
    """
    from markupsafe import Markup

    environment = page_environment("inferloom.search.reporting")
    environment.filters.update(choices=_choices)
    split: Literal["test", "dev"] = "dev" if result.winner.test is None else "test"
    lines = _lines(result)
    drawn = [(line, score) for line in lines if (score := getattr(line.entry, split)) is not None]
    marks = [_point(line, score) for line, score in drawn]
    graph = _graph(result.winner.pipeline_yaml)
    return environment.get_template("report.html.j2").render(
        result=result,
        split=split,
        lines=lines,
        left_out=len(lines) - len(drawn),
        fronts=[
            ("wide", front_chart(marks, width=WIDE, height=430, split=split, names=True)),
            ("narrow", front_chart(marks, width=NARROW, height=340, split=split, names=False)),
        ]
        if marks
        else [],
        histories=[
            (name, chart)
            for name, width, height in (("wide", WIDE, 320), ("narrow", NARROW, 280))
            if (chart := history_chart(result.trials, width=width, height=height)) is not None
        ],
        differences=_differences(result.comparisons),
        ablation=_differences(result.ablation),
        holes=_holes(result),
        items=None
        if store is None
        else item_table(
            store, result.study, split, [(line.key, line.entry) for line in lines], result.winner, expected or {}
        ),
        outcome=_outcome(result.comparisons),
        headline=_headline(result.winner),
        graph=None if graph is None else Markup(graph),
        trials=sorted(result.trials, key=_rank),
        spent=_spent(result.billed, result.nominal),
        priced=any(line.entry.nominal.usd for line in lines),
        created=date(result.created),
        duration=duration(result.seconds),
    )


def _lines(result: StudyResult) -> list[Line]:
    """The front by numbers, cheapest first, then the baselines by letters; the winner once."""
    front = sorted(result.front, key=lambda entry: entry.nominal.tokens)
    if all(entry.pipeline_hash != result.winner.pipeline_hash for entry in front):
        front = sorted([*front, result.winner], key=lambda entry: entry.nominal.tokens)
    lines: list[Line] = []
    for place, entry in enumerate(front, 1):
        is_winner = entry.pipeline_hash == result.winner.pipeline_hash
        lines.append(Line(key=str(place), entry=result.winner if is_winner else entry, winner=is_winner))
    for place, entry in enumerate(sorted(result.baselines, key=lambda entry: entry.nominal.tokens)):
        lines.append(Line(key=_letters(place), entry=entry, winner=False))
    return lines


def _letters(place: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    text = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _point(line: Line, score: Interval) -> Point:
    entry = line.entry
    baseline = entry.kind == "baseline"
    name = entry.label if len(entry.label) <= 40 else entry.label[:39].rstrip() + "…"
    return Point(
        key=line.key,
        label="winner" if line.winner else name if baseline else "",
        kind="winner" if line.winner else "baseline" if baseline else "front",
        tokens=entry.nominal.tokens,
        score=score,
        title=f"{line.key} · {entry.label}: {percent(score.mean)} "
        f"[{percent(score.low)}, {percent(score.high)}] at {short(entry.nominal.tokens)} tokens",
    )


def _differences(comparisons: Sequence[Comparison]) -> list[Difference]:
    place = difference_scale([comparison.difference for comparison in comparisons])
    return [
        Difference(
            comparison=comparison,
            low=100 * place(comparison.difference.low),
            mean=100 * place(comparison.difference.mean),
            high=100 * place(comparison.difference.high),
            zero=100 * place(0.0),
            outcome=_side(comparison.difference),
        )
        for comparison in comparisons
    ]


def _side(difference: Interval) -> Literal["better", "worse", "open"]:
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "open"


def _outcome(comparisons: Sequence[Comparison]) -> Literal["better", "worse", "open"]:
    """The colour of the verdict: `better` only where every baseline is clearly beaten."""
    sides = {_side(comparison.difference) for comparison in comparisons}
    return "better" if sides == {"better"} else "worse" if "worse" in sides else "open"


def _holes(result: StudyResult) -> list[HoleLine]:
    """The holes, the most important first; those with one value only say nothing."""
    scores: dict[str, dict[str, list[float]]] = {}
    for trial in result.trials:
        if trial.dev is not None and trial.duplicate_of is None:
            for name, value in trial.values.items():
                scores.setdefault(name, {}).setdefault(_value(value), []).append(trial.dev.mean)
    found = [
        HoleLine(
            name=name,
            share=result.importance.get(name),
            values=sorted(
                ((value, sum(means) / len(means), len(means)) for value, means in reached.items()),
                key=lambda row: -row[1],
            ),
        )
        for name, reached in scores.items()
        if len(reached) > 1
    ]
    return sorted(found, key=lambda line: -(line.share or 0.0))


def _value(value: Json) -> str:
    """A hole's value as it is read: three digits of a float."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _headline(winner: Entry) -> tuple[str, Interval] | None:
    """The winner's score on the most telling split that it was run on."""
    for split, score in (("test", winner.test), ("confirm", winner.confirm), ("dev", winner.dev)):
        if score is not None:
            return split, score
    return None


def _graph(yaml: str) -> str | None:
    """The winner's graph as SVG; None for a pipeline that this version cannot read."""
    from inferloom.pipelines import draw
    from inferloom.pipelines.spec import PipelineSpec

    try:
        return draw.svg(PipelineSpec.parse(yaml))
    except InferloomError:
        # A study may be older than the installed version; its report is still worth having, without the picture.
        return None


def _rank(trial: TrialSummary) -> tuple[float, int]:
    return (-trial.dev.mean if trial.dev is not None else 1.0, trial.number)


def _spent(billed: Usage, nominal: Usage) -> list[tuple[str, str, str]]:
    """(what, billed, nominal) for the table of costs."""
    rows = [
        ("model calls", f"{billed.calls:,}", f"{nominal.calls:,}"),
        ("prompt tokens", f"{billed.prompt_tokens:,}", f"{nominal.prompt_tokens:,}"),
        ("of these cached", f"{billed.cached_tokens:,}", f"{nominal.cached_tokens:,}"),
        ("completion tokens", f"{billed.completion_tokens:,}", f"{nominal.completion_tokens:,}"),
        ("model seconds", number(billed.seconds), number(nominal.seconds)),
    ]
    if billed.usd or nominal.usd:
        rows.append(("US dollars", money(billed.usd), money(nominal.usd)))
    return rows


def _choices(values: Mapping[str, object]) -> str:
    """A trial's choices as one line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
