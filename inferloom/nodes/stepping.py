"""What searches over steps share: partial solutions, drawing their next steps, judging them, handing them on.

A partial solution is continued from inside the assistant's open turn (capability `prefix`) up to the next separator.
How a step ended decides what it is: at the separator, the step is complete and the separator is put back; at the end of
the text, the solution is finished and never continued; at the step's token limit, the next step goes on in its middle.
A solution that reaches the limit of the whole without an end is cut: it is never continued either, and is not finished;
so is one that the server ended for another reason, such as a filter.
The last step that the limit on steps allows has no separator: it runs to the end of the text.

The judge is a prompted model that grades the text so far with the role `score`, not a trained process reward model.
Models that reason in a block of their own before they answer are not for these searches: their steps are in the block.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing
from inferloom.nodes.common import candidates_of, converse, draw, gather, open_turn, stop_reason
from inferloom.nodes.grading import grader

Aggregate: TypeAlias = Literal["last", "min", "product", "mean"]
"""How the scores of the steps become one. A plain sum is none of them: it pays for length."""


class WalkParams(Params):
    """What every node that writes by steps takes."""

    model: str = Field(
        min_length=1, description="The model that writes the steps (needs `prefix`)", json_schema_extra={"model": True}
    )
    judge: str | None = Field(
        None,
        min_length=1,
        description="The model that grades partial solutions; without it the one that writes them",
        json_schema_extra={"model": True},
    )
    step: str = Field("\n", min_length=1, description=r'What ends a step: "\n" for lines, "\n\n" for paragraphs')
    max_steps: int = Field(
        16,
        ge=1,
        le=1000,
        description="The most steps of a solution; the last one runs to the end of the text",
        json_schema_extra={"search": [8, 16, 32]},
    )
    step_tokens: int = Field(
        128, ge=1, le=1_000_000, description="The longest step, in tokens; a longer one goes on as the next"
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest solution, in tokens")
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.4, 0.6, 0.8, 1.0]}
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    expected: bool = Field(
        False,
        description="Use the judge's expected digit instead of its likeliest (needs the capability `logprobs`)",
        json_schema_extra={"search": [False, True]},
    )
    judge_tokens: int = Field(16, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")
    keep: bool = Field(False, description="Keep the candidates that came in, after the new ones")


class StepParams(WalkParams):
    """What every search over steps takes."""

    aggregate: Aggregate = Field(
        "last",
        description="How the scores of a solution's steps become its score",
        json_schema_extra={"search": ["last", "min", "product", "mean"]},
    )
    name: str = Field("step", min_length=1, description="The name of the score that the candidates get")


class WidthParams(StepParams):
    """What `beam_search` and `dvts` take besides."""

    n: int = Field(
        4,
        ge=1,
        le=256,
        description="Steps drawn at a time, a multiple of `width`",
        json_schema_extra={"search": [4, 8, 16]},
    )
    width: int = Field(
        2, ge=1, le=256, description="Continuations of each partial solution kept", json_schema_extra={"search": [2, 4]}
    )

    @model_validator(mode="after")
    def _whole_trees(self) -> WidthParams:
        if self.n % self.width:
            raise ValueError(f"n is {self.n}; must be a multiple of width, which is {self.width}")
        return self


@dataclass(frozen=True, slots=True)
class Partial:
    """A solution on its way."""

    text: str = ""
    """What is continued: every step that ended has its separator behind it."""
    shown: str = ""
    """What is judged and handed on: the same without a separator at the end."""
    end: Literal["", "finished", "cut"] = ""
    """Why it is not continued: its text ended, or it met the limit of the whole."""
    steps: int = 0
    tokens: int = 0
    scores: tuple[float, ...] = ()
    """A score for each step that was judged."""
    judged: bool = False
    """Whether the last step was."""
    completion: str = ""
    """The last step's place in the bank."""
    sure: float | None = None
    """The probability of the last step's least likely token, where it was asked for."""

    def grown(self, completion: Completion, separator: str, *, last_step: bool, max_tokens: int) -> Partial:
        """With one more step."""
        text, tokens = self.text + completion.text, self.tokens + completion.completion_tokens
        complete = completion.finish_reason == "stop" and completion.stop_reason == separator
        step = Partial(
            text=text + separator if complete else text,
            shown=text,
            steps=self.steps + 1,
            tokens=tokens,
            scores=self.scores,
            completion=completion.id,
            sure=None if completion.min_logprob is None else math.exp(completion.min_logprob),
        )
        if complete or completion.finish_reason == "length":
            return replace(step, end="cut" if last_step or tokens >= max_tokens else "")
        if completion.finish_reason != "stop":  # a filter or a fault of the server; going on would meet it again
            return replace(step, end="cut")
        if completion.text or not self.steps:
            return replace(step, end="finished")
        # The text ended right behind a separator: the step before was the last, and its score is the one to replace.
        before = self.scores[:-1] if self.judged else self.scores
        return replace(step, shown=self.shown, scores=before, end="finished")

    def with_score(self, score: float) -> Partial:
        """With its last step judged."""
        return replace(self, scores=(*self.scores, score), judged=True)


def aggregated(part: Partial, how: Aggregate) -> float:
    """The score of a partial solution; below every score where its last step was not judged."""
    if not part.judged:
        return -1.0
    if how == "last":
        return part.scores[-1]
    if how == "min":
        return min(part.scores)
    if how == "product":
        return math.prod(part.scores)
    return math.fsum(part.scores) / len(part.scores)


class Walk:
    """The steps that one run of a node draws and judges; remembers the first refusal of the budget.

    Args:
        params: Of the node.
        state: What the node reads.
        context: What the node may reach.
        role: In which the judge is asked.
    """

    def __init__(self, params: WalkParams, state: NodeState, context: NodeContext, role: str = "score") -> None:
        self.refusal: BudgetExceededError | None = None
        self._params = params
        self._state = state
        self._context = context
        self._opening = converse(state, context, "solve")
        self._grade = grader(
            state,
            context,
            model=params.judge or params.model,
            expected=params.expected,
            max_tokens=params.judge_tokens,
            role=role,
        )
        self._grades: dict[str, float] = {}

    async def extend(
        self,
        parts: Sequence[Partial],
        *,
        model: str | None = None,
        separator: str | None = None,
        logprobs: int | None = None,
        to_the_end: bool = False,
    ) -> list[Partial | None]:
        """Draw a step, or all the rest, for each; None where the budget refused.

        Equal requests are asked as one with a larger n, so that their draws differ.

        Args:
            parts: What is continued.
            model: Who writes; None: the node's `model`.
            separator: What ends a step of this model; None: the node's `step`.
            logprobs: As in a request; `sure` is known where they are asked for.
            to_the_end: Whether all the rest is drawn.
        """
        writer, separator = model or self._params.model, separator or self._params.step
        places: dict[tuple[Request, bool], list[int]] = {}
        for place, part in enumerate(parts):
            last_step = to_the_end or part.steps + 1 >= self._params.max_steps
            places.setdefault((self._request(part, separator, last_step), last_step), []).append(place)
        drawn, _ = await gather(
            draw(self._context, writer, replace(request, n=len(where), logprobs=logprobs))
            for (request, _), where in places.items()
        )
        grown: list[Partial | None] = [None] * len(parts)
        for ((_, last_step), where), reply in zip(places.items(), drawn, strict=True):
            completions, refusal = reply or ([], None)
            self.refusal = self.refusal or refusal
            for place, completion in zip(where, completions, strict=False):
                grown[place] = parts[place].grown(
                    completion, separator, last_step=last_step, max_tokens=self._params.max_tokens
                )
        return grown

    async def judge(self, parts: Sequence[Partial]) -> list[Partial]:
        """Score the last step of each; a text is judged once, and stays without a score where the budget refused."""
        new = dict.fromkeys(part.shown for part in parts if part.steps and not part.judged)
        texts = [text for text in new if text not in self._grades]
        if texts:
            grades, refusal = await self._grade(texts)
            self.refusal = self.refusal or refusal
            self._grades |= grades
        return [
            part.with_score(self._grades[part.shown])
            if part.steps and not part.judged and part.shown in self._grades
            else part
            for part in parts
        ]

    def candidates(self, parts: Sequence[Partial]) -> list[Candidate]:
        """The partial solutions as candidates of the node's `model`, in this order."""
        pairs = [(self._params.model, self._completion(part)) for part in parts]
        return candidates_of(self._context, pairs, taken=(candidate.id for candidate in self._state.candidates))

    def hand_on(self, made: Iterable[Candidate]) -> NodeOutput:
        """New candidates, with those that came in where they are to be kept, and why the run stops, if it does."""
        kept = self._state.candidates if self._params.keep else ()
        return NodeOutput(candidates=(*made, *kept), stopped=stop_reason(self._context, self.refusal))

    @staticmethod
    def _completion(part: Partial) -> Completion:
        return Completion(
            text=part.shown, finish_reason="stop" if part.end == "finished" else "length", id=part.completion
        )

    def _request(self, part: Partial, separator: str, last_step: bool) -> Request:
        """The request for the next step of a partial solution, with n = 1."""
        params = self._params
        left = max(1, params.max_tokens - part.tokens)
        return Request(
            messages=open_turn(self._opening, part.text),
            max_tokens=left if last_step else min(params.step_tokens, left),
            temperature=params.temperature,
            top_p=params.top_p,
            stop=() if last_step else (separator,),
        )


class SearchWalk(Walk):
    """The steps of a search, which goes by the scores of partial solutions."""

    def __init__(self, params: StepParams, state: NodeState, context: NodeContext) -> None:
        super().__init__(params, state, context)
        self._search = params

    def score(self, part: Partial) -> float:
        """The aggregated score of a partial solution."""
        return aggregated(part, self._search.aggregate)

    def best_first(self, parts: Iterable[Partial]) -> list[Partial]:
        """By descending score, finished ones in front; ties keep their order."""
        return sorted(parts, key=lambda part: (part.end != "finished", -self.score(part)))

    async def step(self, parts: Sequence[Partial]) -> list[Partial]:
        """Every partial solution with its next step, judged; without it where the budget refused."""
        grown = await self.extend(parts)
        return await self.judge([new or old for new, old in zip(grown, parts, strict=True)])

    def output(self, parts: Sequence[Partial]) -> NodeOutput:
        """The partial solutions as candidates, in this order, and why the run stops, if it does.

        Raises:
            BudgetExceededError: Nothing was received.
        """
        chosen: list[Partial] = []
        for part in parts:
            # Copies of one that the budget kept from going on are one candidate; of those that ended, each is one.
            if part.steps and (part.end or part not in chosen):
                chosen.append(part)
        if not chosen and self.refusal is not None:
            raise self.refusal
        made = self.candidates(chosen)
        return self.hand_on(self._scored(one, part) for one, part in zip(made, chosen, strict=True))

    def _scored(self, candidate: Candidate, part: Partial) -> Candidate:
        return candidate.with_score(self._search.name, self.score(part)) if part.judged else candidate


class StepWriter(Node):
    """What nodes that write by steps are alike in."""

    params: WalkParams
    static = False

    @abstractmethod
    def new_candidates(self) -> int:
        """The most candidates that it makes."""

    @property
    def writers(self) -> frozenset[str]:
        """The models that go on from a text."""
        return frozenset({self.params.model})

    @property
    def provides(self) -> frozenset[Thing]:
        one = self.new_candidates() == 1 and not self.params.keep
        return frozenset({"candidates", "one"} if one else {"candidates"})

    @property
    def drops(self) -> frozenset[Thing]:
        # The new candidates have none of these, whatever a kept one has.
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*(self.needs_of(model) for model in self.model_names))

    def needs_of(self, model: str) -> frozenset[str]:
        judges = model == (self.params.judge or self.params.model)
        needed = {
            "prefix": self.params.max_steps > 1 and model in self.writers,
            "logprobs": self.params.expected and judges,
        }
        return frozenset(name for name, is_needed in needed.items() if is_needed)

    def candidates_out(self, candidates: int) -> int:
        return self.new_candidates() + (candidates if self.params.keep else 0)


class StepSearch(StepWriter):
    """What the searches over steps are alike in besides."""

    params: StepParams

    @property
    def provides(self) -> frozenset[Thing]:
        return super().provides | (frozenset() if self.params.keep else frozenset({"scores"}))

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset() if self.params.keep else frozenset({self.params.name})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve", "score"})
