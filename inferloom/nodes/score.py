"""Give every candidate a score in [0, 1]: by a model that judges it, or by how sure its own model was of it.

`judge`: a model grades each candidate with one digit; with `expected`, the grade is the mean over the digits'
probabilities, as in G-Eval (arXiv 2303.16634). `logprob`: the geometric mean of the token probabilities, from the mean
log-probability that `sample` recorded (`logprobs: true`); it makes no calls. Departures from G-Eval: the scale is 0 to
9, without reasoning before the digit, and candidates with the same text are judged once. A reply without a digit
scores 0 and is reported as the event `parse_failed`.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import Field, model_validator

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import ask, converse, gather, incoming, order_by, scores_of, stop_reason
from inferloom.nodes.sample import LOGPROB

_DIGIT = re.compile(r"(?<![\w.])[0-9](?!\w|\.[0-9])")
_TOP_DIGIT = 9
_NAMES = {"judge": "judge", "logprob": "confidence"}
_ALTERNATIVES = 20
"""Tokens asked for beside the digit: the ten digits need not be the ten likeliest. 20 is the most that servers give."""


class ScoreParams(Params):
    """Parameters of `score`."""

    method: Literal["judge", "logprob"] = Field("judge", description="Who scores: a judging model, or `sample`'s own")
    model: str | None = Field(
        None, min_length=1, description="The model that judges (method judge)", json_schema_extra={"model": True}
    )
    name: str | None = Field(
        None, min_length=1, description="The score's name; without it `judge`, or `confidence` for method logprob"
    )
    expected: bool = Field(
        False,
        description="Use the expected digit instead of the likeliest (needs the capability `logprobs`)",
        json_schema_extra={"search": [False, True]},
    )
    max_tokens: int = Field(16, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")

    @model_validator(mode="after")
    def _fits_method(self) -> ScoreParams:
        if self.method == "judge" and self.model is None:
            raise ValueError("score with method `judge` needs `model`, the model that judges")
        if self.method == "logprob" and (self.model is not None or self.expected):
            raise ValueError("score with method `logprob` calls no model; leave out `model` and `expected`")
        return self


@register_node("score")
class Score(Node):
    """Score every candidate from 0 to 1, by a judging model or by its own log-probability."""

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
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} if self.params.expected else ())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"score"} if self.params.method == "judge" else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        # Equal texts are judged once, so one call may do for all.
        return (min(candidates, 1), candidates) if self.params.method == "judge" else (0, 0)

    def candidates_out(self, candidates: int) -> int:
        return candidates

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        if self.params.method == "logprob":
            means = scores_of(candidates, LOGPROB, context)
            scored = [
                candidate.with_score(self.score_name, math.exp(min(mean, 0.0)))
                for candidate, mean in zip(candidates, means, strict=True)
            ]
            return NodeOutput(candidates=tuple(scored))
        return await self._judge(candidates, state, context)

    async def _judge(self, candidates: tuple[Candidate, ...], state: NodeState, context: NodeContext) -> NodeOutput:
        texts = list(dict.fromkeys(candidate.text for candidate in candidates))
        replies, refusal = await gather(self._ask(text, state, context) for text in texts)
        grades = {text: self._grade(reply, context) for text, reply in zip(texts, replies, strict=True) if reply}
        if refusal and not grades:
            raise refusal
        scored = [
            candidate.with_score(self.score_name, grades[candidate.text]) if candidate.text in grades else candidate
            for candidate in candidates
        ]
        if refusal:
            # The run ends here with its first candidate: let that be the best of those that were judged.
            order = order_by([grades.get(candidate.text, -1.0) for candidate in candidates])
            scored = [scored[position] for position in order]
        return NodeOutput(candidates=tuple(scored), stopped=stop_reason(context, refusal))

    async def _ask(self, text: str, state: NodeState, context: NodeContext) -> Completion:
        assert self.params.model is not None  # the parameters have a model where the method is `judge`
        request = Request(
            messages=converse(state, context, "score", {"candidate": text}),
            temperature=0.0,
            max_tokens=self.params.max_tokens,
            logprobs=_ALTERNATIVES if self.params.expected else None,
        )
        return await ask(context, self.params.model, request)

    def _grade(self, reply: Completion, context: NodeContext) -> float:
        digit = expected_digit(reply) if self.params.expected else greedy_digit(reply.text)
        if digit is None:
            context.emit("parse_failed", {"role": "score", "reply": reply.text[:200]})
            return 0.0
        return digit / _TOP_DIGIT


def greedy_digit(text: str) -> float | None:
    """The first digit that stands alone in a reply ("7", "7/9", "Score: 7."); None for others ("10", "0.7")."""
    found = _DIGIT.search(text)
    return float(found[0]) if found else None


def expected_digit(reply: Completion) -> float | None:
    """The mean of the digits that could stand at the reply's digit, weighted by their probabilities."""
    tokens = reply.logprobs or ()
    whole = "".join(token.token for token in tokens)
    # The log-probabilities also cover a reasoning block, which is no part of the text.
    found = _DIGIT.search(whole, max(0, whole.rfind(reply.text.strip())))
    if found is None:
        return None
    end = 0
    for token in tokens:
        end += len(token.token)
        if found.start() < end:
            chances = {text: math.exp(logprob) for text, logprob in ((token.token, token.logprob), *token.top)}
            digits = {text: chance for text, chance in chances.items() if re.fullmatch(r"\s*[0-9]\s*", text)}
            whole_chance = math.fsum(digits.values())
            if whole_chance > 0:
                return math.fsum(int(text) * chance for text, chance in digits.items()) / whole_chance
            break
    return float(found[0])
