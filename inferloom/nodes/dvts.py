"""Search step by step in several trees that do not compete, so that the solutions stay different.

Diverse verifier tree search (Beeching, Tunstall and Rush, 2024, the `search-and-learn` recipes), a variant of the beam
search of Snell et al. (arXiv 2408.03314): n / width independent trees; in each iteration `width` steps are drawn in
each tree, and the tree goes on with the one that a judge grades best. Departures: the judge is a prompted model, not a
trained process reward model; the recipe hands on all siblings of each tree's last step, finished or not, while here
exactly those solutions are handed on that ended, also those that a better, unfinished sibling beat; a tree ends when
its best one has ended or when `width` of its solutions have; equal partial texts are judged once.
"""

from __future__ import annotations

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import register_node
from inferloom.nodes.stepping import Partial, SearchWalk, StepSearch, WidthParams


class DvtsParams(WidthParams):
    """Parameters of `dvts`."""


@register_node("dvts")
class Dvts(StepSearch):
    """Write solutions step by step in n / width independent trees, going on with each tree's best step."""

    Params = DvtsParams
    params: DvtsParams
    paper = "https://arxiv.org/abs/2408.03314"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "judge": "large", "n": 4, "width": 2}

    def calls(self, candidates: int) -> tuple[int, int]:
        # Least: all end with the first step and say the same. Most: every step is drawn, and every text is new.
        return self.params.n + 1, 2 * self.params.n * self.params.max_steps

    def new_candidates(self) -> int:
        # In a tree, fewer than `width` have ended before its last iteration, which adds `width` at most.
        n, width = self.params.n, self.params.width
        return n if self.params.max_steps == 1 else n // width * (2 * width - 1)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        walk = SearchWalk(self.params, state, context)
        width = self.params.width
        trees = [_Tree() for _ in range(self.params.n // width)]
        while walk.refusal is None and (growing := [tree for tree in trees if tree.tip is not None]):
            grown = await walk.step([tree.tip for tree in growing for _ in range(width) if tree.tip is not None])
            for index, tree in enumerate(growing):
                tree.take(grown[index * width : (index + 1) * width], walk)
        ended = walk.best_first(part for tree in trees for part in tree.ended)
        left = walk.best_first(part for tree in trees for part in tree.left) if walk.refusal else []
        return walk.output([*ended, *left])


class _Tree:
    """One tree: where it goes on, what ended in it, and what of its last step did not."""

    def __init__(self) -> None:
        self.tip: Partial | None = Partial()
        self.ended: list[Partial] = []
        self.left: list[Partial] = []

    def take(self, siblings: list[Partial], walk: SearchWalk) -> None:
        """Choose among the tree's new steps."""
        self.ended += [part for part in siblings if part.end]
        self.left = [part for part in siblings if not part.end]
        best = max(siblings, key=walk.score)  # the first of equals
        self.tip = None if best.end or len(self.ended) >= len(siblings) else best
