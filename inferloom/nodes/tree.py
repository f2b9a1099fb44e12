"""The tree of `mcts`: its nodes, the rules that choose among them, and the vote of the solutions found in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from inferloom.core.answers import extract_answer, normalise
from inferloom.nodes.stepping import Partial, SearchWalk

_PUCT_BASE = 19652


@dataclass(eq=False, slots=True)
class Branch:
    """A node of the tree: a partial solution, and what the search knows of it."""

    part: Partial
    parent: Branch | None = None
    prior: float = 1.0
    visits: int = 0
    total: float = 0.0
    children: list[Branch] = field(default_factory=list)
    played: list[Branch] = field(default_factory=list)
    """Solutions played out from here; no part of the tree that is walked."""

    @property
    def mean(self) -> float:
        """The mean reward of the visits."""
        return self.total / self.visits if self.visits else 0.0

    def way(self) -> Iterator[Branch]:
        """Itself and the nodes above it, without the root."""
        node: Branch | None = self
        while node is not None and node.parent is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[Branch]:
        """All nodes under it from the first down, solutions played out included."""
        waiting = [*self.children, *self.played][::-1]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [*node.children, *node.played][::-1]


def puct(child: Branch, visits: int, exploration: float) -> float:
    """AlphaZero's rule for a child of a node with so many visits."""
    weight = exploration + math.log((visits + _PUCT_BASE + 1) / _PUCT_BASE)
    return child.mean + weight * child.prior * math.sqrt(visits) / (1 + child.visits)


def uct(child: Branch, visits: int, exploration: float) -> float:
    """The upper confidence bound of a child of a node with so many visits; infinite where it was not tried."""
    if not child.visits:
        return math.inf
    return child.mean + exploration * math.sqrt(math.log(max(visits, 1)) / child.visits)


def back_up(node: Branch, reward: float) -> None:
    """Count a reward for a node and all above it."""
    up: Branch | None = node
    while up is not None:
        up.visits += 1
        up.total += reward
        up = up.parent


def voted(root: Branch, walk: SearchWalk) -> list[Partial]:
    """The solutions that ended, those of the answer with the largest support first; then, at need, partial ones."""
    nodes = list(root.below())
    supporters: dict[str | None, dict[Branch, None]] = {}
    for node in nodes:
        if node.part.end == "finished":
            supporters.setdefault(_answer(node), {}).update(dict.fromkeys(node.way()))
    totals = {
        answer: math.fsum(max(0.0, walk.score(node.part)) for node in way) if answer is not None else -1.0
        for answer, way in supporters.items()
    }
    finished = [node for node in nodes if node.part.end == "finished"]
    finished.sort(key=lambda node: (-totals[_answer(node)], -walk.score(node.part)))
    cut = [node.part for node in nodes if node.part.end == "cut"]
    open_ends = [node.part for node in nodes if not node.part.end and not node.children] if walk.refusal else []
    return [*(node.part for node in finished), *walk.best_first(cut), *walk.best_first(open_ends)]


def _answer(node: Branch) -> str | None:
    answer = extract_answer(node.part.shown)
    return None if answer is None else normalise(answer)
