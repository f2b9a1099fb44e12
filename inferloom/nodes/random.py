"""Keep k candidates chosen by chance: the control against which every selection has to show its worth.

No paper's technique. A selector that does not beat it, with the same candidates before it, selects nothing. The choice
comes from the run's seed, so it is the same in every repetition, and its order is random too: the first of the chosen
is as likely any candidate as another.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming


class RandomParams(Params):
    """Parameters of `random`."""

    k: int = Field(1, ge=1, le=1024, description="Candidates to keep", json_schema_extra={"search": [1, 2, 4]})


@register_node("random")
class Random(Node):
    """Keep k candidates chosen by chance, as a control."""

    Params = RandomParams
    params: RandomParams

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"k": 1}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one"} if self.params.k == 1 else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, self.params.k)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        return NodeOutput(candidates=tuple(context.rng.sample(candidates, min(len(candidates), self.params.k))))
