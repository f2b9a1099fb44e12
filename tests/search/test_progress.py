"""Whoever waits sees trials, the best so far, what was billed and the time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from inferloom.core.types import Usage
from inferloom.search.progress import Event, LiveView, State, watching


def state() -> State:
    return State(
        study="demo",
        trials=24,
        items=400,
        trials_done=7,
        items_done=120,
        items_resumed=20,
        billed=Usage(calls=1234, prompt_tokens=10, completion_tokens=20),
        best="trial 3, 71.0% at 402 tokens",
        began=time.monotonic() - 50,
    )


def test_time_left_counts_only_what_this_call_has_done() -> None:
    assert state().left == pytest.approx(50 * 280 / 100, rel=0.05)
    assert State(study="demo", trials=3, items=9, items_done=4, items_resumed=4).left is None


@pytest.mark.parametrize("live", [True, False])
def test_both_views_say_where_the_search_stands(live: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=live)
    with watching(console) as progress:
        assert isinstance(progress, LiveView) is live
        progress.on_event(Event(kind="item"), state())
        progress.on_event(Event(kind="trial_finished", trial=6, text="trial 6: 71.0%"), state())
    shown = text.getvalue()
    wanted = ["7 of 24", "trial 3, 71.0%", "1,234 calls", "left"] if live else ["trial 6: 71.0% (2 min", "left)"]
    assert all(words in shown for words in wanted), shown
