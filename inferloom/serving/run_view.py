"""What a run's page says, gathered from the database: every step with its candidates, every call with its texts.

Whatever a model wrote can be long: texts are cut, and past a whole page's worth they are left out, which is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inferloom.core.errors import UnknownNameError
from inferloom.core.memory import Entry
from inferloom.core.types import Candidate
from inferloom.pipelines.page import duration, number
from inferloom.serving.waterfall import Fate, Waterfall, by_step, fate_of, step_label, waterfall
from inferloom.store import Address, CallRow, RunRow, StepRow, Store, UsageReport

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """A line of the ledger with what was asked and what came back."""

    number: int
    call: CallRow
    fate: Fate
    settings: str
    """How was sampled; empty where the prompt was shown before."""
    turns: list[tuple[str, Text]]
    """The prompt as (role, text)."""
    same_as: int | None
    """The call before this one that asked the same."""
    replies: list[Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryView:
    """A version of a memory that the run made."""

    name: str
    version: int
    action: str
    entries: int
    written: list[Entry]
    removed: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """All that the page says."""

    run: RunRow
    yaml: str | None
    question: Text
    usage: UsageReport
    costs: list[tuple[str, UsageReport]]
    """By model, and at the end of all together."""
    steps: list[StepView]
    calls: list[CallView]
    calls_left_out: int
    timing: Waterfall
    memories: list[MemoryView]
    ran: dict[str, str]
    """What to say of each node that was reached, by path."""
    seconds: float
    """From the start to the end, or to the last thing that is known."""
    last: float
    """When the last thing that is known happened."""


def view(store: Store, run_id: str) -> RunView:
    """A run as its page shows it.

    Raises:
        UnknownNameError: There is no such run.
        UserError: The beginning of an id stands for several runs.
    """
    run = store.run(run_id)
    steps, calls = store.steps(run.id), store.calls(run.id)
    last = max([run.started, *(call.ended for call in calls), *(step.ended or step.started for step in steps)])
    usage = store.usage(run.id)
    texts = _Texts()
    return RunView(
        run=run,
        yaml=_yaml(store, run.pipeline),
        question=texts.take(run.question),
        usage=usage,
        costs=[*store.usage_by_model(run.id).items(), ("all", usage)],
        steps=_steps(store, run.id, steps, calls, texts),
        calls=_calls(store, run, calls, texts),
        calls_left_out=max(0, len(calls) - ROWS),
        timing=waterfall(run, steps, calls),
        memories=_memories(store, run.id),
        ran=_ran(steps, calls),
        seconds=(last if run.ended is None else run.ended) - run.started,
        last=last,
    )


@dataclass(slots=True)
class _Texts:
    """The room that is left for texts."""

    room: int = PAGE

    def take(self, text: str) -> Text:
        """As much of a text as there is room for."""
        size = min(len(text), TEXT, self.room)
        self.room -= size
        return Text(text[:size], len(text) - size)


def _yaml(store: Store, pipeline: str) -> str | None:
    try:
        return store.pipeline(pipeline)
    except UnknownNameError:
        return None


def _steps(store: Store, run: str, steps: Sequence[StepRow], calls: Sequence[CallRow], texts: _Texts) -> list[StepView]:
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


def _candidate(candidate: Candidate, known: dict[str, set[str]], texts: _Texts) -> CandidateView:
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


def _calls(store: Store, run: RunRow, calls: Sequence[CallRow], texts: _Texts) -> list[CallView]:
    prompts = store.prompts_of(run.id)
    brought = {call.ordinal for call in calls if call.attempt and call.completions}
    seen: dict[str, int] = {}
    views = []
    for place, call in enumerate(calls[:ROWS], 1):
        same = seen.get(call.request)
        settings, turns = ("", []) if same else _prompt(prompts.get(call.request), texts)
        seen.setdefault(call.request, place)
        # A closing row repeats what the attempts before it brought, unless all of it came from the bank.
        count = call.completions if call.attempt else 0 if call.ordinal in brought else call.nominal.calls
        views.append(
            CallView(
                number=place,
                call=call,
                fate=fate_of(call),
                settings=settings,
                turns=turns,
                same_as=same,
                replies=_replies(store, run.stream, call, count, texts),
            )
        )
    return views


def _prompt(body: str | None, texts: _Texts) -> tuple[str, list[tuple[str, Text]]]:
    if body is None:
        return "", []
    data = json.loads(body)
    turns = [(role, texts.take(content)) for role, content in data.pop("messages", [])]
    if "prefix" in data:
        turns.append(("text to continue", texts.take(data.pop("prefix"))))
    return ", ".join(f"{name} {value}" for name, value in data.items()), turns


def _replies(store: Store, stream: str, call: CallRow, count: int, texts: _Texts) -> list[Text]:
    """What came back, as far as the bank still has it."""
    address = Address(stream=stream, fingerprint=call.fingerprint, request=call.request)
    first = int(call.id.rsplit(":", 2)[1])
    replies = []
    for index in range(first, first + count):
        if not texts.room:
            break
        try:
            replies.append(texts.take(store.completion(address.completion_id(index)).text))
        except UnknownNameError:
            continue
    return replies


def _memories(store: Store, run: str) -> list[MemoryView]:
    views = []
    for memory, row in store.memories.written_by(run):
        delta = store.memories.delta(memory.id, row.version - 1, row.version)
        views.append(
            MemoryView(
                name=memory.name if memory.namespace == "default" else f"{memory.namespace}/{memory.name}",
                version=row.version,
                action=row.action,
                entries=row.entries,
                written=delta.written[:ROWS],
                removed=delta.removed[:ROWS],
            )
        )
    return views


def _ran(steps: Sequence[StepRow], calls: Sequence[CallRow]) -> dict[str, str]:
    """What to say of each node in its box: how often it ran, what it handed on; or that it did not end."""
    made = Counter(call.step for call in calls)
    notes = dict.fromkeys(made, "not ended")
    for step in steps:
        again = f"run {step.ordinal + 1}: " if step.ordinal else ""
        called = f", {made[step.path]} calls" if made[step.path] > 1 else ", 1 call" if made[step.path] else ""
        stopped = "" if step.status == "done" else f", {step.status}"
        notes[step.path] = f"{again}{step.candidates_out} out{called}{stopped}"
    return notes
