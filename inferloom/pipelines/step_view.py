"""What the steps of a run did, for pages: executions of nodes with their calls and their candidates.

Whatever a model wrote can be long: texts are cut, and past a whole page's worth they are left out, which is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inferloom.core.types import Candidate
from inferloom.pipelines.page import duration, number
from inferloom.store import CallRow, StepRow, Store

TEXT = 20_000
"""Characters of one text."""
PAGE = 3_000_000
"""Characters of all texts of a page."""
ROWS = 400
"""Rows of a table."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or the beginning of one."""

    text: str
    left_out: int = 0
    """Characters that are not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A candidate as a step handed it on. What was shown of it before is not shown again."""

    id: str
    first: bool
    """Whether its text is shown here."""
    answer: str | None
    origin: str
    scores: list[tuple[str, str]]
    tests: tuple[bool, ...]
    text: Text | None
    critiques: list[Text]
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One execution of a node."""

    label: str
    status: str
    took: str
    calls: int
    candidates_in: int
    candidates_out: int
    candidates: list[CandidateView]
    left_out: int
    """Candidates that are not shown."""


@dataclass(slots=True)
class Texts:
    """The room that is left for texts."""

    room: int = field(default_factory=lambda: PAGE)

    def take(self, text: str) -> Text:
        """As much of a text as there is room for."""
        size = min(len(text), TEXT, self.room)
        self.room -= size
        return Text(text[:size], len(text) - size)


def step_views(
    store: Store, run: str, steps: Sequence[StepRow], calls: Sequence[CallRow], texts: Texts
) -> list[StepView]:
    """Every execution of a node of a run with its candidates, in the order in which they started."""
    made = {(step.path, step.ordinal): len(own) for step, own in by_step(steps, calls) if not isinstance(step, str)}
    candidates: dict[tuple[str, int], list[Candidate]] = {}
    for row in store.candidates(run):
        candidates.setdefault((row.path, row.ordinal), []).append(row.candidate)
    known: dict[str, set[str]] = {}
    views, room = [], ROWS
    for step in steps:
        own = candidates.get((step.path, step.ordinal), [])
        shown = own[: max(0, room)]
        room -= len(shown)
        views.append(
            StepView(
                label=step_label(step),
                status=step.status,
                took="not ended" if step.ended is None else duration(step.ended - step.started),
                calls=made[step.path, step.ordinal],
                candidates_in=step.candidates_in,
                candidates_out=step.candidates_out,
                candidates=[_candidate(candidate, known, texts) for candidate in shown],
                left_out=len(own) - len(shown),
            )
        )
    return views


def _candidate(candidate: Candidate, known: dict[str, set[str]], texts: Texts) -> CandidateView:
    """Its text where it is seen first, and those of its critiques that were not seen yet."""
    first = candidate.id not in known
    seen = known.setdefault(candidate.id, set())
    critiques = [critique for critique in candidate.critiques if critique not in seen]
    seen.update(critiques)
    model = candidate.origin.get("model")
    return CandidateView(
        id=candidate.id,
        first=first,
        answer=candidate.answer,
        origin=candidate.origin["node"] + (f", {model}" if model else ""),
        scores=[(name, number(value)) for name, value in candidate.scores.items()],
        tests=candidate.tests,
        text=texts.take(candidate.text) if first else None,
        critiques=[texts.take(critique) for critique in critiques],
        finished=candidate.finished,
    )


def step_label(step: StepRow) -> str:
    """A node's execution in a few words: its path, its node where that says more, and which time it is."""
    name = step.path if step.path == step.node else f"{step.path} {step.node}"
    return f"{name} (run {step.ordinal + 1})" if step.ordinal else name


def by_step(steps: Sequence[StepRow], calls: Sequence[CallRow]) -> list[tuple[StepRow | str, list[CallRow]]]:
    """Every execution with its calls, by its start; a path whose calls no execution holds stands by itself."""
    executions: Mapping[str, list[StepRow]] = {
        path: [step for step in steps if step.path == path] for path in {step.path for step in steps}
    }
    held: dict[tuple[str, int], list[CallRow]] = {(step.path, step.ordinal): [] for step in steps}
    others: dict[str, list[CallRow]] = {}
    for call in calls:
        # An execution begins before its calls; a node that runs again has ended before it does.
        owner = [step for step in executions.get(call.step, ()) if step.started <= call.started]
        if owner and (owner[-1].ended is None or call.started <= owner[-1].ended):
            held[owner[-1].path, owner[-1].ordinal].append(call)
        else:
            others.setdefault(call.step, []).append(call)
    rows: list[tuple[float, StepRow | str, list[CallRow]]] = [
        (step.started, step, held[step.path, step.ordinal]) for step in steps
    ]
    rows += [(own[0].started, path, own) for path, own in others.items()]
    rows.sort(key=lambda row: row[0])
    return [(step, own) for _, step, own in rows]
