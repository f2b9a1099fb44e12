"""Composition rules, derived from what nodes require, provide and drop; and how many calls a pipeline will make.

Nothing here knows a node by name. What reaches a node is followed edge by edge: candidates in groups that were made
together, each with what is known of all its members (scores, critiques, tests). Where branches join, candidates add up,
while a score counts only if every group has it. A node that may be skipped promises nothing to those after it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from inferloom.core.errors import CapabilityError, SpecError, nearest
from inferloom.core.protocols import Capabilities
from inferloom.nodes.base import NODES, Node, Thing
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.graph import Edge
from inferloom.pipelines.spec import PipelineSpec, StepSpec

_OF_CANDIDATES: frozenset[Thing] = frozenset({"scores", "critiques", "tests"})
_OF_STATE: frozenset[Thing] = frozenset({"notes", "examples"})
_WORDS: Mapping[Thing, str] = {
    "candidates": "candidates",
    "scores": "scores",
    "critiques": "critiques",
    "tests": "test results",
    "notes": "notes",
    "examples": "examples",
    "one": "exactly one candidate",
}
_PROBE = 64
"""A count of candidates, more than one, on which a node shows whether it keeps, makes or drops some."""


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that stay together: who may have made them, how many at least and most, what all of them have."""

    makers: frozenset[str]
    least: int
    most: int
    things: frozenset[Thing]


@dataclass(frozen=True, slots=True)
class Flow:
    """What is on its way along an edge, or at a node."""

    groups: Mapping[str, Group]
    things: frozenset[Thing]
    """Notes, examples and `one`."""

    @property
    def available(self) -> frozenset[Thing]:
        """All that a node may count on here."""
        return self.things | self.shared | (frozenset[Thing]({"candidates"}) if self.count[0] else frozenset())

    @property
    def shared(self) -> frozenset[Thing]:
        """What all of the candidates have."""
        if not self.groups:
            return frozenset()
        return reduce(frozenset.__and__, (group.things for group in self.groups.values()))

    @property
    def count(self) -> tuple[int, int]:
        """The least and the most candidates."""
        groups = list(self.groups.values())
        most = sum(group.most for group in groups)
        makers = [maker for group in groups for maker in group.makers]
        apart = len(makers) == len(set(makers))
        least = [group.least for group in groups]
        return (sum(least) if apart else max(least, default=0)), most


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one node will do in one run that no limit stops: least and most."""

    path: str
    executions: tuple[int, int]
    candidates_in: tuple[int, int]
    candidates_out: tuple[int, int]
    calls: tuple[int, int]
    least_in_arm: int = 0
    """The least calls where the arms that the node stands in are taken."""


EMPTY = Flow({}, frozenset())


def check_rules(spec: PipelineSpec) -> None:
    """Refuse a pipeline in which a node lacks what it requires.

    Raises:
        SpecError: Names the node, what is missing, and the registered nodes that provide it.
    """
    _check_paths(spec)
    flows = _settled(spec)
    pack = load_pack(spec.prompts)
    for step in spec.steps:
        for role in sorted(step.node.roles.difference(pack.roles)):
            raise spec.document.error(
                step.place,
                f"`{step.node.name}` speaks the role `{role}`, which prompt pack `{pack.name}` has not"
                " (its models were not taught it); use another node or another pack",
            )
        before = _incoming(spec, flows, step.path)
        for thing in _WORDS:
            if thing in step.node.requires and thing not in before.available:
                raise spec.document.error(step.place, _lack(spec, step, thing, before))
        _check_scores(spec, step)
    for edge in spec.graph.edges:
        if edge.when is not None:
            _check_condition(spec, edge, flows[edge.source])
    end = spec.step(spec.graph.end)
    if "candidates" not in flows[end.path].available:
        raise spec.document.error(
            end.place,
            f"the pipeline ends in `{end.path}` without candidates, so it has no answer; {_remedy('candidates')}",
        )


def shape(node: Node) -> Hashable | None:
    """All that `check_rules` sees of a node, without the numbers: pipelines of equal shapes are valid or not alike.

    None for a node that may turn some candidates into none. With it in a pipeline the numbers do count.
    """
    out = [node.candidates_out(count) for count in range(_PROBE + 1)]
    if 0 in out[1:]:
        return None
    # Of candidates the rules ask whether there are any, and what `_after` asks.
    numbers = (out[0] > 0, out[1] == 1, out[_PROBE] == _PROBE, out[_PROBE] == out[1])
    things = (node.requires, node.provides, node.drops, node.roles, node.scores_in, node.scores_out)
    return (node.name, numbers, things, node.paths, node.static, node.oracle, bool(node.model_names))


def _check_paths(spec: PipelineSpec) -> None:
    """Refuse a parameter that names a step which the pipeline has not; a control form stands for the steps in it."""
    known: dict[str, None] = {}
    for step in spec.steps:
        parts = step.path.split("/")
        first = 2 if len(parts) > 1 else 1  # `steps` alone names nothing
        known.update(dict.fromkeys("/".join(parts[:end]) for end in range(first, len(parts) + 1)))
    for step in spec.steps:
        for field, path in step.node.paths:
            if path not in known:
                near = nearest(path, known)
                rest = "" if near else f"; the paths are {', '.join(list(known)[:12])}"
                raise spec.document.error(
                    step.place,
                    f"`{field}` of `{step.node.name}` names the step `{path}`, which is not there{rest}",
                    near,
                )


def _check_scores(spec: PipelineSpec, step: StepSpec) -> None:
    """Refuse a step that reads a score by a name that none before it provides, as far as those say their names."""
    before = [spec.step(path).node for path in spec.graph.ancestors[step.path]]
    if any("scores" in node.provides and not node.scores_out for node in before):
        return
    known = sorted({name for node in before for name in node.scores_out})
    for name in sorted(step.node.scores_in.difference(known)):
        near = nearest(name, known)
        rest = "" if near else f"; the scores before it are {', '.join(known)}"
        raise spec.document.error(
            step.place, f"`{step.node.name}` reads the score `{name}`, which no step before it provides{rest}", near
        )


def check_capabilities(spec: PipelineSpec, capabilities: Mapping[str, Capabilities]) -> None:
    """Refuse a pipeline whose nodes need what a model cannot do.

    Args:
        spec: The pipeline.
        capabilities: What each model can do, by the pipeline's names.

    Raises:
        CapabilityError: Names the model, the node and what is missing.
    """
    for step in spec.steps:
        for model in dict.fromkeys(step.node.model_names):
            there = capabilities[model].names()
            missing = sorted(step.node.needs_of(model).difference(there))
            if missing:
                wanted = " and ".join(f"`{name}`" for name in missing)
                raise CapabilityError(
                    f"`{step.node.name}` needs {wanted}, which model `{model}` ({spec.models[model].model}) has not"
                    f" (it has {', '.join(there) or 'none of the optional capabilities'})",
                    where=spec.where(*step.place),
                )


def check_tools(spec: PipelineSpec, capabilities: Mapping[str, Capabilities]) -> None:
    """Refuse tools for a pipeline that has a node which writes answers and cannot offer them to its models.

    Raises:
        CapabilityError: Names the node, or the model.
    """
    for step in spec.steps:
        if "candidates" not in step.node.provides:
            continue
        where = spec.where(*step.place)
        if not step.node.offers_tools:
            raise CapabilityError(
                f"`{step.node.name}` writes answers and cannot offer tools to its model; with tools, answers must come"
                " from `sample` or `adaptive_sample`",
                where=where,
            )
        for model in step.node.model_names:
            if not capabilities[model].tools:
                raise CapabilityError(
                    f"tools were given, and model `{model}` ({spec.models[model].model}) cannot call any"
                    " (`capabilities: {tools: true}` says that an endpoint can)",
                    where=where,
                )


def predict(spec: PipelineSpec) -> dict[str, Forecast]:
    """Calls and candidates of every node, least and most, by path in declared order.

    For a pipeline without conditions and with static nodes only, least and most are the same.
    """
    rounds = 1 + sum(edge.at_most or 0 for edge in spec.graph.loop_edges)
    flows: dict[str, Flow] = {}
    most: dict[str, int] = dict.fromkeys(spec.graph.paths, 0)
    runs: dict[str, int] = dict.fromkeys(spec.graph.paths, 0)
    first: dict[str, Forecast] = {}
    in_arm = frozenset(
        path for route, arms in spec.graph.routes.items() for arm in arms for path in spec.graph.always_in(route, arm)
    )
    for _ in range(rounds):
        for path in spec.graph.order:
            node = spec.step(path).node
            before = _incoming(spec, flows, path)
            flows[path] = _after(spec.step(path), before)
            low, high = before.count
            least_calls = node.calls(low)[0] if node.static else min(node.calls(low)[0], node.calls(high)[0])
            if path not in first:
                sure = path in spec.graph.always
                first[path] = Forecast(
                    path,
                    (int(sure), spec.graph.executions(path)),
                    before.count,
                    flows[path].count,
                    (least_calls if sure else 0, 0),
                    least_calls if sure or path in in_arm else 0,
                )
            if runs[path] < spec.graph.executions(path):
                runs[path] += 1
                most[path] += max(node.calls(high)[1], node.calls(low)[1])
            seen = first[path]
            first[path] = replace(
                seen,
                candidates_in=_widened(seen.candidates_in, before.count),
                candidates_out=_widened(seen.candidates_out, flows[path].count),
            )
    return {path: replace(first[path], calls=(first[path].calls[0], most[path])) for path in spec.graph.paths}


def _widened(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return min(left[0], right[0]), max(left[1], right[1])


# Following what flows


def _settled(spec: PipelineSpec) -> dict[str, Flow]:
    """What stands after each node, loops followed until nothing changes; what is known only ever shrinks."""
    flows: dict[str, Flow] = {}
    for _ in range(1 + len(spec.graph.loop_edges) * len(spec.steps)):
        before = {path: flow.available for path, flow in flows.items()}
        for path in spec.graph.order:
            flows[path] = _after(spec.step(path), _incoming(spec, flows, path))
        if before == {path: flow.available for path, flow in flows.items()}:
            break
    return flows


def _incoming(spec: PipelineSpec, flows: Mapping[str, Flow], path: str) -> Flow:
    """What reaches a node. Sources not followed yet (loops, first time round) are left out."""
    edges = [edge for edge in spec.graph.into(path) if edge.source in flows]
    if not edges:
        return EMPTY
    ways: dict[Hashable, list[Edge]] = {}
    for edge in edges:
        inside = spec.graph.arms(path)
        ways.setdefault(tuple(arm for arm in spec.graph.arms(edge.source) if arm not in inside), []).append(edge)
    # Of several arms of a route one comes.
    return (
        _either([_by_way(spec, flows, path, way) for way in ways.values()])
        if len(ways) > 1
        else (_by_way(spec, flows, path, edges))
    )


def _by_way(spec: PipelineSpec, flows: Mapping[str, Flow], path: str, edges: list[Edge]) -> Flow:
    together = [flows[edge.source] for edge in edges if _sure(spec, edge)]
    # A start node of a loop comes without any edge the first time.
    if path in spec.graph.starts:
        return _either([EMPTY, *(flows[edge.source] for edge in edges)])
    if len(together) == len(edges):
        return _joined(together)
    alternatives = [flows[edge.source] for edge in edges]
    return _either([_joined(alternatives), *alternatives])


def _sure(spec: PipelineSpec, edge: Edge) -> bool:
    return edge.source in spec.graph.always and spec.graph.certain(edge) and not _looped(spec, edge)


def _looped(spec: PipelineSpec, edge: Edge) -> bool:
    return spec.graph.executions(edge.target) > 1


def _joined(flows: Iterable[Flow]) -> Flow:
    """All of several flows: a group that comes by two ways has what either way added."""
    groups: dict[str, Group] = {}
    everything = list(flows)
    for flow in everything:
        for key, group in flow.groups.items():
            twin = groups.get(key)
            if twin is None:
                groups[key] = group
            else:
                groups[key] = Group(
                    group.makers | twin.makers,
                    max(group.least, twin.least),
                    max(group.most, twin.most),
                    group.things | twin.things,
                )
    of_state = frozenset(thing for flow in everything for thing in flow.things & _OF_STATE)
    one = frozenset[Thing]({"one"} if len(groups) == 1 and all("one" in flow.things for flow in everything) else ())
    return Flow(groups, of_state | one)


def _either(flows: list[Flow]) -> Flow:
    """Any one of several flows, not known which: only what all of them promise."""
    of_state = reduce(frozenset.__and__, (flow.things for flow in flows))
    some = [flow for flow in flows if flow.groups]
    if not some:
        return Flow({}, of_state)
    counts = [flow.count for flow in flows]
    makers = frozenset(maker for flow in some for group in flow.groups.values() for maker in group.makers)
    shared = reduce(frozenset.__and__, (flow.shared for flow in some))
    key = "|".join(sorted({key for flow in some for key in flow.groups}))
    group = Group(makers, min(low for low, _ in counts), max(high for _, high in counts), shared)
    return Flow({key: group}, of_state)


def _after(step: StepSpec, before: Flow) -> Flow:
    node = step.node
    low, high = before.count
    most = node.candidates_out(high)
    least = node.candidates_out(low) if node.static else min(1, node.candidates_out(low))
    makes = "candidates" in node.provides
    keeps_all = not makes and node.candidates_out(_PROBE) == _PROBE
    state = ((before.things & _OF_STATE) - node.drops) | (node.provides & _OF_STATE)
    still_one = "one" in before.things and "one" not in node.drops and node.candidates_out(1) == 1
    one = frozenset[Thing]({"one"} if "one" in node.provides or still_one else ())
    if keeps_all:
        groups = {
            key: replace(group, things=((group.things - node.drops) | node.provides) & _OF_CANDIDATES)
            for key, group in before.groups.items()
        }
        return Flow(groups, state | one)
    if not makes and not before.groups:
        return Flow({}, state)
    inherited = frozenset(maker for group in before.groups.values() for maker in group.makers)
    if makes:
        # A node whose output does not grow with its input hands on none of it.
        passes_on = node.candidates_out(_PROBE) != node.candidates_out(1)
        makers = frozenset({step.path}) | (inherited if passes_on else frozenset())
    else:
        makers = inherited
    things = ((before.available - node.drops) | node.provides) & _OF_CANDIDATES
    return Flow({step.path: Group(makers, least, most, things)}, state | one)


# Messages


def _lack(spec: PipelineSpec, step: StepSpec, thing: Thing, before: Flow) -> str:
    word = _WORDS[thing]
    if thing == "candidates":
        problem = f"`{step.node.name}` needs candidates, but nothing before it makes any"
    elif thing == "one":
        problem = f"`{step.node.name}` needs exactly one candidate, but more may come to it"
    elif any(thing in spec.step(path).node.provides for path in spec.graph.ancestors[step.path]):
        problem = f"`{step.node.name}` needs {word}, but not every candidate that comes to it has them"
    else:
        problem = f"`{step.node.name}` needs {word}, but nothing before it provides them"
    return f"{problem}; {_remedy(thing)}"


def _remedy(thing: Thing) -> str:
    able = _providers(thing)
    if not able:
        return "no registered node provides it"
    named = f"`{able[0]}`" if len(able) == 1 else ", ".join(f"`{name}`" for name in able[:-1]) + f" or `{able[-1]}`"
    return f"put {named} before it"


def _providers(thing: Thing) -> list[str]:
    """Registered nodes that provide something and do not need it themselves, judged with their example parameters."""
    found = []
    for name, kind in NODES:
        example = getattr(kind, "example", None)
        raw = example() if callable(example) else {}
        try:
            node = kind(kind.Params.model_validate(raw))
        except ValueError:
            continue
        if thing in node.provides and thing not in node.requires:
            found.append(name)
    return found


def _check_condition(spec: PipelineSpec, edge: Edge, flow: Flow) -> None:
    condition = edge.when
    assert condition is not None
    place = (*edge.place, "when")
    if "candidates" not in flow.available and not condition.needs_usage:
        raise spec.document.error(
            place,
            f"`{condition.text}` looks at candidates, but there are none after `{edge.source}`; "
            + _remedy("candidates"),
        )
    if condition.score is not None and "scores" not in flow.available:
        raise spec.document.error(
            place,
            f"`{condition.text}` looks at scores, but not every candidate after `{edge.source}` has them; "
            + _remedy("scores"),
        )
    if condition.needs_usage:
        beside = [
            step.path
            for step in spec.steps
            if step.path != edge.source
            and step.node.model_names
            and edge.source not in spec.graph.ancestors[step.path]
            and step.path not in spec.graph.ancestors[edge.source]
        ]
        if beside:
            raise spec.document.error(
                place,
                f"`{condition.text}` would depend on timing, since `{beside[0]}` runs beside `{edge.source}`; "
                "put the condition after the branches join",
            )


__all__ = ["Flow", "Forecast", "SpecError", "check_capabilities", "check_rules", "check_tools", "predict", "shape"]
