"""Let the candidates vote with their final answers, and keep one that gave the winning answer.

Self-consistency (Wang et al., arXiv 2203.11171); with `weight`, the weighted majority of Snell et al.
(arXiv 2408.03314). Departures: answers are compared in normalised form (numbers by value), ties go to the answer given
first instead of a random one, a candidate without an answer has no vote, and one whose text was cut has one only where
no finished candidate has. Where all agree the share is 1; where none has an answer the first candidate stays, with the
share 0.
"""

from __future__ import annotations

import math

from pydantic import Field

from inferloom.core.answers import votes_of
from inferloom.core.errors import UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, scores_of

SHARE = "vote_share"
"""The score that `vote` records: the winner's part of all votes, in [0, 1]."""


class VoteParams(Params):
    """Parameters of `vote`."""

    weight: str | None = Field(
        None,
        min_length=1,
        description="The score (zero or more) that a candidate's vote counts; without it every vote is 1",
    )


@register_node("vote")
class Vote(Node):
    """Keep the first candidate of the answer with the most votes."""

    Params = VoteParams
    params: VoteParams
    paper = "https://arxiv.org/abs/2203.11171"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.weight else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one", "scores"})

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.weight} if self.params.weight else ())

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({SHARE})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, 1)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        votes: dict[str, list[float]] = {}
        first: dict[str, Candidate] = {}
        weights = self._weights(candidates, context)
        for candidate, key, weight in zip(candidates, votes_of(candidates), weights, strict=True):
            if key is not None:
                votes.setdefault(key, []).append(weight)
                first.setdefault(key, candidate)
        # Exact sums, so that the order of the candidates cannot decide between equal totals.
        totals = {key: math.fsum(weights) for key, weights in votes.items()}
        if not totals:
            return NodeOutput(candidates=(candidates[0].with_score(SHARE, 0.0),))
        # `max` keeps the first of equals, and the keys stand in the order in which their answers came.
        winner = max(totals, key=lambda key: totals[key])
        everything = math.fsum(totals.values())
        share = totals[winner] / everything if everything else 0.0
        return NodeOutput(candidates=(first[winner].with_score(SHARE, share),))

    def _weights(self, candidates: tuple[Candidate, ...], context: NodeContext) -> list[float]:
        name = self.params.weight
        if name is None:
            return [1.0] * len(candidates)
        weights = scores_of(candidates, name, context)
        for weight in weights:
            if weight < 0 or math.isinf(weight):
                raise UserError(
                    f"vote weight `{name}` is {weight:g}; weights must be finite and not below 0"
                    " (a log-probability becomes a weight through `score: {method: logprob}`)",
                    where=context.path,
                )
        return weights
