"""Keep the candidate with the highest score: best-of-n once something has scored them.

Best-of-n as in Cobbe et al. (arXiv 2110.14168). Ties go to the earliest candidate.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, order_by, scores_of


class BestParams(Params):
    """Parameters of `best`."""

    by: str = Field(min_length=1, description="The score that decides")


@register_node("best")
class Best(Node):
    """Keep the candidate with the highest named score."""

    Params = BestParams
    params: BestParams
    paper = "https://arxiv.org/abs/2110.14168"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"by": "judge"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one"})

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, 1)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        scores = scores_of(candidates, self.params.by, context)
        return NodeOutput(candidates=(candidates[order_by(scores)[0]],))
