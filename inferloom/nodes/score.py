"""Give every candidate a score: by a judging model, by how sure its own model was of it, or by a Python function.

`judge`: a model grades each candidate with one digit; with `expected`, the grade is the mean over the digits'
probabilities, as in G-Eval (arXiv 2303.16634). `logprob`: from the log-probabilities that `sample` recorded (`logprobs:
true`), the geometric mean of the token probabilities or, with `tokens: min`, the probability of the least likely token;
their sum is no choice, since it rewards short texts. `callable`: a function that was registered with `register_scorer`
(`inferloom.nodes.scorers`). The last two make no calls.

All scores are in [0, 1], but a function may give any finite number. Departures from G-Eval: the scale is 0 to 9,
without reasoning before the digit, and candidates with the same text are judged once (a function sees the whole
candidate and is called for each). A reply without a digit scores 0 and is reported as the event `parse_failed`.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from inferloom.core.errors import UnknownNameError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import gather, incoming, scores_of
from inferloom.nodes.grading import grader, hand_on
from inferloom.nodes.sample import LOGPROB, MIN_LOGPROB
from inferloom.nodes.scorers import SCORERS, call_scorer

_NAMES = {"judge": "judge", "logprob": "confidence", "callable": "callable"}
_RECORDED = {"mean": LOGPROB, "min": MIN_LOGPROB}


class ScoreParams(Params):
    """Parameters of `score`."""

    method: Literal["judge", "logprob", "callable"] = Field(
        "judge", description="Who scores: a judging model, `sample`'s own, or a Python function"
    )
    model: str | None = Field(
        None, min_length=1, description="The model that judges (method judge)", json_schema_extra={"model": True}
    )
    name: str | None = Field(
        None, min_length=1, description="The score's name; without it `judge`, `confidence` (logprob) or `callable`"
    )
    expected: bool = Field(
        False,
        description="Use the expected digit instead of the likeliest (needs the capability `logprobs`)",
        json_schema_extra={"search": [False, True]},
    )
    max_tokens: int = Field(16, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")
    tokens: Literal["mean", "min"] = Field(
        "mean", description="Which token probability counts (method logprob): the geometric mean, or the least"
    )
    scorer: str | None = Field(None, min_length=1, description="The registered function that scores (method callable)")

    @model_validator(mode="after")
    def _fits_method(self) -> ScoreParams:
        if self.method == "judge" and self.model is None:
            raise ValueError("score with method `judge` needs `model`, the model that judges")
        if self.method != "judge" and (self.model is not None or self.expected):
            raise ValueError(f"score with method `{self.method}` calls no model; leave out `model` and `expected`")
        if self.method != "logprob" and self.tokens != "mean":
            raise ValueError("`tokens` is for score with method `logprob`")
        if (self.method == "callable") != (self.scorer is not None):
            raise ValueError("score with method `callable`, and no other, needs `scorer`, the name of a function")
        if self.scorer is not None:
            try:
                SCORERS.get(self.scorer)
            except UnknownNameError as unknown:
                raise ValueError(unknown.sentence) from None
        return self


@register_node("score")
class Score(Node):
    """Score every candidate, by a judging model, its own log-probability or a Python function."""

    Params = ScoreParams
    params: ScoreParams
    paper = "https://arxiv.org/abs/2303.16634"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large"}

    @property
    def score_name(self) -> str:
        """The name under which the score is recorded."""
        return self.params.name or _NAMES[self.params.method]

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.method == "logprob" else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({_RECORDED[self.params.tokens]} if self.params.method == "logprob" else ())

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.score_name})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} if self.params.expected else ())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"score"} if self.params.method == "judge" else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        # Equal texts are judged once, so one call may do for all.
        return (min(candidates, 1), candidates) if self.params.method == "judge" else (0, 0)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        if self.params.method == "judge":
            return await self._judge(candidates, state, context)
        if self.params.method == "logprob":
            means = scores_of(candidates, _RECORDED[self.params.tokens], context)
            values = [math.exp(min(mean, 0.0)) for mean in means]
        else:
            values = await self._call(candidates, state, context)
        scored = [
            candidate.with_score(self.score_name, value) for candidate, value in zip(candidates, values, strict=True)
        ]
        return NodeOutput(candidates=tuple(scored))

    async def _judge(self, candidates: tuple[Candidate, ...], state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        assert params.model is not None  # the parameters have a model where the method is `judge`
        model = params.model
        grade = grader(state, context, model=model, expected=params.expected, max_tokens=params.max_tokens)
        grades, refusal = await grade(candidate.text for candidate in candidates)
        if refusal and not grades:
            raise refusal
        return hand_on(candidates, grades, self.score_name, context, refusal)

    async def _call(self, candidates: tuple[Candidate, ...], state: NodeState, context: NodeContext) -> list[float]:
        name = self.params.scorer
        assert name is not None  # the parameters have one where the method is `callable`
        values, _ = await gather(call_scorer(name, candidate, state, context) for candidate in candidates)
        return [value for value in values if value is not None]
