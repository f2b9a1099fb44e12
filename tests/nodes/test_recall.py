"""Recall: what is shown, in which order and as what; the empty control; advice that did not come to its end."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from inferloom.core.memory import Entry, Recalled
from inferloom.core.types import Completion, Json, Message, NodeOutput, NodeState, Request
from inferloom.nodes.common import converse
from inferloom.nodes.recall import Recall, RecallParams
from inferloom.nodes.testing import FakeContext, FakeMemory, run

STATE = NodeState(question="aaaa?", messages=(Message("user", "aaaa?"),), notes=("own",), examples=(("q", "A: 0"),))


def example(id: str, key: str, **more: int) -> Entry:
    return Entry(id=id, kind="example", key=key, text=f"A: {id}", **more)


def context_with(*entries: Entry, reply: str | Completion = "") -> FakeContext:
    return FakeContext(reply=lambda *asked: reply, memories={"m": FakeMemory("m", list(entries))})


def recall(context: FakeContext, **params: Json) -> NodeOutput:
    return run(Recall(RecallParams.model_validate({"memory": "m", **params})), STATE, context)


def test_examples_are_turns_the_nearest_last_and_what_was_read_is_recorded() -> None:
    context = context_with(example("1", "zzz"), example("2", "aaab"), example("3", "aab"))
    output = recall(context, k=2)
    assert output.examples == (("q", "A: 0"), ("aab", "A: 3"), ("aaab", "A: 2"))
    assert output.notes == ("own",)
    assert output.recalled == (Recalled("m", "3"), Recalled("m", "2"))
    asked = converse(NodeState(question="x", messages=(), examples=output.examples), context, "solve")
    assert [turn.content for turn in asked][-3:-1] == ["aaab", "A: 2"]


def test_other_kinds_stand_in_one_note() -> None:
    tip = Entry(id="9", kind="strategy", key="sums", text="ones first")
    output = recall(context_with(tip, example("1", "aaaa")), k=5)
    assert output.notes is not None and len(output.notes) == 2
    assert "[strategy] sums\n\nones first" in output.notes[1] and "A: 1" not in output.notes[1]


def test_the_empty_control_has_the_same_words_around_nothing() -> None:
    tip = Entry(id="9", kind="strategy", key="sums", text="ones first")
    full, empty = recall(context_with(tip)), recall(context_with(tip), mode="empty")
    assert full.notes is not None and empty.notes is not None
    assert full.notes[1].replace("[strategy] sums\n\nones first\n\n", "(empty)\n") == empty.notes[1]
    assert empty.recalled == () and recall(context_with()).notes == empty.notes


def test_the_limit_holds_and_the_whole_sheet_keeps_what_helped() -> None:
    entries = [example("1", "old"), example("2", "helped", helpful=3), example("3", "harmed", harmful=2)]
    one = entries[1].tokens
    output = recall(context_with(*entries), mode="whole", limit=one + entries[0].tokens)
    assert output.examples == (("q", "A: 0"), ("old", "A: 1"), ("helped", "A: 2"))
    assert recall(context_with(*entries), mode="whole", limit=1).examples == (("q", "A: 0"),)


def test_advice_takes_the_entries_place_unless_it_was_cut() -> None:
    params: dict[str, Json] = {"mode": "retrieve_synthesize", "model": "large"}
    advised = recall(context_with(example("1", "aaaa"), reply="Mind the a."), **params)
    assert advised.notes == ("own", "Mind the a.") and advised.examples is None
    assert advised.recalled == (Recalled("m", "1"),)
    context = context_with(example("1", "aaaa"), reply=Completion(text="Mind", finish_reason="length"))
    assert recall(context, **params).examples == (("q", "A: 0"), ("aaaa", "A: 1"))
    assert "synthesis_cut" in [event for event, _ in context.events]


def test_an_empty_memory_asks_no_model() -> None:
    context = context_with()
    recall(context, mode="retrieve_synthesize", model="large")
    assert context.calls == 0


def test_reading_never_writes() -> None:
    context = context_with(example("1", "aaaa"), reply="advice")
    recall(context, mode="retrieve_synthesize", model="large")
    memory = context.memories["m"]
    assert memory.commits == []


def test_a_model_goes_with_its_mode_only() -> None:
    for params in ({"model": "large"}, {"mode": "retrieve_synthesize"}):
        with pytest.raises(ValidationError, match="retrieve_synthesize"):
            RecallParams.model_validate({"memory": "m", **params})


def test_entries_are_values_never_templates() -> None:
    hostile = Entry(id="1", kind="strategy", key="{{ 7191 * 7 }}", text="{% for x in y %}")
    seen: list[Request] = []

    def reply(model: str, request: Request, index: int) -> str:
        seen.append(request)
        return "fine"

    context = FakeContext(reply=reply, memories={"m": FakeMemory("m", [hostile])})
    output = recall(context)
    assert output.notes is not None and "{{ 7191 * 7 }}" in output.notes[1]
    recall(context, mode="retrieve_synthesize", model="large")
    assert "{% for x in y %}" in seen[0].messages[-1].content
