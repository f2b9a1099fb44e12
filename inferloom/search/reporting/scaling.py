"""Coverage against samples as one self-contained HTML file: a chart and a histogram for each setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inferloom.evaluation.scaling import Scaling
from inferloom.pipelines.page import page_environment, percent, short, write_page
from inferloom.search.reporting.charts import Chart, Tick, log_ticks, score_axis, svg_path

WIDTH, HEIGHT = 860.0, 380.0
BEYOND = 10
"""How many times more samples than were drawn the fits are drawn for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Coverage at one k, in its place."""

    x: float
    y: float
    top: float
    bottom: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageChart(Chart):
    """Coverage against k."""

    points: tuple[Measured, ...]
    law: str
    """The power law as an SVG path; empty where there is none."""
    beta: str
    """What the fitted distribution of pass@1 predicts, as an SVG path."""
    drawn: float
    """Where the samples that were drawn end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of a histogram, in percent of the highest."""

    label: str
    items: int
    height: float


def write_scaling(scalings: Sequence[Scaling], path: str | Path) -> Path:
    """Write the page; an older file of that name is replaced in one step.

    Raises:
        SetupError: The file cannot be written.
    """
    template = page_environment("inferloom.search.reporting").get_template("scaling.html.j2")
    shown = [(scaling, coverage_chart(scaling), histogram(scaling)) for scaling in scalings]
    return write_page(template.render(shown=shown, beyond=BEYOND), path)


def coverage_chart(scaling: Scaling) -> CoverageChart:
    """Coverage with its intervals on a logarithmic axis of k, and both fits, which go on beyond what was drawn."""
    left, right, top, bottom = 46.0, WIDTH - 14, 30.0, HEIGHT - 44
    most = scaling.samples * BEYOND
    low, high = 1 / 1.15, most * 1.15
    fits: list[Callable[[float], float]] = [scaling.beta] if scaling.law is None else [scaling.beta, scaling.law]
    shares = [interval.low for _, interval in scaling.curve] + [interval.high for _, interval in scaling.curve]
    shares += [fit(k) for fit in fits for k in (1, most)]
    floor, ceiling, y_ticks = score_axis(shares, shares)

    def place_x(k: float) -> float:
        return left + (right - left) * math.log(k / low) / math.log(high / low)

    def place_y(share: float) -> float:
        return bottom - (bottom - top) * (share - floor) / (ceiling - floor)

    def line(fit: Callable[[float], float] | None) -> str:
        steps = [most ** (step / 80) for step in range(81)]
        return "" if fit is None else svg_path([(place_x(k), place_y(fit(k))) for k in steps])

    return CoverageChart(
        width=WIDTH,
        height=HEIGHT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(place_x(value), short(value)) for value in log_ticks(low, high, right - left)),
        y_ticks=tuple(Tick(place_y(value), f"{100 * value:.0f}%") for value in y_ticks),
        x_title="samples k (logarithmic)",
        y_title="items with a right one among k samples (pass@k)",
        points=tuple(
            Measured(
                x=place_x(k),
                y=place_y(share.mean),
                top=place_y(share.high),
                bottom=place_y(share.low),
                title=f"pass@{k}: {percent(share.mean)} [{percent(share.low)}, {percent(share.high)}]",
            )
            for k, share in scaling.curve
        ),
        law=line(scaling.law),
        beta=line(scaling.beta),
        drawn=place_x(scaling.samples),
    )


def histogram(scaling: Scaling) -> list[Bar]:
    """Items by their pass@1: never right, then a bar for each tenth."""
    first = scaling.bins[0] - scaling.never
    figures = [("never", scaling.never), ("< 10%", first)]
    figures += [(f"{10 * place}%", items) for place, items in enumerate(scaling.bins) if place]
    most = max(items for _, items in figures)
    return [Bar(label=label, items=items, height=100 * items / most) for label, items in figures]
