"""What a search shows while it goes on: trials, the best so far, what was billed, and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from inferloom.core.types import Usage

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from inferloom.search.job import SearchJob

EventKind: TypeAlias = Literal["started", "trial_started", "trial_finished", "item", "stage", "stopped", "finished"]
_FRONT_GUESS = 5
_FRONT_LINES = 8
_BAR = 16
_TITLES = {
    "search": "searching",
    "confirm": "comparing the best afresh",
    "baselines": "measuring the baselines",
    "test": "measuring on the test split",
    "done": "done",
    "stopped": "stopped by its limit; `study resume` goes on",
    "failed": "failed; `study resume` goes on",
}


@dataclass(frozen=True, slots=True)
class Stood:
    """What a trial reached on dev."""

    label: str
    quality: float
    cost: float

    def line(self, measure: str) -> str:
        """The same for people; `measure` says what the cost counts."""
        figure = f"${self.cost:.5f}" if measure == "usd" else f"{self.cost:,.4g} {measure}"
        if measure == "tokens":
            figure = f"{self.cost:,.0f} tokens"
        return f"{self.label}: {self.quality:.1%} at {figure}"


@dataclass(slots=True, kw_only=True)
class State:
    """Where a search stands."""

    study: str
    trials: int
    """Trials that the search will have."""
    items: int = 0
    """Items to answer in all, as far as it is known; grows when the later stages turn out larger."""
    stage: str = "search"
    trials_done: int = 0
    items_done: int = 0
    items_resumed: int = 0
    """Those of `items_done` that earlier calls of the search had done."""
    billed: Usage = field(default_factory=Usage)
    """What this call of the search has spent."""
    best: str = ""
    """The best trial so far on dev, with its quality and tokens, as a line."""
    front: Sequence[Stood] = ()
    """The trials on dev that no other one beats in quality and cost, cheapest first."""
    measure: str = "tokens"
    """What the costs of the front count."""
    note: str = ""
    """What else is worth a line."""
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float | None:
        """Items a second, of those done in this call; None while none is done."""
        fresh = self.items_done - self.items_resumed
        return fresh / self.elapsed if fresh > 0 and self.elapsed > 0 else None

    @property
    def elapsed(self) -> float:
        """Seconds since this call of the search began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds that are left if the other items take as long as those done in this call; None while none is done."""
        return None if self.rate is None else max(0, self.items - self.items_done) / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    kind: EventKind
    trial: int | None = None
    text: str = ""
    """The event as a line; empty for items."""


class Progress(Protocol):
    """Whoever watches a search."""

    def on_event(self, event: Event, state: State) -> None:
        """Called on the event loop after each event; must return at once."""
        ...


class Silent:
    """Shows nothing."""

    def on_event(self, event: Event, state: State) -> None:
        """Nothing."""


class Lines:
    """A line per trial and stage, for logs, pipes and `--json`; give it a console on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_event(self, event: Event, state: State) -> None:
        """Print the event's line, with the time that is left."""
        if event.kind not in ("item", "trial_started") and event.text:
            left = f" ({_duration(state.left)} left)" if state.left and event.kind == "trial_finished" else ""
            self._console.print(f"{event.text}{left}", markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A table that is drawn again in place as the search goes on, for terminals."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = 0.0

    def on_event(self, event: Event, state: State) -> None:
        """Draw the view again; items at most five times a second."""
        now = time.monotonic()
        if event.kind != "item" or now - self._drawn > 0.2:
            self._drawn = now
            self._live.update(render(state), refresh=event.kind != "item")


@contextmanager
def watching(console: Console, *, live: bool | None = None) -> Iterator[Progress]:
    """The view that fits a console: a live table on a terminal, lines elsewhere.

    Args:
        console: Where it is shown; on standard error where standard output is for results.
        live: Decide it instead of asking the console.
    """
    if not (console.is_terminal if live is None else live):
        yield Lines(console)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=True, refresh_per_second=5, transient=True) as view:
        yield LiveView(view)


def render(state: State) -> RenderableType:
    """The state as a small table with a bar."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row(state.study, _TITLES.get(state.stage, state.stage))
    grid.add_row("", ProgressBar(total=max(1, state.items), completed=min(state.items, state.items_done), width=48))
    grid.add_row("trials", f"{state.trials_done} of {state.trials}")
    grid.add_row("best so far", state.best or "none yet")
    for place, stood in enumerate(_shown(state.front)):
        grid.add_row("front" if place == 0 else "", _front_line(stood, state.measure))
    tokens = f"{state.billed.tokens:,} tokens"
    usd = f", ${state.billed.usd:.4f}" if state.billed.usd else ""
    grid.add_row("billed", f"{state.billed.calls:,} calls, {tokens}{usd}")
    rate = "" if state.rate is None else f", {state.rate:.1f} items a second"
    grid.add_row("time", f"{_duration(state.elapsed)} gone, {_duration(state.left)} left{rate}")
    if state.note:
        grid.add_row("", state.note)
    return grid


def _shown(front: Sequence[Stood]) -> list[Stood]:
    """At most so many of the front as a screen has room for; the best are among them."""
    return list(front)[-_FRONT_LINES:]


def _front_line(stood: Stood, measure: str) -> str:
    """A bar for the quality, and what the trial reached."""
    filled = round(stood.quality * _BAR)
    return f"{'━' * filled}{'·' * (_BAR - filled)}  {stood.line(measure)}"


def expected_items(job: SearchJob, sizes: Mapping[str, int]) -> int:
    """How many items a search will answer in all, as far as it can be known before.

    Args:
        job: The search.
        sizes: Items by split.
    """
    spec, models = job.spec, job.space.document.data
    named = models.get("models") if isinstance(models, dict) else None
    singles = len(named) if isinstance(named, dict) else 1
    extra = 0 if spec.baselines == "none" else singles * sizes["dev"] + (singles + 3) * sizes["test"]
    return spec.trials * sizes["dev"] + spec.finalists * sizes["confirm"] + _FRONT_GUESS * sizes["test"] + extra


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
