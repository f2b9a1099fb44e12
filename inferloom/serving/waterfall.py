"""When a run's steps and calls took place, as bars on one time axis. Places are percentages of the axis' length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from inferloom.pipelines.page import duration
from inferloom.pipelines.step_view import by_step, step_label
from inferloom.store.rows import CallRow, RunRow, StepRow

Fate: TypeAlias = Literal["billed", "bank", "failed", "unknown"]
"""What became of a call: paid for, served by the bank (or charged to attempts before it), failed, or cut off."""

_MOST_BARS = 2_000
_LANES = 24
"""Bars that may lie below one another; where more calls overlap, the last lane holds several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A call, or a step."""

    left: float
    width: float
    lane: int
    fate: Fate | Literal["step"]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An execution of a node with its calls; a node that never ended has its calls only."""

    label: str
    note: str
    step: Bar | None
    calls: tuple[Bar, ...]
    lanes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """The whole picture."""

    bands: tuple[Band, ...]
    ticks: tuple[tuple[float, str], ...]
    left_out: int
    """Calls that are not drawn."""


def fate_of(call: CallRow) -> Fate:
    """What became of a call."""
    if call.outcome == "ok":
        return "billed" if call.attempt else "bank"
    return "unknown" if call.outcome == "unknown" else "failed"


def waterfall(run: RunRow, steps: Sequence[StepRow], calls: Sequence[CallRow]) -> Waterfall:
    """Steps in the order in which they started, each over its calls."""
    ends = [run.ended, *(step.ended for step in steps), *(call.ended for call in calls)]
    start = min([run.started, *(call.started for call in calls)])
    length = max(max((end for end in ends if end is not None), default=start) - start, 1e-3)

    def bar(began: float, ended: float, lane: int, fate: Fate | Literal["step"], title: str) -> Bar:
        left = 100 * (began - start) / length
        return Bar(left=left, width=100 * (ended - began) / length, lane=lane, fate=fate, title=title)

    bands: list[Band] = []
    for step, own in by_step(steps, calls[:_MOST_BARS]):
        lanes = _lanes(own)
        bars = tuple(
            bar(call.started, call.ended, lane, fate_of(call), f"{call.model}: {_said(call)}")
            for call, lane in zip(own, lanes, strict=True)
        )
        if isinstance(step, str):
            label, note, whole = step, "not ended", None
        else:
            ended = step.started if step.ended is None else step.ended
            label, note = step_label(step), duration(ended - step.started)
            whole = bar(step.started, ended, 0, "step", f"{label}: {note}")
        bands.append(Band(label=label, note=note, step=whole, calls=bars, lanes=max(lanes, default=-1) + 1))
    ticks = tuple((100 * tick / length, duration(tick) if tick else "0") for tick in _ticks(length))
    return Waterfall(bands=tuple(bands), ticks=ticks, left_out=max(0, len(calls) - _MOST_BARS))


def _said(call: CallRow) -> str:
    fate = fate_of(call)
    if fate == "billed":
        return f"{duration(call.ended - call.started)}, {call.billed.completion_tokens:,} tokens written"
    return {"bank": "from the bank", "failed": "failed", "unknown": "outcome unknown"}[fate]


def _lanes(calls: Sequence[CallRow]) -> list[int]:
    """The lane of each call, in order of their starts: the first one that is free by then."""
    free: list[float] = []
    lanes: list[int] = []
    for call in calls:
        lane = next((lane for lane, until in enumerate(free) if until <= call.started), len(free))
        if lane >= _LANES:
            lane = _LANES - 1
        if lane == len(free):
            free.append(call.ended)
        free[lane] = max(free[lane], call.ended)
        lanes.append(lane)
    return lanes


def _ticks(length: float) -> list[float]:
    """Round times, four or five of them."""
    raw = length / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    return [place * step for place in range(int(length / step * 0.999) + 1)]
