"""Order the candidates, by a score or by a model that compares them side by side, and keep the first.

Archon's ranker (arXiv 2409.15254). More candidates than `window` are ranked as RankGPT does (arXiv 2304.09542): a
window slides from the last candidates to the first in steps of half its width, so that good ones rise. Departures:
candidates whose letters the reply leaves out keep their order at the end of their window, and a reply without letters
changes nothing and is reported as the event `parse_failed`, where Archon passes it for a ranking.

`method: tournament` puts the candidates through single elimination instead, two in a call; one pass of LLM-Blender's
bubble sort (arXiv 2306.02561) finds the best in n - 1 comparisons too. Departures: the matches of a round run at once,
an untrained model compares, and the first of two that tie goes on. Only the winner is found with care; the others stand
by the round that they reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.bracket import single_elimination
from inferloom.nodes.common import incoming, order_by, scores_of, stop_reason
from inferloom.nodes.grading import ask_order, check_window


class RankParams(Params):
    """Parameters of `rank`: either `by` or `model`."""

    by: str | None = Field(None, min_length=1, description="The score to order by, highest first")
    model: str | None = Field(
        None, min_length=1, description="The model that compares the candidates", json_schema_extra={"model": True}
    )
    method: Literal["listwise", "tournament"] = Field(
        "listwise",
        description="How the model compares: windows of several side by side, or single elimination in pairs",
        json_schema_extra={"search": ["listwise", "tournament"]},
    )
    both_orders: bool = Field(
        False, description="Compare each pair of a tournament twice, with the places swapped; a split is a tie"
    )
    top_k: int | None = Field(
        None, ge=1, le=1024, description="Candidates to keep; without it all", json_schema_extra={"search": [1, 2, 4]}
    )
    window: int = Field(
        4,
        ge=2,
        le=26,
        description="Candidates compared in one call (listwise); at most what the pack shows side by side",
    )
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the comparing model")
    max_tokens: int = Field(64, ge=1, le=1_000_000, description="The longest reply, in tokens")

    @model_validator(mode="after")
    def _one_way(self) -> RankParams:
        if (self.by is None) == (self.model is None):
            raise ValueError("rank needs exactly one of `by` (a score) and `model` (one that compares)")
        if self.method == "tournament" and self.model is None:
            raise ValueError("rank with method `tournament` needs `model`, the model that compares")
        if self.both_orders and self.method != "tournament":
            raise ValueError("`both_orders` is for method `tournament`; leave it out")
        return self


@register_node("rank")
class Rank(Node):
    """Order the candidates best first and keep the top k."""

    Params = RankParams
    params: RankParams
    paper = "https://arxiv.org/abs/2304.09542"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large", "top_k": 3}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.by else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"one"} if self.params.top_k == 1 else ())

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by} if self.params.by else ())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"rank"} if self.params.model else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        compared = len(window_starts(candidates, self.params.window)) if self.params.model else 0
        if self.params.method == "tournament":
            compared = max(0, candidates - 1) * (2 if self.params.both_orders else 1)
        return compared, compared

    def candidates_out(self, candidates: int) -> int:
        return min(candidates, self.params.top_k or candidates)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        refusal: BudgetExceededError | None = None
        if self.params.by is not None:
            order = order_by(scores_of(candidates, self.params.by, context))
            ranked = [candidates[position] for position in order]
        elif self.params.method == "tournament":

            async def duel(first: int, second: int) -> int | None:
                order = await self._order([candidates[first], candidates[second]], state, context)
                return (first, second)[order[0]] if order else None

            order, refusal = await single_elimination(len(candidates), duel, both_orders=self.params.both_orders)
            ranked = [candidates[position] for position in order]
        else:
            ranked, refusal = await self._compare(candidates, state, context)
        return NodeOutput(candidates=tuple(ranked[: self.params.top_k]), stopped=stop_reason(context, refusal))

    async def _compare(
        self, candidates: Sequence[Candidate], state: NodeState, context: NodeContext
    ) -> tuple[list[Candidate], BudgetExceededError | None]:
        """The candidates ordered by the model; cut short by the budget, as far as it came."""
        width = self.params.window
        check_window(width, len(candidates), context)
        ranked = list(candidates)
        for count, start in enumerate(window_starts(len(ranked), width)):
            window = ranked[start : start + width]
            try:
                named = await self._order(window, state, context)
            except BudgetExceededError as refusal:
                if count == 0:
                    raise
                return ranked, refusal
            order = named + [position for position in range(len(window)) if position not in named]
            ranked[start : start + width] = [window[position] for position in order]
        return ranked, None

    async def _order(self, window: Sequence[Candidate], state: NodeState, context: NodeContext) -> list[int]:
        """The positions that the model names, best first; none where its reply cannot be read."""
        params = self.params
        assert params.model is not None  # the parameters have exactly one of `by` and `model`
        return await ask_order(window, params.model, state, context, params.temperature, params.max_tokens)


def window_starts(count: int, width: int) -> list[int]:
    """Where the windows over `count` candidates start, last first; none where there is nothing to compare."""
    if count < 2:
        return []
    return [*range(count - width, 0, -max(1, width // 2)), 0]
