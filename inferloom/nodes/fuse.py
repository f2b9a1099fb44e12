"""Have a model write new answers from the candidates.

Archon's fuser (arXiv 2409.15254), which is the aggregator of Mixture-of-Agents (arXiv 2406.04692). Departures: it sees
at most as many candidates as the prompt pack shows side by side, the first ones (so rank first), and critiques stand
beside the candidates that they are about.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import candidates_of, converse, draw, incoming, lettered, stop_reason


class FuseParams(Params):
    """Parameters of `fuse`."""

    model: str = Field(min_length=1, description="The model that fuses", json_schema_extra={"model": True})
    n: int = Field(1, ge=1, le=256, description="Fused candidates to write", json_schema_extra={"search": [1, 2, 4]})
    keep: bool = Field(False, description="Keep the old candidates, after the new ones")
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.0, 0.4, 0.8]}
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest completion, in tokens")


@register_node("fuse")
class Fuse(Node):
    """Write n new candidates from those that came in."""

    Params = FuseParams
    params: FuseParams
    paper = "https://arxiv.org/abs/2406.04692"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        one = self.params.n == 1 and not self.params.keep
        return frozenset({"candidates", "one"} if one else {"candidates"})

    @property
    def drops(self) -> frozenset[Thing]:
        # The new candidates have none of these, whatever a kept one has.
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    @property
    def live(self) -> bool:
        return self.params.n == 1

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"fuse"})

    def calls(self, candidates: int) -> tuple[int, int]:
        return self.params.n, self.params.n

    def candidates_out(self, candidates: int) -> int:
        return self.params.n + (candidates if self.params.keep else 0)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        shown = candidates[: context.prompts.options]
        drawn, refusal = await draw(
            context,
            params.model,
            Request(
                messages=converse(state, context, "fuse", {"options": lettered(shown)}),
                n=params.n,
                temperature=params.temperature,
                top_p=params.top_p,
                max_tokens=params.max_tokens,
            ),
        )
        if refusal and not drawn:
            raise refusal
        new = candidates_of(
            context,
            [(params.model, completion) for completion in drawn],
            parents=[candidate.id for candidate in shown],
        )
        kept = candidates if params.keep else ()
        return NodeOutput(candidates=(*new, *kept), stopped=stop_reason(context, refusal))
