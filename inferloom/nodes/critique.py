"""Have a model review every candidate.

Archon's critic (arXiv 2409.15254), after Saunders et al. (arXiv 2206.05802). Departure: each candidate is reviewed in a
call of its own, where Archon asks for all reviews in one reply and splits it with a pattern.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import ask, converse, gather, incoming, stop_reason


class CritiqueParams(Params):
    """Parameters of `critique`."""

    model: str = Field(min_length=1, description="The model that reviews", json_schema_extra={"model": True})
    temperature: float = Field(
        0.0, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.0, 0.4, 0.8]}
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest review, in tokens")


@register_node("critique")
class Critique(Node):
    """Add a review by a model to every candidate."""

    Params = CritiqueParams
    params: CritiqueParams
    paper = "https://arxiv.org/abs/2409.15254"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"critiques"})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"critique"})

    def calls(self, candidates: int) -> tuple[int, int]:
        return candidates, candidates

    def candidates_out(self, candidates: int) -> int:
        return candidates

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        replies, refusal = await gather(
            ask(
                context,
                params.model,
                Request(
                    messages=converse(state, context, "critique", {"candidate": candidate.text}),
                    temperature=params.temperature,
                    max_tokens=params.max_tokens,
                ),
            )
            for candidate in candidates
        )
        if refusal and not any(replies):
            raise refusal
        reviewed = tuple(
            candidate.with_critique(reply.text) if reply else candidate
            for candidate, reply in zip(candidates, replies, strict=True)
        )
        return NodeOutput(candidates=reviewed, stopped=stop_reason(context, refusal))
