"""Put a right candidate first: the bound that no selection from the same candidates can pass.

The coverage, or pass@n, of "Large Language Monkeys" (arXiv 2407.21787) as a selector. It looks at the right answer, so
it is marked `oracle` in results and works only inside an evaluation. Departures: a grader that gives parts of a point
puts the best-graded candidate first; all candidates are handed on, and no grade is recorded as a score, so that no node
behind it can read the right answer out of one.
"""

from __future__ import annotations

from inferloom.core.errors import UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, order_by


class OracleParams(Params):
    """`oracle` has no parameters."""


@register_node("oracle")
class Oracle(Node):
    """Put the candidate first that the evaluation's grader finds right: a bound, not a technique."""

    Params = OracleParams
    params: OracleParams
    paper = "https://arxiv.org/abs/2407.21787"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset()

    @property
    def oracle(self) -> bool:
        return True

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        grade = context.oracle
        if grade is None:
            raise UserError(
                "`oracle` looks at the right answer, so it works only inside an evaluation; use `vote` or `best` here",
                where=context.path,
            )
        first = order_by([grade(candidate) for candidate in candidates])[0]
        return NodeOutput(candidates=(candidates[first], *candidates[:first], *candidates[first + 1 :]))
