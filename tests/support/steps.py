"""A scripted tree of steps and the real pocket models, for nodes that search over steps. Both speak the pocket pack."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from inferloom.core.types import Candidate, Completion, Json, Message, NodeOutput, NodeState, Request
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.spec import ModelSpec
from inferloom.models.transformers import TransformersBackend, open_pocket
from inferloom.nodes.base import NODES
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.testing import FakeContext, run

Option = str | Completion
QUESTION = NodeState(question="?", messages=(Message("user", "?"),))


def written(request: Request) -> str | None:
    """The text that a request goes on from, empty for the first step; None for a request to the judge."""
    last = request.messages[-1]
    if last.role == "assistant":
        return last.content
    return None if last.content == "score" else ""


@dataclass
class StepTree:
    """Replies: the next steps of each text so far, in turn, and the judge's digit for each text (5 by default).

    A step that goes on ends with a newline. A text that is no key was never to be continued. Where a request has no
    stop string, the first options are followed to the end.
    """

    steps: Mapping[str, Sequence[Option]]
    grades: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, model: str, request: Request, index: int) -> Option:
        text = written(request)
        if text is None:
            return str(self.grades.get(request.messages[-2].content, 5))
        options = self.steps[text]
        step = options[index % len(options)]
        if request.stop or isinstance(step, Completion):
            return step
        while step.endswith("\n"):
            more = self.steps[text + step][0]
            assert isinstance(more, str)
            step += more
        return step

    def context(self, *, limit: int | None = None, seed: int = 0) -> FakeContext:
        """A context that replies from the tree."""
        return FakeContext(reply=self, prompts=load_pack("pocket"), limit=limit, seed=seed)


def search(name: str, context: FakeContext, state: NodeState = QUESTION, /, **params: Json) -> list[Candidate]:
    """Run a node with these parameters on the model `m`; its candidates."""
    return list(search_output(name, context, state, **params).candidates or ())


def search_output(name: str, context: FakeContext, state: NodeState = QUESTION, /, **params: Json) -> NodeOutput:
    """Run a node with these parameters on the model `m`."""
    node = NODES.get(name)
    made = node(node.Params.model_validate({"model": "m", **params}))
    output = run(made, state, context)
    least, most = made.calls(len(state.candidates))
    assert context.calls <= most
    assert output.stopped is not None or context.calls >= least
    assert output.candidates is not None
    assert 1 <= len(output.candidates) <= made.candidates_out(len(state.candidates))
    return output


def drawn(context: FakeContext) -> list[tuple[str, int]]:
    """(text gone on from, draws) of every request for steps, in order."""
    texts = [(written(request), request.n) for _, request in context.requests]
    return [(text, n) for text, n in texts if text is not None]


def graded(context: FakeContext) -> list[str]:
    """Every text that a judge was shown, in order."""
    return [request.messages[-2].content for _, request in context.requests if written(request) is None]


@cache
def pocket(size: str) -> TransformersBackend:
    """A pocket model."""
    pytest.importorskip("torch")
    return open_pocket(size, ModelSpec.model_validate(f"pocket:{size}"))


@dataclass
class PocketContext(FakeContext):
    """A context with the small pocket model behind every name; keeps every completion of a step."""

    drew: list[tuple[Request, Completion]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prompts = load_pack("pocket")

    async def generate(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        seeds = [self.seed + self.calls + index for index in range(request.n)]
        self.calls += request.n
        completions = await pocket("small").generate(request, seeds)
        if written(request) is not None:
            self.drew += [(request, completion) for completion in completions]
        return completions


def pocket_states(count: int = 2) -> list[NodeState]:
    """Questions that the small pocket model answers."""
    items = pocket_items("pocket:sum", [3], count, 11)
    return [NodeState(question=item.question, messages=(Message("user", item.question),)) for item in items]


def plain(state: NodeState) -> str:
    """The likeliest answer to a question, written in one piece."""
    request = Request(messages=state.messages, temperature=0.0)
    return asyncio.run(pocket("small").generate(request, [0]))[0].text


def assert_walked_by_steps(context: PocketContext) -> None:
    """Every step goes on from exactly what was written before it, and none from a solution that ended."""
    may_go_on = {""}
    for request, completion in context.drew:
        before = written(request)
        assert before in may_go_on, f"{before!r} was never an unfinished text"
        if completion.stop_reason is not None:
            may_go_on.add(before + completion.text + completion.stop_reason)
        elif completion.finish_reason == "length":
            may_go_on.add(before + completion.text)
