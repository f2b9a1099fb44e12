"""Search for a solution in a tree of steps, spending more on the branches that have paid so far.

Monte Carlo tree search with the three parts apart: the policy draws next steps (`_Policy`), the value says what a
partial solution is worth (`_Value`: a judge's grade of it, or the mean grade of solutions played out from it), the
search decides where to look (`puct`, `uct` and `back_up` of `tree.py`). Rules of choice: PUCT of AlphaZero (arXiv
1712.01815) as Bag of Tricks (arXiv 2502.07191) uses it, or UCT. Answers are voted as in LLM Reasoners (arXiv
2404.05221): an answer's total is the sum of the rewards of all nodes on the way to a solution that gives it, each
counted once; the best solution of the winning answer comes first. Departures: the judge is a prompted model, not a
trained reward model; equal steps drawn from one node are one child, whose prior is their share of the draws; steps that
end a solution are graded when drawn; where no solution ended, `width` are played out from the best partial one; no
commitment move by move, no noise at the root.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import register_node
from inferloom.nodes.stepping import Partial, SearchWalk, StepParams, StepSearch
from inferloom.nodes.tree import Branch, back_up, puct, uct, voted

_EXPLORATION = {"puct": 1.25, "uct": 1.0}


class MctsParams(StepParams):
    """Parameters of `mcts`."""

    simulations: int = Field(
        8, ge=1, le=1000, description="Times that the tree is walked down", json_schema_extra={"search": [4, 8, 16]}
    )
    width: int = Field(
        3, ge=1, le=64, description="Steps drawn from a partial solution", json_schema_extra={"search": [2, 3, 4]}
    )
    selection: Literal["puct", "uct"] = Field(
        "puct", description="The rule that chooses among steps", json_schema_extra={"search": ["puct", "uct"]}
    )
    exploration: float | None = Field(
        None,
        ge=0,
        le=100,
        description="How much untried steps count; without it 1.25 for puct, 1 for uct",
        json_schema_extra={"search": [0.5, 1.0, 2.0]},
    )
    value: Literal["judge", "rollout"] = Field(
        "judge",
        description="What a partial solution is worth: its grade, or the mean grade of solutions played out from it",
        json_schema_extra={"search": ["judge", "rollout"]},
    )
    rollouts: int = Field(1, ge=1, le=64, description="Solutions played out from a node (value rollout)")


@register_node("mcts")
class Mcts(StepSearch):
    """Search a tree of steps by simulations and let the answers found vote with the rewards that support them."""

    Params = MctsParams
    params: MctsParams
    paper = "https://arxiv.org/abs/2404.05221"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "judge": "large", "simulations": 4, "width": 2}

    def calls(self, candidates: int) -> tuple[int, int]:
        params, (drawn, looked) = self.params, self._sizes()
        if params.value == "judge":
            played = params.width if params.max_steps > 1 else 0
            return params.width + 1, 2 * (drawn + played)
        # Every step drawn is graded at most once, itself or through the solutions played out from it.
        return params.width + 1, 2 * drawn + looked * (2 * params.rollouts - 1)

    def _sizes(self) -> tuple[int, int]:
        """The most steps that are drawn, and the most unfinished solutions that are valued."""
        params, inner, level = self.params, 0, 1
        for _ in range(params.max_steps):
            inner += level
            level *= params.width
            if inner >= params.simulations:
                break
        drawn = params.width * min(inner, params.simulations)
        return drawn, min(params.simulations, drawn) if params.max_steps > 1 else 0

    def new_candidates(self) -> int:
        drawn, looked = self._sizes()
        if self.params.value == "rollout":
            return drawn + looked * self.params.rollouts
        return drawn + (self.params.width if self.params.max_steps > 1 else 0)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        walk, root = SearchWalk(self.params, state, context), Branch(Partial())
        policy, value = _Policy(walk, self.params.width), _Value(walk, self.params)
        for _ in range(self.params.simulations):
            node = self._descend(root)
            if not node.part.end and (node.visits or node is root):
                await policy.expand(node)
                node = self._descend(node)
            if walk.refusal is None:
                await value.of(node)
            if walk.refusal is not None:
                break
            back_up(node, walk.score(node.part))
        if walk.refusal is None and self.params.value == "judge":
            await self._make_sure(root, walk, value)
        return walk.output(voted(root, walk))

    def _descend(self, node: Branch) -> Branch:
        """The leaf to which the rule of choice leads; of equals the likelier, then the first."""
        rule = puct if self.params.selection == "puct" else uct
        weight = self.params.exploration
        weight = _EXPLORATION[self.params.selection] if weight is None else weight
        while node.children:
            visits = node.visits
            node = max(node.children, key=lambda child: (rule(child, visits, weight), child.prior))
        return node

    async def _make_sure(self, root: Branch, walk: SearchWalk, value: _Value) -> None:
        """Play the best partial solution out where none ended."""
        nodes = list(root.below())
        leaves = [node for node in nodes if not node.part.end and not node.children]
        if leaves and not any(node.part.end == "finished" for node in nodes):
            await value.play(max(leaves, key=lambda node: walk.score(node.part)), self.params.width)


class _Policy:
    """Draws the next steps of a partial solution."""

    def __init__(self, walk: SearchWalk, width: int) -> None:
        self._walk = walk
        self._width = width

    async def expand(self, node: Branch) -> None:
        drawn = [part for part in await self._walk.extend([node.part] * self._width) if part is not None]
        alike: dict[tuple[str, str], list[Partial]] = {}
        for part in drawn:
            alike.setdefault((part.text, part.end), []).append(part)
        parts = [parts[0] for parts in alike.values()]
        ended = iter(await self._walk.judge([part for part in parts if part.end]))
        for part, copies in zip(parts, alike.values(), strict=True):
            node.children.append(Branch(next(ended) if part.end else part, node, len(copies) / len(drawn)))


class _Value:
    """Says what a partial solution is worth."""

    def __init__(self, walk: SearchWalk, params: MctsParams) -> None:
        self._walk = walk
        self._params = params

    async def of(self, node: Branch) -> None:
        """Leave the worth of a node as the score of its last step."""
        if node.part.end or self._params.value == "judge":
            [node.part] = await self._walk.judge([node.part])
            return
        await self.play(node, self._params.rollouts)
        grades = [played.part.scores[-1] for played in node.played if played.part.judged]
        if grades:
            node.part = node.part.with_score(math.fsum(grades) / len(grades))

    async def play(self, node: Branch, count: int) -> None:
        """Write solutions from a node to their end, and grade them."""
        drawn = await self._walk.extend([node.part] * count, to_the_end=True)
        parts = await self._walk.judge([part for part in drawn if part is not None])
        node.played += [Branch(part, node) for part in parts]
