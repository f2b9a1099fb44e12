"""Sample solutions step by step as a particle filter: good partial solutions multiply, bad ones die out.

Particle filtering of Puri et al. (arXiv 2502.01618). n particles each draw a step; a judge's score s of the partial
solution gives the weight logit(s), which is not multiplied over steps; where the effective sample size of the softmax
of the weights is low, n particles are drawn anew from it. A particle that ended is never extended, keeps its weight and
stays in the pool, where it may multiply or vanish. Nothing is resampled after the last step. Departures: the judge is a
prompted model, not a trained process reward model; resampling can be systematic and can wait for a low effective sample
size (`ess` 1 is the paper's: always); all particles are handed on, copies included, so that a vote counts the filter's
own sample: the finished ones in front, then by descending weight; the best finished solution that resampling lost is
handed on too; the last step that the limit allows runs to the end of the text; equal partial texts are judged once.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Literal

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import register_node
from inferloom.nodes.stepping import Partial, SearchWalk, StepParams, StepSearch


class ParticleFilterParams(StepParams):
    """Parameters of `particle_filter`."""

    n: int = Field(4, ge=1, le=256, description="Particles", json_schema_extra={"search": [4, 8, 16]})
    resampling: Literal["multinomial", "systematic"] = Field(
        "multinomial",
        description="How particles are drawn anew: each by itself, or at even distances (less noise)",
        json_schema_extra={"search": ["multinomial", "systematic"]},
    )
    ess: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Resample where the effective share of particles is below this; 1: always, 0: never",
        json_schema_extra={"search": [0.5, 1.0]},
    )
    clip: float = Field(1e-7, gt=0, lt=0.5, description="Scores are held this far from 0 and 1 before the logit")


@register_node("particle_filter")
class ParticleFilter(StepSearch):
    """Draw solutions step by step, replacing weak partial ones by copies of strong ones."""

    Params = ParticleFilterParams
    params: ParticleFilterParams
    paper = "https://arxiv.org/abs/2502.01618"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "judge": "large", "n": 4}

    def calls(self, candidates: int) -> tuple[int, int]:
        # Least: all end with the first step and say the same. Most: every step is drawn, and every text is new.
        return self.params.n + 1, 2 * self.params.n * self.params.max_steps

    def new_candidates(self) -> int:
        # Beside the particles, the best one that resampling lost; a single particle cannot be lost.
        lost = self.params.n > 1 and self.params.max_steps > 1 and self.params.ess > 0
        return self.params.n + (1 if lost else 0)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        walk = SearchWalk(self.params, state, context)
        pool = [Partial()] * self.params.n
        best: Partial | None = None
        while walk.refusal is None and (going := [place for place, part in enumerate(pool) if not part.end]):
            for place, grown in zip(going, await walk.step([pool[place] for place in going]), strict=True):
                pool[place] = grown
            finished = [part for part in (*pool, best) if part is not None and part.end == "finished"]
            best = max(finished, key=walk.score, default=None)
            if walk.refusal is None and any(not part.end for part in pool):
                pool = self._resampled(pool, walk, context.rng)
        if best is not None and best not in pool:
            pool.append(best)
        return walk.output(walk.best_first(pool))

    def _resampled(self, pool: list[Partial], walk: SearchWalk, rng: Random) -> list[Partial]:
        weights = softmax([logit(walk.score(part), self.params.clip) for part in pool])
        if self.params.ess < 1 and effective_size(weights) / len(pool) >= self.params.ess:
            return pool
        draw = systematic if self.params.resampling == "systematic" else multinomial
        return [pool[place] for place in draw(weights, rng)]


def logit(score: float, clip: float) -> float:
    """The log-odds of a score, held away from 0 and 1."""
    held = min(max(score, clip), 1 - clip)
    return math.log(held / (1 - held))


def softmax(values: Sequence[float]) -> list[float]:
    """Weights that sum to 1."""
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    whole = math.fsum(powers)
    return [power / whole for power in powers]


def effective_size(weights: Sequence[float]) -> float:
    """How many equally weighted particles the weights are worth (Kish)."""
    return 1 / math.fsum(weight * weight for weight in weights)


def multinomial(weights: Sequence[float], rng: Random) -> list[int]:
    """As many places as there are weights, each drawn by itself."""
    return rng.choices(range(len(weights)), weights, k=len(weights))


def systematic(weights: Sequence[float], rng: Random) -> list[int]:
    """Places at even distances from one random start: place i comes floor(n w_i) or ceil(n w_i) times."""
    count, start = len(weights), rng.random()
    reached = list(accumulate(weights))
    last = bisect_left(reached, reached[-1])  # rounding must not lead behind the last place that has a weight
    return [min(bisect_right(reached, (index + start) / count * reached[-1]), last) for index in range(count)]
