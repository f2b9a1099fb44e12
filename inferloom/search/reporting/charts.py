"""The geometry of the report's charts: what stands where. The templates only draw it.

Lengths are in the units of the chart's own view box, which a browser scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from inferloom.evaluation.stats import Interval
from inferloom.pipelines.page import percent, short
from inferloom.search.result import TrialSummary

MarkKind = Literal["winner", "front", "baseline"]
Anchor = Literal["start", "middle", "end"]

_GLYPH = 6.7
"""Width of a character of a label; a little more than the mean of a 12-pixel system font."""
_LINE = 14.0
_RADIUS = 7.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid with its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One pipeline to be drawn."""

    key: str
    label: str
    """What stands beside the mark; the key alone where empty."""
    kind: MarkKind
    tokens: float
    score: Interval
    title: str
    """What the browser shows on hovering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point in its place, with its label in a place of its own."""

    point: Point
    x: float
    y: float
    top: float
    bottom: float
    label: str
    label_x: float
    label_y: float
    anchor: Anchor
    leader: bool
    """Whether a thin line must lead from the mark to its label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart's frame: the plot lies between (left, top) and (right, bottom) of a box of width by height."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontChart(Chart):
    """Score against tokens."""

    marks: tuple[Mark, ...]
    line: str
    """The front as an SVG path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A trial in its place."""

    x: float
    y: float
    kind: Literal["done", "duplicate", "best"]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryChart(Chart):
    """Trials in their order."""

    dots: tuple[Dot, ...]
    line: str
    """The best score so far as an SVG path."""


def front_chart(points: Sequence[Point], *, width: float, height: float, split: str, names: bool) -> FrontChart:
    """Score with its interval against nominal tokens on a logarithmic axis.

    Args:
        points: What is drawn; those of the front are joined in order of tokens.
        width: Of the whole chart.
        height: Of the whole chart.
        split: The split that the scores are from.
        names: Whether marks carry their labels, or their keys only (narrow charts).
    """
    left, right, top, bottom = 46.0, width - 14, 30.0, height - 44
    tokens = [max(point.tokens, 1.0) for point in points]
    low, high = min(tokens) / 1.35, max(tokens) * 1.35
    span = math.log(high / low)

    def place_x(value: float) -> float:
        return left + (right - left) * math.log(max(value, 1.0) / low) / span

    floor, ceiling, y_ticks = score_axis([point.score.low for point in points], [point.score.high for point in points])

    def place_y(value: float) -> float:
        return bottom - (bottom - top) * (value - floor) / (ceiling - floor)

    placed = [
        (point, place_x(point.tokens), place_y(point.score.mean), place_y(point.score.high), place_y(point.score.low))
        for point in points
    ]
    return FrontChart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(place_x(value), short(value)) for value in log_ticks(low, high, right - left)),
        y_ticks=tuple(Tick(place_y(value), f"{100 * value:.0f}%") for value in y_ticks),
        x_title="nominal tokens per question (logarithmic)",
        y_title=f"score on {split}",
        marks=_labelled(placed, (left, top, right, bottom), names),
        line=svg_path(_front_line(placed)),
    )


def history_chart(trials: Sequence[TrialSummary], *, width: float, height: float) -> HistoryChart | None:
    """The trials' scores on dev against the calls of all trials so far; None where no trial was scored."""
    scored = [(trial, trial.dev) for trial in sorted(trials, key=lambda trial: trial.number) if trial.dev is not None]
    if not scored:
        return None
    left, right, top, bottom = 46.0, width - 14, 30.0, height - 44
    calls: list[float] = []
    spent = 0.0
    for trial, dev in scored:
        if trial.status != "duplicate" and trial.nominal is not None:
            spent += trial.nominal.calls * dev.n
        calls.append(spent)
    most = max(calls) or 1.0
    means = [dev.mean for _, dev in scored]
    floor, ceiling, y_ticks = score_axis(means, means)

    def place_x(value: float) -> float:
        return left + (right - left) * value / (most * 1.04)

    def place_y(value: float) -> float:
        return bottom - (bottom - top) * (value - floor) / (ceiling - floor)

    best, dots, line = -math.inf, list[Dot](), list[tuple[float, float]]()
    for (trial, dev), at in zip(scored, calls, strict=True):
        x, y = place_x(at), place_y(dev.mean)
        better = dev.mean > best
        if line:
            line.append((x, line[-1][1]))
        if better:
            best = dev.mean
            line.append((x, y))
        kind: Literal["done", "duplicate", "best"] = (
            "duplicate" if trial.status == "duplicate" else "best" if better else "done"
        )
        dots.append(Dot(x=x, y=y, kind=kind, title=f"trial {trial.number}: {percent(dev.mean)} ({trial.status})"))
    return HistoryChart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(place_x(value), short(value)) for value in _even_ticks(0, most, (right - left) / 90)),
        y_ticks=tuple(Tick(place_y(value), f"{100 * value:.0f}%") for value in y_ticks),
        x_title="model calls of all trials so far (nominal)",
        y_title="score on dev",
        dots=tuple(dots),
        line=svg_path(line),
    )


def score_axis(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float, list[float]]:
    """The bounds of a score axis, a little wider than what it shows, and its ticks."""
    low, high = min(lows), max(highs)
    room = max(0.06 * (high - low), 0.01)
    floor, ceiling = max(0.0, low - room), max(min(1.0 + 0.3 * room, high + room), low + room)
    return floor, ceiling, [tick for tick in _even_ticks(floor, ceiling, 8) if floor <= tick <= ceiling]


def _even_ticks(low: float, high: float, about: float) -> list[float]:
    """Round values at even distances, `about` so many of them."""
    raw = (high - low) / max(about, 2)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, length: float) -> list[float]:
    """1, 2 and 5 times powers of ten, thinned to what `length` has room for."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) * 52 <= length:
            return ticks
    return ticks


def svg_path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points."""
    return " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


# --- labels ---------------------------------------------------------------------------------------------------------

_Box = tuple[float, float, float, float]
_Placed = tuple[Point, float, float, float, float]


def _labelled(placed: Sequence[_Placed], frame: _Box, names: bool) -> tuple[Mark, ...]:
    """Give every mark a label that covers neither a mark nor another label, as near to its mark as there is room."""
    taken: list[tuple[_Box, float]] = []
    for _, x, y, top, bottom in placed:
        taken.append(((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), 8.0))
        taken.append(((x - 3, top, x + 3, bottom), 0.5))
    line = _front_line(placed)
    for (x0, y0), (x1, y1) in pairwise(line):
        steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6))
        for step in range(steps):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            taken.append(((x - 2, y - 2, x + 2, y + 2), 0.25))
    order = {"winner": 0, "baseline": 1, "front": 2}
    marks: dict[int, Mark] = {}
    for index in sorted(range(len(placed)), key=lambda index: order[placed[index][0].kind]):
        point, x, y, top, bottom = placed[index]
        text = f"{point.key} {point.label}" if names and point.label else point.key
        label_x, label_y, anchor, distance = _free_place(
            x, y, len(text) * _GLYPH, taken, frame, nearest=14.0 if point.kind == "winner" else 11.0
        )
        taken.append((_text_box(label_x, label_y, len(text) * _GLYPH, anchor), 12.0))
        marks[index] = Mark(
            point=point,
            x=x,
            y=y,
            top=top,
            bottom=bottom,
            label=text,
            label_x=label_x,
            label_y=label_y,
            anchor=anchor,
            leader=distance > 15,
        )
    return tuple(marks[index] for index in range(len(placed)))


def _front_line(placed: Sequence[_Placed]) -> list[tuple[float, float]]:
    """The corners of the line that joins the front, from cheap to dear."""
    return sorted((x, y) for point, x, y, _, _ in placed if point.kind != "baseline")


def _free_place(
    x: float, y: float, width: float, taken: Sequence[tuple[_Box, float]], frame: _Box, *, nearest: float
) -> tuple[float, float, Anchor, float]:
    """The place (x, y of the text's middle line, anchor, distance) that covers least, the nearer the better."""
    best: tuple[float, tuple[float, float, Anchor, float]] | None = None
    for distance in (nearest, 22.0, 36.0, 52.0, 70.0, 90.0):
        for degrees in (0, 180, -40, 40, -140, 140, -90, 90, -65, 65, -115, 115):
            angle = math.radians(degrees)
            at_x, at_y = x + distance * math.cos(angle), y + distance * math.sin(angle)
            anchor: Anchor = "middle" if abs(degrees) == 90 else "start" if abs(degrees) < 90 else "end"
            box = _text_box(at_x, at_y, width, anchor)
            outside = _outside(box, frame)
            cost = 100 * outside + sum(weight * _overlap(box, other) for other, weight in taken) + 1.6 * distance
            if best is None or cost < best[0]:
                best = (cost, (at_x, at_y, anchor, distance))
    assert best is not None
    return best[1]


def _text_box(x: float, y: float, width: float, anchor: Anchor) -> _Box:
    start = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return start - 2, y - _LINE / 2, start + width + 2, y + _LINE / 2


def _overlap(one: _Box, other: _Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _outside(box: _Box, frame: _Box) -> float:
    return (
        max(0.0, frame[0] - box[0])
        + max(0.0, frame[1] - box[1])
        + max(0.0, box[2] - frame[2])
        + max(0.0, box[3] - frame[3])
    )


def difference_scale(differences: Sequence[Interval]) -> Callable[[float], float]:
    """Where a difference stands, as a share of the width, on a scale that shows all of them and zero."""
    low = min([0.0, *(difference.low for difference in differences)])
    high = max([0.0, *(difference.high for difference in differences)])
    room = max(0.05 * (high - low), 0.005)

    def place(value: float) -> float:
        return (value - low + room) / (high - low + 2 * room)

    return place
