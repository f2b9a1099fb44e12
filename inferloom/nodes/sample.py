"""Draw candidates: one or several models answer the question, independently of one another.

Repeated sampling as in "Large Language Monkeys" (arXiv 2407.21787); several models as in Archon's ensembles
(arXiv 2409.15254). `plan` has the model write a plan first, as Plan-and-Solve (arXiv 2305.04091), and `style: program`
a program whose output is the answer, as Program of Thoughts (arXiv 2211.12588).

Departures: what came in is kept and the new candidates follow it; an empty completion is a candidate without an answer,
where Archon drops it; `logprobs` records the mean log-probability of each completion's tokens as the score `logprob`,
and that of its least likely token as `min_logprob`.
The plan is a call of its own, so that several answers can share one. A program runs in the sandbox, and what it prints
last joins its candidate's text; one that fails, or that the sandbox does not support, leaves its candidate without an
answer. Plans and programs are asked for without the solved examples, which show worked answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import candidates_of, stop_reason
from inferloom.nodes.styles import Asking, Style, draw_answers, run_programs

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
        1,
        ge=1,
        le=1024,
        description="Candidates drawn from each model in each style",
        json_schema_extra={"search": [1, 2, 4, 8, 16]},
    )
    style: Style | Annotated[tuple[Style, ...], Field(min_length=1)] = Field(
        "plain",
        description="How the question is put, or a list of several ways; `program` runs what the model writes",
        json_schema_extra={"search": ["plain", "step_by_step"]},
    )
    plan: bool = Field(
        False, description="Write a plan first, and answer with it", json_schema_extra={"search": [False, True]}
    )
    plans: int | None = Field(
        None, ge=1, le=1024, description="Plans that the n candidates of a model and style share; without it one each"
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

    @property
    def askings(self) -> tuple[Asking, ...]:
        """Every model in every style."""
        models = (self.model,) if isinstance(self.model, str) else self.model
        styles = (self.style,) if isinstance(self.style, str) else self.style
        examples = tuple((example.question, example.answer) for example in self.examples)
        plans = min(self.n, self.plans or self.n) if self.plan else 0
        return tuple(Asking(model, style, self.system, examples, plans) for model in models for style in styles)

    @model_validator(mode="after")
    def _fits_plan(self) -> SampleParams:
        if self.plans is not None and not self.plan:
            raise ValueError("`plans` says how many plans `plan: true` writes; set that too or leave it out")
        return self


@register_node("sample")
class Sample(Node):
    """Draw n candidates from each model and in each style, after the candidates that came in."""

    Params = SampleParams
    params: SampleParams
    offers_tools = True
    paper = "https://arxiv.org/abs/2407.21787"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "n": 4}

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.logprobs else {"candidates"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({LOGPROB, MIN_LOGPROB} if self.params.logprobs else ())

    @property
    def drops(self) -> frozenset[Thing]:
        # The new candidates have no critiques or tests, and there is more than one of them all.
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} if self.params.logprobs else ())

    @property
    def live(self) -> bool:
        askings = self.params.askings
        return len(askings) == 1 and self.params.n == 1 and not askings[0].plans and askings[0].style != "program"

    @property
    def roles(self) -> frozenset[str]:
        return frozenset().union(*(asking.roles for asking in self.params.askings))

    def calls(self, candidates: int) -> tuple[int, int]:
        drawn = sum(asking.plans + self.params.n for asking in self.params.askings)
        return drawn, drawn

    def candidates_out(self, candidates: int) -> int:
        return candidates + len(self.params.askings) * self.params.n

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        askings = params.askings
        request = Request(
            n=params.n,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            stop=params.stop,
            logprobs=0 if params.logprobs else None,
        )
        drawn = await draw_answers(askings, request, state, context)
        refusal = next((result.refusal for result in drawn if result.refusal), None)
        if refusal and not any(result.completions or result.plans for result in drawn):
            raise refusal
        pairs = [
            (asking, completion)
            for asking, result in zip(askings, drawn, strict=True)
            for completion in result.completions
        ]
        new = candidates_of(
            context,
            [(asking.model, completion) for asking, completion in pairs],
            taken=(candidate.id for candidate in state.candidates),
        )
        programs = [index for index, (asking, _) in enumerate(pairs) if asking.style == "program"]
        for index, ran in zip(programs, await run_programs([new[index] for index in programs], context), strict=True):
            new[index] = ran
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
