"""The shape of a pipeline: edges, their conditions, where it begins and ends, which node comes before which.

Knows paths and edges only, neither YAML nor LangGraph.

A node's edges out are either *conditional* (`when`, `at_most` on an edge that leads back, or the arm of a `route`) or
plain. After the node every conditional edge that holds is taken; where none holds, or there is none, all plain ones
are. Of the arms of a route a run takes one; their nodes have paths that begin with the route's path and the arm.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from inferloom.core.answers import normalise
from inferloom.core.errors import SpecError, nearest
from inferloom.core.types import Usage

SUBJECTS = ("agreement", "candidates", "best.<score>", "mean.<score>", "calls", "tokens")
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_OPPOSITES = {"<": ">=", ">=": "<", ">": "<=", "<=": ">"}
MAX_AT_MOST = 100
JOIN = "join"
"""The last part of the path at which the arms of a route come together."""

_CONDITION = re.compile(r"\s*([A-Za-z_]+)(?:\.([A-Za-z_][\w.-]*))?\s*(<=|>=|==|=|!=|<|>)\s*(\S+)\s*")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Condition:
    """`subject operator value`, such as `agreement < 0.5` or `best.judge >= 0.8`."""

    subject: Literal["agreement", "candidates", "best", "mean", "calls", "tokens"]
    score: str | None
    operator: str
    value: float
    text: str

    @property
    def needs_usage(self) -> bool:
        """Whether it looks at what the run has spent."""
        return self.subject in ("calls", "tokens")

    def opposite(self) -> Condition | None:
        """The condition that holds exactly where this one does not; None for `==`, which has none here."""
        sign = _OPPOSITES.get(self.operator)
        if sign is None:
            return None
        name, _, number = self.text.split(" ")
        return replace(self, operator=sign, text=f"{name} {sign} {number}")

    def holds(
        self, answers: Sequence[str | None], scores: Sequence[Mapping[str, float]], spent: Usage | None = None
    ) -> bool:
        """Whether it holds for candidates, given by their answers and their scores, and what the run has spent.

        Raises:
            SpecError: No candidate has the score that it names.
        """
        return OPERATORS[self.operator](self._measure(answers, scores, spent), self.value)

    def _measure(
        self, answers: Sequence[str | None], scores: Sequence[Mapping[str, float]], spent: Usage | None
    ) -> float:
        if self.subject == "agreement":
            return agreement(answers)
        if self.subject == "candidates":
            return len(answers)
        if self.score is not None:
            values = [named[self.score] for named in scores if self.score in named]
            if not values:
                known = sorted({name for named in scores for name in named})
                raise SpecError(
                    f"the condition `{self.text}` finds no candidate with the score `{self.score}`"
                    + (f"; the scores are {', '.join(known)}" if known else "; the candidates have no scores"),
                    suggestion=nearest(self.score, known),
                )
            return max(values) if self.subject == "best" else sum(values) / len(values)
        usage = spent or Usage()
        return usage.calls if self.subject == "calls" else usage.tokens


def agreement(answers: Sequence[str | None]) -> float:
    """The share of the most common answer among all candidates, in [0, 1]; no answer agrees with none."""
    counts = Counter(normalise(answer) for answer in answers if answer is not None)
    return max(counts.values()) / len(answers) if counts else 0.0


def parse_condition(text: str) -> Condition:
    """The condition that a text says.

    Raises:
        SpecError: It is not `subject operator number`; without a place, which the caller knows.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise SpecError(
            f"the condition `{text}` must read `subject operator number`, such as `agreement < 0.5`; "
            f"subjects are {', '.join(SUBJECTS)}"
        )
    subject, score, sign, number = match.groups()
    if subject not in ("agreement", "candidates", "best", "mean", "calls", "tokens"):
        near = nearest(subject, [name.partition(".")[0] for name in SUBJECTS])
        raise SpecError(
            f"the condition `{text}` has the unknown subject `{subject}`; it must be one of {', '.join(SUBJECTS)}",
            suggestion=near,
        )
    if (score is not None) != (subject in ("best", "mean")):
        wrong = (
            f"`{subject}` must name a score, as in `{subject}.judge`"
            if score is None
            else f"`{subject}` has no `.{score}`"
        )
        raise SpecError(f"the condition `{text}` is wrong: {wrong}")
    if sign not in OPERATORS:
        raise SpecError(f"the condition `{text}` has the operator `{sign}`; it must be one of {' '.join(OPERATORS)}")
    if not _NUMBER.fullmatch(number):
        raise SpecError(f"the condition `{text}` compares with `{number}`, which is not a number")
    value = float(number)
    if subject == "agreement" and not 0 <= value <= 1:
        raise SpecError(f"the condition `{text}` compares `agreement` with {number}; it must be from 0 to 1")
    name = f"{subject}.{score}" if score else subject
    return Condition(subject, score, sign, value, f"{name} {sign} {number}")  # type: ignore[arg-type] # checked above


@dataclass(frozen=True, slots=True)
class Edge:
    """From one node to another. `place` in the document, for errors."""

    source: str
    target: str
    when: Condition | None = None
    at_most: int | None = None
    place: tuple[str | int, ...] = ()
    arm: str | None = None
    """The arm of a route that it leads into."""
    fallback: bool = False
    """Whether that arm is the one taken where none was chosen."""

    @property
    def conditional(self) -> bool:
        """Whether it may be taken or not."""
        return self.when is not None or self.at_most is not None or (self.arm is not None and not self.fallback)


class Graph:
    """Nodes in declared order and their edges, checked for a shape that can run.

    Raises:
        SpecError: An unbounded or wrong loop, a node off the graph, no way on, several ends. `place` of the fault is
            given to `error(place, message)`, which makes the exception.
    """

    def __init__(
        self,
        paths: Sequence[str],
        edges: Sequence[Edge],
        error: Callable[[tuple[str | int, ...], str], SpecError],
        places: Mapping[str, tuple[str | int, ...]],
    ) -> None:
        self.paths = tuple(paths)
        self.edges = tuple(edges)
        self._position = {path: position for position, path in enumerate(self.paths)}
        self._reach = self._reachable()
        self.loop_edges = frozenset(edge for edge in self.edges if self._leads_back(edge))
        self._check(error, places)
        self.order = self._topological()
        self.starts = tuple(path for path in self.paths if not self._forward_in(path))
        self.end = next(path for path in self.paths if not self._forward_out(path))

    @cached_property
    def conditional(self) -> bool:
        """Whether any edge may be taken or not."""
        return any(edge.conditional for edge in self.edges)

    @cached_property
    def ancestors(self) -> dict[str, frozenset[str]]:
        """For each node the others from which it can be reached."""
        return {
            path: frozenset(other for other in self.paths if path in self._reach[other] and other != path)
            for path in self.paths
        }

    def into(self, path: str) -> list[Edge]:
        """The edges into a node, in declared order."""
        return [edge for edge in self.edges if edge.target == path]

    def out_of(self, path: str) -> list[Edge]:
        """The edges out of a node, in declared order."""
        return [edge for edge in self.edges if edge.source == path]

    def reaches(self, source: str, target: str) -> bool:
        """Whether a way of at least one edge leads from one node to another."""
        return target in self._reach[source]

    @cached_property
    def always(self) -> frozenset[str]:
        """The nodes that run in every run that no limit stops."""
        sure: set[str] = set()
        for path in self.order:
            if path in self.starts or self._follows(path, sure) or self.joins.get(path) in sure:
                sure.add(path)
        return frozenset(sure)

    def always_in(self, route: str, arm: str) -> frozenset[str]:
        """The nodes of an arm that run in every run that takes it and that no limit stops."""
        sure = {edge.target for edge in self.out_of(route) if edge.arm == arm}
        for path in self.order:
            if self.arms(path)[-1:] == ((route, arm),) and (self._follows(path, sure) or self.joins.get(path) in sure):
                sure.add(path)
        return frozenset(sure)

    def _follows(self, path: str, sure: set[str]) -> bool:
        return any(edge.source in sure for edge in self._forward_in(path) if self.certain(edge))

    @cached_property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """The arms of each node that chooses among arms."""
        found: dict[str, dict[str, None]] = {}
        for edge in self.edges:
            if edge.arm is not None:
                found.setdefault(edge.source, {})[edge.arm] = None
        return {path: tuple(arms) for path, arms in found.items()}

    @cached_property
    def joins(self) -> dict[str, str]:
        """The nodes in which the arms of a route come together, each with the route."""
        return {f"{route}/{JOIN}": route for route in self.routes}

    def arms(self, path: str) -> tuple[tuple[str, str], ...]:
        """The arms that a node stands in, the outermost first, each as (path of the route, arm)."""
        return self._arms[path]

    @cached_property
    def _arms(self) -> dict[str, tuple[tuple[str, str], ...]]:
        arms = [(route, arm) for route in sorted(self.routes, key=len) for arm in self.routes[route]]
        return {
            path: tuple((route, arm) for route, arm in arms if path.startswith(f"{route}/{arm}/"))
            for path in self.paths
        }

    def exclusive(self, left: str, right: str) -> bool:
        """Whether two nodes stand in different arms of one route, so that a run comes by one of them at most."""
        mine = dict(self._arms[left])
        return any(mine.get(route, arm) != arm for route, arm in self._arms[right])

    def certain(self, edge: Edge) -> bool:
        """Whether an edge is taken whenever its source runs."""
        return not edge.conditional and not any(other.conditional for other in self.out_of(edge.source))

    def executions(self, path: str) -> int:
        """The most times that a node can run in one run."""
        return 1 + sum(
            edge.at_most or 0 for edge in self.loop_edges if edge.target == path or self.reaches(edge.target, path)
        )

    # Shape

    def _reachable(self) -> dict[str, frozenset[str]]:
        onward: dict[str, list[str]] = {path: [] for path in self.paths}
        for edge in self.edges:
            onward[edge.source].append(edge.target)
        reach: dict[str, frozenset[str]] = {}
        for path in self.paths:
            seen: set[str] = set()
            todo = list(onward[path])
            while todo:
                current = todo.pop()
                if current not in seen:
                    seen.add(current)
                    todo.extend(onward[current])
            reach[path] = frozenset(seen)
        return reach

    def _leads_back(self, edge: Edge) -> bool:
        backward = self._position[edge.target] <= self._position[edge.source]
        in_cycle = edge.source == edge.target or edge.source in self._reach[edge.target]
        return edge.at_most is not None and backward and in_cycle

    def _forward_in(self, path: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == path and edge not in self.loop_edges]

    def _forward_out(self, path: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.source == path and edge not in self.loop_edges]

    def _topological(self) -> tuple[str, ...]:
        """Every node after those that lead to it, loops aside; else in declared order."""
        waiting = {path: len(self._forward_in(path)) for path in self.paths}
        order: list[str] = []
        while waiting:
            ready = next(path for path, left in waiting.items() if left == 0)
            del waiting[ready]
            order.append(ready)
            for edge in self._forward_out(ready):
                waiting[edge.target] -= 1
        return tuple(order)

    def _check(
        self,
        error: Callable[[tuple[str | int, ...], str], SpecError],
        places: Mapping[str, tuple[str | int, ...]],
    ) -> None:
        seen: set[tuple[str, str]] = set()
        for edge in self.edges:
            if (edge.source, edge.target) in seen:
                raise error(edge.place, f"the edge from `{edge.source}` to `{edge.target}` stands there twice")
            seen.add((edge.source, edge.target))
        cycle = self._cycle()
        if cycle:
            way = " -> ".join(f"`{path}`" for path in (*cycle, cycle[0]))
            raise error(
                places[cycle[-1]],
                f"the loop {way} has no exit; give the edge that leads back to the node declared first "
                f"`at_most` (1 to {MAX_AT_MOST}) and, if wanted, `when`",
            )
        for edge in self.edges:
            if edge.at_most is not None and edge not in self.loop_edges:
                raise error(
                    edge.place, "`at_most` is for an edge that leads back to an earlier node; take it away here"
                )
        if len(self.paths) > 1:
            for path in self.paths:
                if not any(path in (edge.source, edge.target) for edge in self.edges):
                    raise error(places[path], f"node `{path}` cannot be reached: no edge leads to it or from it")
        ends = [path for path in self.paths if not self._forward_out(path)]
        if len(ends) > 1:
            named = ", ".join(f"`{path}`" for path in ends)
            raise error(
                places[ends[1]],
                f"the pipeline has {len(ends)} ends ({named}) and must have one; "
                "join them in a node such as `vote` or `fuse`",
            )
        for path in self.paths:
            forward = self._forward_out(path)
            if forward and all(edge.conditional for edge in forward):
                raise error(
                    forward[-1].place,
                    f"every edge on from `{path}` has a condition; add one without, to be taken when none holds",
                )

    def _cycle(self) -> list[str] | None:
        """The nodes of a loop that nothing bounds, or None."""
        onward = {path: [edge.target for edge in self._forward_out(path)] for path in self.paths}
        done: set[str] = set()
        for root in self.paths:
            trail: list[str] = []
            stack: list[tuple[str, int]] = [(root, 0)]
            while stack:
                path, position = stack.pop()
                if position == 0:
                    if path in done:
                        continue
                    if path in trail:
                        return trail[trail.index(path) :]
                    trail.append(path)
                if position < len(onward[path]):
                    stack.append((path, position + 1))
                    stack.append((onward[path][position], 0))
                else:
                    done.add(path)
                    trail.pop()
        return None
