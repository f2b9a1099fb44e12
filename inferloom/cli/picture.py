"""A pipeline drawn in characters: layers of boxes from question to answer; other edges are listed below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferloom.cli.output import clean

if TYPE_CHECKING:
    from inferloom.pipelines.graph import Edge
    from inferloom.pipelines.spec import PipelineSpec, StepSpec

_MOST_PARAMETERS = 4
_WIDEST = 30


def picture(spec: PipelineSpec) -> str:
    """The drawing, as lines of text."""
    layers = _layers(spec)
    named = spec.graph.conditional
    rows = [_side_by_side([_box(_label(spec.step(path), named)) for path in layer]) for layer in layers]
    width = max(len(line) for row in rows for line in row)
    lines = ["question".center(width).rstrip()]
    for row in rows:
        lines += ["│".center(width).rstrip(), "▼".center(width).rstrip()]
        lines += [line.center(width).rstrip() for line in row]
    lines += ["│".center(width).rstrip(), "▼".center(width).rstrip(), "answer".center(width).rstrip()]
    level = {path: number for number, layer in enumerate(layers) for path in layer}
    aside = [edge for edge in spec.graph.edges if edge.conditional or level[edge.target] != level[edge.source] + 1]
    if aside:
        forks = {edge.source for edge in spec.graph.edges if edge.conditional}
        aside += [edge for edge in spec.graph.edges if edge.source in forks and edge not in aside]
        lines += ["", *(_edge(edge, edge.source in forks) for edge in sorted(aside, key=spec.graph.edges.index))]
    return "\n".join(lines)


def _layers(spec: PipelineSpec) -> list[list[str]]:
    """The nodes' paths by the longest way from the start."""
    graph = spec.graph
    level: dict[str, int] = {}
    for path in graph.order:
        before = [edge.source for edge in graph.into(path) if edge not in graph.loop_edges]
        level[path] = 1 + max((level[source] for source in before), default=-1)
    layers: list[list[str]] = [[] for _ in range(1 + max(level.values()))]
    for path in graph.order:
        layers[level[path]].append(path)
    return layers


def _label(step: StepSpec, named: bool) -> list[str]:
    """What stands in a node's box; with its path where edges are listed by paths, or the user chose it."""
    name = step.node.name
    lines = [f"{step.path}: {name}" if (named or not step.path.startswith("steps/")) and step.path != name else name]
    raw = step.raw[name] if isinstance(step.raw, dict) else None
    if isinstance(raw, dict):
        shown = list(raw.items())
        lines += [_short(f"{key}: {_value(value)}") for key, value in shown[:_MOST_PARAMETERS]]
        lines += ["..."] * (len(shown) > _MOST_PARAMETERS)
    return lines


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return "none" if value is None else "{...}" if isinstance(value, dict) else str(value)


def _short(text: str) -> str:
    line = " ".join(clean(text).split())
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"


def _box(lines: list[str]) -> list[str]:
    width = max(len(line) for line in lines)
    return [f"┌{'─' * (width + 2)}┐", *(f"│ {line:<{width}} │" for line in lines), f"└{'─' * (width + 2)}┘"]


def _side_by_side(boxes: list[list[str]]) -> list[str]:
    height = max(len(box) for box in boxes)
    padded = [box + [" " * len(box[0])] * (height - len(box)) for box in boxes]
    return ["  ".join(parts) for parts in zip(*padded, strict=True)]


def _edge(edge: Edge, fork: bool) -> str:
    """An edge in words; `fork`: its node has edges that are taken on a condition."""
    conditions = [f"if {edge.when.text}"] if edge.when else []
    if edge.arm is not None:
        conditions.append(f"arm {edge.arm}")
    elif edge.at_most is not None:
        conditions.append(f"back, at most {edge.at_most}x")
    elif edge.when is None and fork:
        conditions.append("otherwise")
    return f"{edge.source} ⇢ {edge.target}" + (f"   ({', '.join(conditions)})" if conditions else "")
