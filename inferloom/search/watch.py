"""Following a study that another process runs, from the database alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inferloom.core.errors import InferloomError
from inferloom.evaluation.data import load_items
from inferloom.evaluation.splits import split_items
from inferloom.search.aim import pareto
from inferloom.search.job import SearchJob
from inferloom.search.progress import Event, Progress, State, Stood, expected_items
from inferloom.search.record import StudyRecord
from inferloom.store import SplitScore, Store

SILENCE = 60.0
"""Seconds without anything new after which it is said that the search may have ended without a word."""


def watch(
    store: Store, name: str, progress: Progress, *, every: float = 2.0, sleep: Callable[[float], None] = time.sleep
) -> StudyRecord:
    """Tell how a study goes on until it ends.

    Args:
        store: The database.
        name: The study's name.
        progress: Who is told.
        every: Seconds between two looks.
        sleep: Waits between them.

    Returns:
        The study as it ended.

    Raises:
        UnknownNameError: There is no such study (any more).
        DatabaseError: The database cannot be read.
    """
    record = StudyRecord.find(store, name)
    watcher = _Watcher(store, name, progress, _job(record))
    while True:
        watcher.look(record)
        if record.row.status != "running":
            return record
        sleep(every)
        record = StudyRecord.find(store, name)


def _job(record: StudyRecord) -> tuple[SearchJob, dict[str, int]] | None:
    """The job with the sizes of its splits; None where its data or its space cannot be read here."""
    try:
        job = record.job
        data = load_items(job.spec.data, base=job.base)
        return job, split_items(data.items, job.spec.split, name=data.name).sizes()
    except InferloomError:
        return None


@dataclass(slots=True)
class _Watcher:
    """What was seen so far."""

    store: Store
    name: str
    progress: Progress
    job: tuple[SearchJob, dict[str, int]] | None
    state: State | None = None
    told: set[int] = field(default_factory=set)
    changed: float = 0.0
    """When something was new for the last time."""

    def look(self, record: StudyRecord) -> None:
        """See what is new and tell it."""
        scores = self.store.split_scores(self.name)
        done = sum(score.items for score in scores)
        now = time.monotonic()
        if self.state is None:
            self.state = State(study=self.name, trials=record.trials, items_resumed=done)
            self.changed = now
        state = self.state
        if done != state.items_done:
            self.changed = now
        measure = "tokens" if self.job is None else self.job[0].aim.measure
        on_dev = [score for score in scores if score.split == "dev" and score.trial >= 0]
        whole = max((score.items for score in on_dev), default=0) if self.job is None else self.job[1]["dev"]
        finished = self._finished(record, on_dev, whole)
        complete = [score for score in on_dev if score.items == whole]
        front = pareto([(score, score.mean, (float(getattr(score, measure)),)) for score in complete])
        state.items_done, state.trials, state.trials_done = done, record.trials, len(finished)
        state.stage = _stage(record, scores)
        state.billed = self.store.study_usage(self.name).billed
        state.front = [Stood(f"trial {score.trial}", score.mean, float(getattr(score, measure))) for score in front]
        state.measure = measure
        state.best = state.front[-1].line(measure) if front else ""
        if self.job is not None:
            lacking = sum(whole - score.items for score in on_dev if score.trial in finished)
            state.items = max(done, expected_items(*self.job) - lacking)
        silent = now - self.changed
        state.note = f"nothing new for {silent:.0f} s" if silent >= SILENCE else ""
        for score in on_dev:
            if score.trial in finished and score.trial not in self.told:
                beaten = "" if score.items == whole else f", beaten after {score.items} items"
                said = Stood(f"trial {score.trial}", score.mean, float(getattr(score, measure))).line(measure)
                self.progress.on_event(Event(kind="trial_finished", trial=score.trial, text=said + beaten), state)
        self.told |= finished
        self.progress.on_event(Event(kind="item"), state)

    @staticmethod
    def _finished(record: StudyRecord, on_dev: Sequence[SplitScore], whole: int) -> set[int]:
        """Trials that will answer no more items: those that have answered all, and those of batches that are over."""
        batches = record.asked
        over = len(batches) if record.row.status != "running" else len(batches) - 1
        numbers = set(range(sum(len(batch) for batch in batches[:over])))
        return numbers | {score.trial for score in on_dev if score.items == whole}


def _stage(record: StudyRecord, scores: Sequence[SplitScore]) -> str:
    """Where a running study is, by the latest kind of score that it has."""
    if record.row.status != "running":
        return record.row.status
    if any(score.split == "test" for score in scores):
        return "test"
    if any(score.trial < 0 for score in scores):
        return "baselines"
    return "confirm" if any(score.split == "confirm" for score in scores) else "search"
