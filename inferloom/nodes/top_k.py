"""Keep the k candidates with the highest score, the best first.

Best-of-n's larger sibling: a filter in front of a vote, a fuser or a ranker, as Archon keeps the top of its ranked
candidates (arXiv 2409.15254). Ties go to the earliest candidate. Departure: it orders by a score that some node
recorded; ordering by a model's comparison is `rank`.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, order_by, scores_of


class TopKParams(Params):
    """Parameters of `top_k`."""

    by: str = Field(min_length=1, description="The score that decides")
    k: int = Field(ge=1, le=1024, description="Candidates to keep", json_schema_extra={"search": [1, 2, 4, 8]})


@register_node("top_k")
class TopK(Node):
    """Keep the k candidates with the highest named score, best first."""

    Params = TopKParams
    params: TopKParams
    paper = "https://arxiv.org/abs/2409.15254"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"by": "judge", "k": 4}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one"} if self.params.k == 1 else ())

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, self.params.k)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        order = order_by(scores_of(candidates, self.params.by, context))
        return NodeOutput(candidates=tuple(candidates[position] for position in order[: self.params.k]))
