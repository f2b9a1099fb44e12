"""What a run's page says, gathered from the database: every step with its candidates, every call with its texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inferloom.core.errors import UnknownNameError
from inferloom.core.memory import Entry
from inferloom.pipelines.step_view import ROWS, StepView, Text, Texts, step_views
from inferloom.serving.waterfall import Fate, Waterfall, fate_of, waterfall
from inferloom.store import Address, CallRow, RunRow, StepRow, Store, UsageReport


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
    texts = Texts()
    return RunView(
        run=run,
        yaml=_yaml(store, run.pipeline),
        question=texts.take(run.question),
        usage=usage,
        costs=[*store.usage_by_model(run.id).items(), ("all", usage)],
        steps=step_views(store, run.id, steps, calls, texts),
        calls=_calls(store, run, calls, texts),
        calls_left_out=max(0, len(calls) - ROWS),
        timing=waterfall(run, steps, calls),
        memories=_memories(store, run.id),
        ran=_ran(steps, calls),
        seconds=(last if run.ended is None else run.ended) - run.started,
        last=last,
    )


def _yaml(store: Store, pipeline: str) -> str | None:
    try:
        return store.pipeline(pipeline)
    except UnknownNameError:
        return None


def _calls(store: Store, run: RunRow, calls: Sequence[CallRow], texts: Texts) -> list[CallView]:
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


def _prompt(body: str | None, texts: Texts) -> tuple[str, list[tuple[str, Text]]]:
    if body is None:
        return "", []
    data = json.loads(body)
    turns = [(role, texts.take(content)) for role, content in data.pop("messages", [])]
    if "prefix" in data:
        turns.append(("text to continue", texts.take(data.pop("prefix"))))
    return ", ".join(f"{name} {value}" for name, value in data.items()), turns


def _replies(store: Store, stream: str, call: CallRow, count: int, texts: Texts) -> list[Text]:
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
