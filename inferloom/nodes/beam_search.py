"""Search step by step: keep the partial solutions that a judge likes best, and draw several next steps of each.

Step-level beam search as the `search-and-learn` recipes run it, after Snell et al. (arXiv 2408.03314): in each
iteration one step is drawn for each of n beams, partial solutions are judged, those that ended are set aside, and the
best n / width of the others are continued, `width` times each. Departures: the judge is a prompted model, not a trained
process reward model; the search ends when n solutions have ended, since the recipe then returns n; every solution that
ended is handed on (at most 2n - 1), best first, instead of n with repetitions; a beam that its own step limit cut in
the middle of a step goes on, where the recipe takes it for complete; equal partial texts are judged once.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import register_node
from inferloom.nodes.stepping import Partial, SearchWalk, StepSearch, WidthParams


class BeamSearchParams(WidthParams):
    """Parameters of `beam_search`."""

    distinct: bool = Field(
        False,
        description="Count beams with the same text as one when the best are chosen",
        json_schema_extra={"search": [False, True]},
    )


@register_node("beam_search")
class BeamSearch(StepSearch):
    """Write solutions step by step, always going on with the partial ones that a judge grades best."""

    Params = BeamSearchParams
    params: BeamSearchParams
    paper = "https://arxiv.org/abs/2408.03314"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "judge": "large", "n": 4, "width": 2}

    def calls(self, candidates: int) -> tuple[int, int]:
        # Least: all end with the first step and say the same. Most: every step is drawn, and every text is new.
        return self.params.n + 1, 2 * self.params.n * self.params.max_steps

    def new_candidates(self) -> int:
        # Fewer than n have ended before the last iteration, which adds n at most.
        return self.params.n if self.params.max_steps == 1 else 2 * self.params.n - 1

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        walk = SearchWalk(self.params, state, context)
        ended: list[Partial] = []
        beams = [Partial()] * self.params.n
        while beams and len(ended) < self.params.n and walk.refusal is None:
            grown = await walk.step(beams)
            ended += [part for part in grown if part.end]
            going = walk.best_first(part for part in grown if not part.end)
            beams = going if walk.refusal else self._continued(going)
        left = beams if walk.refusal else []
        return walk.output([*walk.best_first(ended), *left])

    def _continued(self, going: list[Partial]) -> list[Partial]:
        """The best n / width, best first, repeated in turn until there are n."""
        if self.params.distinct:
            texts = [part.text for part in going]
            going = [part for place, part in enumerate(going) if part.text not in texts[:place]]
        kept = going[: self.params.n // self.params.width]
        return [kept[index % len(kept)] for index in range(self.params.n)] if kept else []
