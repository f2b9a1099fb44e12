"""Draw candidates: one or several models answer the question, independently of one another.

Repeated sampling as in "Large Language Monkeys" (arXiv 2407.21787); several models as in Archon's ensembles
(arXiv 2409.15254). Departures: what came in is kept and the new candidates follow it; an empty completion is a
candidate without an answer, where Archon drops it; `logprobs` records the mean log-probability of each completion's
tokens as the score `logprob`, and that of its least likely token as `min_logprob`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import candidates_of, converse, draw, gather, stop_reason

LOGPROB = "logprob"
"""The score that `logprobs: true` records: the mean over the tokens."""
MIN_LOGPROB = "min_logprob"
"""The other one: that of the least likely token."""


class Example(BaseModel):
    """A solved question, shown as an earlier turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str = Field(description="The whole answer text, worked as the model should work")


class SampleParams(Params):
    """Parameters of `sample`."""

    model: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="The model that answers, or a list of several", json_schema_extra={"model": True}
    )
    n: int = Field(
        1, ge=1, le=1024, description="Candidates drawn from each model", json_schema_extra={"search": [1, 2, 4, 8, 16]}
    )
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.4, 0.6, 0.8, 1.0]}
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest completion, in tokens")
    system: str | None = Field(None, description="A system message, in front of the prompt pack's own")
    examples: tuple[Example, ...] = Field((), description="Solved examples {question, answer}, shown as earlier turns")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), max_length=4, description="The text ends before the first of these strings"
    )
    logprobs: bool = Field(
        False,
        description="Record log-probabilities as scores: `logprob`, the mean over a completion's tokens, and"
        " `min_logprob`, the least of them (needs the capability)",
    )


@register_node("sample")
class Sample(Node):
    """Draw n candidates from each model, after the candidates that came in."""

    Params = SampleParams
    params: SampleParams
    paper = "https://arxiv.org/abs/2407.21787"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "n": 4}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset()

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.logprobs else {"candidates"})

    @property
    def drops(self) -> frozenset[Thing]:
        # The new candidates have no critiques or tests, and there is more than one of them all.
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} if self.params.logprobs else ())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve"})

    def calls(self, candidates: int) -> tuple[int, int]:
        drawn = len(self.model_names) * self.params.n
        return drawn, drawn

    def candidates_out(self, candidates: int) -> int:
        return candidates + len(self.model_names) * self.params.n

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        request = Request(
            messages=converse(
                state,
                context,
                "solve",
                system=params.system,
                examples=[(example.question, example.answer) for example in params.examples],
            ),
            n=params.n,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            stop=params.stop,
            logprobs=0 if params.logprobs else None,
        )
        draws, _ = await gather(draw(context, model, request) for model in self.model_names)
        pairs = [
            (model, completion)
            for model, drawn in zip(self.model_names, draws, strict=True)
            for completion in (drawn[0] if drawn else [])
        ]
        refusal = next((drawn[1] for drawn in draws if drawn and drawn[1]), None)
        if refusal and not pairs:
            raise refusal
        new = candidates_of(context, pairs, taken=(candidate.id for candidate in state.candidates))
        if params.logprobs:
            completions = [completion for _, completion in pairs]
            new = _with_score(new, LOGPROB, [completion.mean_logprob for completion in completions])
            new = _with_score(new, MIN_LOGPROB, [completion.min_logprob for completion in completions])
        return NodeOutput(candidates=(*state.candidates, *new), stopped=stop_reason(context, refusal))


def _with_score(candidates: Sequence[Candidate], name: str, values: Sequence[float | None]) -> list[Candidate]:
    # An empty completion has no tokens to judge by: certain, but of nothing, so the lowest value there is.
    lowest = min((value for value in values if value is not None), default=0.0)
    return [
        candidate.with_score(name, lowest if value is None else value)
        for candidate, value in zip(candidates, values, strict=True)
    ]
