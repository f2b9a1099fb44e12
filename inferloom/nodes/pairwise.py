"""Compare the candidates two at a time; the score of each is the share of its comparisons that it won.

Pairwise ranking prompting (arXiv 2306.17563), in which every pair is shown in both orders and a tie counts half to
each. With `both_orders` a judge that always prefers the first place gives every candidate one half: its bias cancels.
With `pairs` each candidate meets only that many others, so that the calls grow with the number of candidates and not
with its square. Departures: the paper counts a pair whose two orders disagree as one tie, here each order counts by
itself, which gives the same sums; the model names a winner in words (role `rank` with two options) where the paper may
also compare likelihoods; `pairs` draws a balanced schedule at random, where the paper sorts; equal texts count as one
candidate, and a candidate that nothing was compared with scores one half. A reply without a letter is a tie and is
reported as the event `parse_failed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import gather, incoming
from inferloom.nodes.grading import ask_order, distinct, hand_on


class PairwiseParams(Params):
    """Parameters of `pairwise`."""

    model: str = Field(min_length=1, description="The model that compares", json_schema_extra={"model": True})
    pairs: int | None = Field(
        None,
        ge=1,
        le=1023,
        description="Others that each candidate is compared with, drawn at random; without it all of them",
        json_schema_extra={"search": [1, 2, 4]},
    )
    both_orders: bool = Field(
        True,
        description="Show each pair in both orders, which cancels a preference for a place; else in a random one",
        json_schema_extra={"search": [True, False]},
    )
    name: str = Field("pairwise", min_length=1, description="The score's name")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature")
    max_tokens: int = Field(64, ge=1, le=1_000_000, description="The longest reply, in tokens")


@register_node("pairwise")
class Pairwise(Node):
    """Score every candidate by the share of pairwise comparisons that it wins."""

    Params = PairwiseParams
    params: PairwiseParams
    paper = "https://arxiv.org/abs/2306.17563"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large", "pairs": 2}

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
        # Equal texts count as one candidate, and one alone is compared with nothing.
        rivals = min(candidates - 1, candidates if self.params.pairs is None else self.params.pairs)
        pairs = candidates * (rivals // 2) + (rivals % 2) * ((candidates + 1) // 2) if candidates > 1 else 0
        return 0, pairs * (2 if self.params.both_orders else 1)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        rivals = distinct(candidates)
        games = self._games(len(rivals), context.rng)
        if not games:
            return hand_on(candidates, {rivals[0].text: 0.5}, self.params.name, context)
        results, refusal = await gather(
            self._compare([rivals[position] for position in game], state, context) for game in games
        )
        points: dict[str, list[float]] = {}
        for game, result in zip(games, results, strict=True):
            if result is not None:
                for position, point in zip(game, result, strict=True):
                    points.setdefault(rivals[position].text, []).append(point)
        if refusal and not points:
            raise refusal
        shares = {text: sum(won) / len(won) for text, won in points.items()}
        return hand_on(candidates, shares, self.params.name, context, refusal)

    def _games(self, count: int, rng: Random) -> list[tuple[int, int]]:
        """The comparisons, each as (position of the first shown, of the second)."""
        places = list(range(count))
        rng.shuffle(places)
        pairs = [(places[one], places[other]) for one, other in schedule(count, self.params.pairs)]
        if self.params.both_orders:
            return [game for one, other in pairs for game in ((one, other), (other, one))]
        return [(one, other) if rng.random() < 0.5 else (other, one) for one, other in pairs]

    async def _compare(self, shown: Sequence[Candidate], state: NodeState, context: NodeContext) -> tuple[float, float]:
        """What the first and the second shown get: one point to the winner, or half to each."""
        params = self.params
        order = await ask_order(shown, params.model, state, context, params.temperature, params.max_tokens)
        if not order:
            return 0.5, 0.5
        return (1.0, 0.0) if order[0] == 0 else (0.0, 1.0)


def schedule(count: int, rivals: int | None) -> list[tuple[int, int]]:
    """Pairs of places such that each place meets `rivals` others (all, where there are no more or None is given).

    On a circle each place meets its next neighbours on both sides, and for an odd number also the place opposite; where
    that does not come out even (odd number, odd circle), one place meets one other more.
    """
    if rivals is None or rivals >= count - 1:
        return [(one, other) for one in range(count) for other in range(one + 1, count)]
    pairs = [(one, (one + step) % count) for step in range(1, rivals // 2 + 1) for one in range(count)]
    if rivals % 2:
        pairs += [(one, one + count // 2) for one in range((count + 1) // 2)]
    return pairs
