"""Every declared option changes something: what is asked, what comes out, or what a node says of itself."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from pydantic import ValidationError

from inferloom.core.types import Completion, Json, Request, TokenLogprob
from inferloom.nodes import reward_model
from inferloom.nodes.base import NODES, Node
from inferloom.nodes.describe import describe
from inferloom.nodes.testing import FakeContext, NodeCase, Reply, make_state
from tests.support.node_cases import FILES, VARIANTS, FakeRewarder

TEXTS = ["step one\nstep two\nA: 0", "step one\nA: 1", "a longer way\nstep two\nA: 2", "A: 0"]
OPTIONS = [(name, field) for name in NODES.names() for field in NODES.get(name).Params.model_fields]
UNSEEN = {
    ("gauge", "votes"): "which model's votes count how much; the suite's candidates come from no model",
    ("reward_model", "revision"): "which weights are loaded",
    ("reward_model", "path"): "which weights are loaded",
    ("reward_model", "batch"): "how many texts go through the weights at a time",
    ("reward_model", "device"): "where the weights run",
    ("reward_model", "max_tokens"): "where a text is cut before the weights see it",
}
"""Options that the suite's fakes cannot show, with what they change; the node's own tests have the real part."""


@pytest.fixture(autouse=True)
def no_reward_model_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model, "rewarder", lambda *named: FakeRewarder())


def varied(model: str, request: Request, index: int) -> str:
    """Something for every parser, depending on all that was asked."""
    asked = f"{model}|{index}|" + "|".join(message.content for message in request.messages)
    a, b, c, d = hashlib.blake2b(asked.encode(), digest_size=4).digest()
    verdict, yes = ("Correct", "YES") if a % 2 else ("Incorrect", "NO")
    pairs = "\n".join(
        f"{name}={value % 9}" for name, value in zip(("1", "2", "3", "correctness"), (a, b, c, d), strict=True)
    )
    return f"{b % 10}\nB A\n{yes}\nScores: A={a % 9} B={b % 9}\n{pairs}\n[{verdict}]\nA: {c % 3}"


def same(model: str, request: Request, index: int) -> str:
    """The same for everybody."""
    return "5\nA: 1"


def cut(model: str, request: Request, index: int) -> Completion:
    """What `varied` says, cut at its token limit."""
    text = varied(model, request, index)
    return Completion(text=text, finish_reason="length", logprobs=tuple(TokenLogprob(one, -0.5) for one in text))


REPLIES: dict[str, list[Reply]] = {"nudging": [varied, same, cut]}
"""For nodes that ask some models only where others were cut."""


def others(name: str, field: str, now: Json) -> Iterator[Json]:
    """Other values that an option might take."""
    description = next(one for one in describe(name)["parameters"] if one["name"] == field)
    yield from description["search"] or []
    if description["range"] and description["range"].startswith("one of "):
        yield from description["range"].removeprefix("one of ").split(", ")
    if isinstance(now, bool):
        yield not now
    elif isinstance(now, int | float):
        yield from (now + 1, now - 1, now / 2, 1 - now, now + 0.1, 1, 2)
    yield from ("large", "judge", "logprob", "steps/0", "other", "\n", "mean", "first", "Numbers", "small")
    yield from (1, 2, 3, 0.5, 0.05, True, False, None)
    yield from (["A"], ["step"], [{"question": "q", "answer": "A: 1"}], ["plain", "step_by_step"], ["example"])
    yield from ([{"name": "depth", "weight": 1.0}], "inferred", "contract/long", "documents.jsonl", "examples.jsonl")


def seen(node: Node, case: NodeCase) -> object:
    """All that can be seen of a node with these parameters."""
    said = (node.requires, node.provides, node.needs, node.roles, [node.calls(n) for n in range(5)])
    state = replace(make_state(TEXTS), notes=("Addition comes first.", "Cats sleep.", "Sums are numbers."))
    done: list[object] = []
    for reply in REPLIES.get(case.name, [varied, same]):
        context = case.given(FakeContext(reply=reply, oracle=lambda candidate: float(candidate.answer == "1")))
        try:
            output: object = asyncio.run(node.run(state, context))
        except Exception as error:  # an option may name a score or a field that is not there: that is a change too
            output = str(error)
        done += [context.requests, context.calls, output, context.memories]
    return said, done


def differs(case: NodeCase, field: str) -> bool:
    """Whether some other value of the option changes what is seen of this case."""
    node = case.make()
    before = seen(node, case)
    data = cast(dict[str, Json], node.params.model_dump(mode="json", exclude_unset=True))
    for value in others(case.name, field, cast(Json, getattr(node.params, field))):
        # Some options go together: then the value is tried with nothing else set, or with one less.
        for rest in (data, {}, *({key: data[key] for key in data if key != gone} for gone in data)):
            try:
                changed = type(node)(type(node).Params.model_validate({**rest, field: value}))
            except ValidationError:
                continue
            if getattr(changed.params, field) != getattr(node.params, field) and seen(changed, case) != before:
                return True
            break
    return False


@pytest.mark.parametrize(("name", "field"), OPTIONS, ids=[f"{name}-{field}" for name, field in OPTIONS])
def test_every_option_changes_something(name: str, field: str) -> None:
    if (name, field) in UNSEEN:
        return
    cases = [NodeCase(name, None, FILES), *(case for case in VARIANTS if case.name == name)]
    assert any(differs(case, field) for case in cases), f"no value of `{field}` changes anything"
