"""A node from outside: keep the first candidates, loudly."""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming


class FirstParams(Params):
    """Parameters of `shout/first`."""

    count: int = Field(1, ge=1, description="Candidates to keep")


@register_node("shout/first")
class First(Node):
    """Keep the first candidates that came in."""

    Params = FirstParams
    params: FirstParams

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"count": 1}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one"} if self.params.count == 1 else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, self.params.count)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        context.emit("shout", {"path": context.path.upper()})
        return NodeOutput(candidates=incoming(state, context)[: self.params.count])
