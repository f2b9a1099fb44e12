"""Say how sure the answers so far are: the chance that the leading one is right, by a logistic model learned before.

The look of a learned cascade (FrugalGPT, Chen et al., arXiv 2305.05176, has the shape: a cheap model answers, a scorer
decides whether that will do): draw a little, look, and draw more or ask a dearer model only below a threshold, with
`when: {if: best.sure < 0.7, ...}`. `inferloom.routing.cascade` learns the weights and the thresholds.

What it looks at, of all candidates: the share of the leading answer among the votes, its lead over the next, the mean
log-probability of the texts that give it, and their mean grade by a judge. A candidate votes with the weight of the
model that wrote it. The leading answer's candidates get the chance as their score, all others 0, and the first of the
leading ones comes first. Departure: the paper's scorer is a language model that reads the answer; here nothing is read.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from inferloom.core.answers import votes_of
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, scores_of
from inferloom.nodes.looking import FEATURES, chance, look
from inferloom.nodes.sample import LOGPROB


class GaugeParams(Params):
    """Parameters of `gauge`; the weights are those of a logistic model."""

    bias: float = Field(0.0, description="What the log-odds begin from")
    agreement: float = Field(0.0, description="Weight of the share of the leading answer among the votes")
    lead: float = Field(4.0, description="Weight of its lead over the next, as a share of the votes")
    logprob: float = Field(0.0, description="Weight of -ln(0.002 - its mean log-probability) (`logprobs: true`)")
    grade: float = Field(0.0, description="Weight of its mean grade")
    by: str = Field("judge", min_length=1, description="The score that is its grade")
    votes: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Weight of each model's votes, by its name in the pipeline; 1 where not given"
    )
    name: str = Field("sure", min_length=1, description="The name of the score")


@register_node("gauge")
class Gauge(Node):
    """Score the leading answer with the chance that it is right, by weights that were learned before."""

    Params = GaugeParams
    params: GaugeParams
    paper = "https://arxiv.org/abs/2305.05176"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"bias": -1.0, "lead": 4.0}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.scores_in else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_in(self) -> frozenset[str]:
        params = self.params
        names = {LOGPROB: params.logprob, params.by: params.grade}
        return frozenset(name for name, weight in names.items() if weight)

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates, params = incoming(state, context), self.params
        votes = votes_of(candidates)
        zeros = [0.0] * len(candidates)
        seen = look(
            votes,
            [params.votes.get(candidate.origin.get("model", ""), 1.0) for candidate in candidates],
            scores_of(candidates, LOGPROB, context) if params.logprob else zeros,
            scores_of(candidates, params.by, context) if params.grade else zeros,
        )
        sure = chance(seen, {"bias": params.bias, **{name: getattr(params, name) for name in FEATURES}})
        scored: list[Candidate] = [
            candidate.with_score(params.name, sure if vote is not None and vote == seen.leader else 0.0)
            for candidate, vote in zip(candidates, votes, strict=True)
        ]
        first = next((place for place, vote in enumerate(votes) if vote is not None and vote == seen.leader), 0)
        return NodeOutput(candidates=(scored[first], *scored[:first], *scored[first + 1 :]))
