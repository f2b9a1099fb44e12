"""Turn a score into a place among the scores of the same question, and tilt it if wanted.

The calibration and the exponential transform of InfAlign (Balashankar et al., arXiv 2412.19792), applied to the scores
of a run. `quantile` is its calibrated reward: the share of the reference's scores that lie below. `rank` spaces the
reference's different scores evenly from 0 to 1, however often each occurs. `tilt: t` makes u into
(exp(t * u) - 1) / (exp(t) - 1), and leaves u as it is at t = 0. That is the paper's exponential transform exp(t * u),
shifted and scaled to [0, 1] so that it always increases: t above 0 favours the best as best-of-n does, t below 0 shuns
the worst.

Neither changes the order of two scores (though `rank` gives scores beyond the reference's ends the same value), so
best-of-n picks as before. What changes are weighted votes, thresholds, and scores of different judges that are mixed.

Departures: the paper trains a policy on the transformed reward, here it only decides at inference; the reference is the
candidates themselves, or those from one node, where the paper draws afresh from a reference policy; equal scores count
half, so that a judge that grades everything alike gives 0.5.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from inferloom.core.errors import UnknownNameError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, scores_of


class CalibrateParams(Params):
    """Parameters of `calibrate`."""

    by: str = Field(min_length=1, description="The score to calibrate, by name")
    name: str = Field("calibrated", min_length=1, description="The name of the new score; the old one stays")
    method: Literal["quantile", "rank"] = Field(
        "quantile",
        description="The share of the reference that scores lower, or the rank among its different scores",
        json_schema_extra={"search": ["quantile", "rank"]},
    )
    tilt: float | None = Field(
        None,
        ge=-30,  # below it, places near the best round to the same number
        le=100,
        description="Bends the place u, from 0 to 1: above 0 it favours the best, below 0 it shuns the worst",
        json_schema_extra={"search": [1.0, 4.0, 10.0]},
    )
    reference: str | None = Field(
        None,
        min_length=1,
        description="The path of the node whose candidates are the reference, such as `steps/0`; without it all"
        " candidates",
        json_schema_extra={"path": True},
    )


@register_node("calibrate")
class Calibrate(Node):
    """Add the rank or quantile of a score among the question's reference samples as a new score."""

    Params = CalibrateParams
    params: CalibrateParams
    paper = "https://arxiv.org/abs/2412.19792"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"by": "judge", "tilt": 4.0}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        scores = scores_of(candidates, params.by, context)
        reference = self._reference(candidates, scores, context)
        place = quantile if params.method == "quantile" else relative_rank
        places = [place(score, reference) for score in scores]
        if params.tilt is not None:
            places = [tilted(u, params.tilt) for u in places]
        return NodeOutput(
            candidates=tuple(
                candidate.with_score(params.name, value) for candidate, value in zip(candidates, places, strict=True)
            )
        )

    def _reference(self, candidates: Sequence[Candidate], scores: Sequence[float], context: NodeContext) -> list[float]:
        """The reference's scores in ascending order."""
        path = self.params.reference
        if path is None:
            return sorted(scores)
        chosen = [score for candidate, score in zip(candidates, scores, strict=True) if comes_from(candidate, path)]
        if not chosen:
            made = {candidate.origin["node"] for candidate in candidates}
            raise UnknownNameError("origin of candidates", path, made, where=context.path)
        return sorted(chosen)


def comes_from(candidate: Candidate, path: str) -> bool:
    """Whether the node at a path, or one inside it, made the candidate."""
    node = candidate.origin["node"]
    return node == path or node.startswith(f"{path}/")


def quantile(score: float, reference: Sequence[float]) -> float:
    """The share of the ascending reference below a score; equal ones count half."""
    return (bisect_left(reference, score) + bisect_right(reference, score)) / (2 * len(reference))


def tilted(u: float, tilt: float) -> float:
    """A place in [0, 1] on the increasing exponential curve from (0, 0) to (1, 1); convex for a tilt above 0."""
    if tilt == 0:
        return u
    return math.expm1(tilt * u) / math.expm1(tilt)


def relative_rank(score: float, reference: Sequence[float]) -> float:
    """The rank of a score among the reference's different scores: 0 the lowest, 1 the highest, halfway between two.

    Beyond an end it is that of the end; where the reference has one score only, 0.5 for that, 0 below and 1 above.
    """
    ranks = sorted(set(reference))
    # Twice the rank from 0, so that a score between two stands at an odd number.
    doubled = bisect_left(ranks, score) + bisect_right(ranks, score) - 1
    if len(ranks) == 1:
        return (doubled + 1) / 2
    return min(1.0, max(0.0, doubled / (2 * (len(ranks) - 1))))
