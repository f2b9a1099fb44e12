"""Score the candidates by their ranks in several orders that a model makes of them, shuffled anew each time.

Permutation self-consistency (arXiv 2310.07712): the order in which candidates are shown sways a model, so it ranks them
in several random orders, and the ranks are averaged. More candidates than `window` are ordered in windows of that
width, as many as cover all (the last two may overlap). A candidate's score is the mean of its points over all windows
that show it: for rank r of m, `reciprocal` gives 1/r, `borda` gives (m - r) / (m - 1). Departures: the paper takes the
one ranking that is nearest to all (Kendall tau), which gives no scores; equal texts count as one candidate; candidates
whose letters a reply leaves out share the mean of the ranks' points that are left, and a reply without letters is a tie
of all and is reported as the event `parse_failed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import gather, incoming
from inferloom.nodes.grading import ask_order, check_window, distinct, hand_on

Points = Literal["reciprocal", "borda"]


class ListwiseParams(Params):
    """Parameters of `listwise`."""

    model: str = Field(min_length=1, description="The model that orders", json_schema_extra={"model": True})
    votes: int = Field(
        3, ge=1, le=64, description="Shuffled orders that are ranked", json_schema_extra={"search": [1, 2, 4, 8]}
    )
    window: int = Field(
        4, ge=2, le=26, description="Candidates ordered in one call; at most what the prompt pack shows side by side"
    )
    points: Points = Field(
        "reciprocal", description="What a rank is worth", json_schema_extra={"search": ["reciprocal", "borda"]}
    )
    name: str = Field("listwise", min_length=1, description="The score's name")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature")
    max_tokens: int = Field(64, ge=1, le=1_000_000, description="The longest reply, in tokens")


@register_node("listwise")
class Listwise(Node):
    """Score every candidate by its mean rank in several shuffled orderings by a model."""

    Params = ListwiseParams
    params: ListwiseParams
    paper = "https://arxiv.org/abs/2310.07712"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large", "votes": 2}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"rank"})

    def calls(self, candidates: int) -> tuple[int, int]:
        # Equal texts count as one candidate, and one alone is first without a call.
        return 0, self.params.votes * math.ceil(candidates / self.params.window) if candidates > 1 else 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        shown = distinct(candidates)
        if len(shown) == 1:
            return hand_on(candidates, {shown[0].text: 1.0}, self.params.name, context)
        check_window(self.params.window, len(shown), context)
        windows = []
        for _ in range(self.params.votes):
            context.rng.shuffle(shown)
            windows += cover(shown, self.params.window)
        results, refusal = await gather(self._order(window, state, context) for window in windows)
        points: dict[str, list[float]] = {}
        for window, result in zip(windows, results, strict=True):
            for candidate, point in zip(window, result or (), strict=False):
                points.setdefault(candidate.text, []).append(point)
        if refusal and not points:
            raise refusal
        means = {text: math.fsum(won) / len(won) for text, won in points.items()}
        return hand_on(candidates, means, self.params.name, context, refusal)

    async def _order(self, window: Sequence[Candidate], state: NodeState, context: NodeContext) -> list[float]:
        """The points of each candidate of a window, in the order shown."""
        params = self.params
        order = await ask_order(window, params.model, state, context, params.temperature, params.max_tokens)
        return points_of(order, len(window), params.points)


def cover(candidates: Sequence[Candidate], width: int) -> list[list[Candidate]]:
    """Windows of `width` neighbours that show every candidate; the last reaches back where it would be narrower."""
    last = max(0, len(candidates) - width)
    return [list(candidates[min(at, last) :][:width]) for at in range(0, len(candidates), width)]


def points_of(order: Sequence[int], count: int, points: Points) -> list[float]:
    """What each of `count` positions gets for an order, best first; those left out share the ranks that are left."""
    if points == "reciprocal":
        worth = [1 / rank for rank in range(1, count + 1)]
    else:
        worth = [(count - rank) / (count - 1) for rank in range(1, count + 1)]
    left = worth[len(order) :]
    shared = math.fsum(left) / len(left) if left else 0.0
    got = dict(zip(order, worth, strict=False))
    return [got.get(position, shared) for position in range(count)]
