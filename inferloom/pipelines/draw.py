"""Pictures of a pipeline: Mermaid text, and an SVG for reports. The same pipeline always gives the same text.

The SVG takes its colours from `currentColor`, so it reads on light and on dark pages alike; it needs no other tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from inferloom.pipelines.graph import Edge
from inferloom.pipelines.spec import PipelineSpec, StepSpec

_MAX_PARAMETERS = 4
_MAX_TEXT = 34
_LINE = 16
_CHARACTER = 6.7
"""Width of one character at the font size used, in pixels; a little generous."""
_GAP_X, _GAP_Y, _MARGIN, _PADDING = 28, 46, 16, 10


def mermaid(spec: PipelineSpec) -> str:
    """The graph as a Mermaid flowchart."""
    names = {step.path: f"n{position}" for position, step in enumerate(spec.steps)}
    lines = ["flowchart TD"]
    for step in spec.steps:
        label = "<br/>".join(_mermaid_text(line) for line in _label(step))
        lines.append(f'    {names[step.path]}["{label}"]')
    lines.append("    question([question])")
    lines.append("    answer([answer])")
    lines += [f"    question --> {names[path]}" for path in spec.graph.starts]
    for edge in spec.graph.edges:
        text = _edge_text(edge)
        arrow = f'-. "{_mermaid_text(text)}" .->' if text else "-->"
        lines.append(f"    {names[edge.source]} {arrow} {names[edge.target]}")
    lines.append(f"    {names[spec.graph.end]} --> answer")
    return "\n".join(lines) + "\n"


def svg(spec: PipelineSpec, ran: Mapping[str, str] | None = None) -> str:
    """The graph as one `<svg>` element.

    Args:
        spec: The pipeline.
        ran: What to say of each node that a run reached, by path, as one more line of its box; the other nodes are
            drawn faint. None: the pipeline by itself.
    """
    labels = {step.path: _label(step) for step in spec.steps}
    for path, note in (ran or {}).items():
        if path in labels:
            labels[path].append(_short(note))
    layout = _Layout(spec, labels)
    title = escape(spec.name)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width} {layout.height}" '
        f'width="{layout.width}" height="{layout.height}" role="img" aria-label="Pipeline {title}" '
        'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="currentColor" stroke="none">',
        f"<title>{title}</title>",
        f'<defs><marker id="{layout.arrow}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>',
    ]
    parts += [_svg_edge(layout, edge) for edge in spec.graph.edges]
    parts += [
        _svg_box(layout.boxes[path], lines, "plain" if ran is None else "reached" if path in ran else "faint")
        for path, lines in labels.items()
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _label(step: StepSpec) -> list[str]:
    """The lines of a node: its name, its id where that says more, its first written parameters."""
    lines = [step.node.name]
    if not step.path.startswith("steps/") and step.path != step.node.name:
        lines[0] = f"{step.path}: {step.node.name}"
    if isinstance(step.raw, dict):
        parameters = step.raw[step.node.name]
        if isinstance(parameters, dict):
            shown = list(parameters.items())
            lines += [_short(f"{name}: {_value(value)}") for name, value in shown[:_MAX_PARAMETERS]]
            if len(shown) > _MAX_PARAMETERS:
                lines.append(f"... {len(shown) - _MAX_PARAMETERS} more")
    return lines


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, dict):
        return "{...}"
    return "null" if value is None else str(value)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."


def _edge_text(edge: Edge) -> str:
    parts = [edge.when.text] if edge.when else [edge.arm] if edge.arm is not None else []
    if edge.at_most is not None:
        parts.append(f"at most {edge.at_most}x")
    return ", ".join(parts)


def _mermaid_text(text: str) -> str:
    """Mermaid's own entities for what would end a quoted label or be read as markup."""
    entities = {'"': "#quot;", "#": "#35;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;", "\\": "#92;"}
    return "".join(entities.get(character, character) for character in text)


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


class _Layout:
    """Layers by longest way from the start; within a layer, nodes stand in the order of what leads to them."""

    def __init__(self, spec: PipelineSpec, labels: Mapping[str, Sequence[str]]) -> None:
        graph = spec.graph
        level: dict[str, int] = {}
        self.back = graph.loop_edges
        for path in graph.order:
            sources = [edge.source for edge in graph.into(path) if edge not in self.back]
            level[path] = 1 + max((level[source] for source in sources), default=-1)
        layers: list[list[str]] = [[] for _ in range(1 + max(level.values()))]
        for path in graph.order:
            layers[level[path]].append(path)
        sizes = {path: _size(lines) for path, lines in labels.items()}
        self.level = level
        self._order(spec, layers)
        widths = [sum(sizes[path][0] for path in layer) + _GAP_X * (len(layer) - 1) for layer in layers]
        inner = max(widths)
        self.boxes: dict[str, _Box] = {}
        y = float(_MARGIN)
        for layer, width in zip(layers, widths, strict=True):
            x = _MARGIN + (inner - width) / 2
            for path in layer:
                self.boxes[path] = _Box(x, y, *sizes[path])
                x += sizes[path][0] + _GAP_X
            y += max(sizes[path][1] for path in layer) + _GAP_Y
        # Edges that pass layers by, or lead back, run in lanes to the right of all else, with their words beside them.
        self.side = [edge for edge in graph.edges if self.aside(edge)]
        reach = [
            self.words_x(edge) + _width(edge) for edge in graph.edges if _edge_text(edge) and edge not in self.side
        ]
        self.right = round(max([_MARGIN + inner, *reach])) + 14
        self.width = self.right + 18 * len(self.side) + round(max(map(_width, self.side), default=0)) + _MARGIN
        # Pages show several pictures: each has its own name for its arrow head.
        self.arrow = f"arrow-{spec.hash[:12]}"
        self.height = round(y - _GAP_Y + _MARGIN)

    def aside(self, edge: Edge) -> bool:
        """Whether an edge does not simply lead to the next layer."""
        return self.level[edge.target] != self.level[edge.source] + 1

    def below(self, path: str) -> float:
        """Where the layer of a node ends."""
        return max(box.bottom for other, box in self.boxes.items() if self.level[other] == self.level[path])

    def words_x(self, edge: Edge) -> float:
        """Where the words of an edge to the next layer begin."""
        return (self.boxes[edge.source].centre + self.boxes[edge.target].centre) / 2 + 6

    @staticmethod
    def _order(spec: PipelineSpec, layers: Sequence[list[str]]) -> None:
        position: dict[str, float] = {}
        for layer in layers:
            means = {}
            for index, path in enumerate(layer):
                above = [position[edge.source] for edge in spec.graph.into(path) if edge.source in position]
                means[path] = sum(above) / len(above) if above else float(index)
            layer.sort(key=lambda path: means[path])
            for index, path in enumerate(layer):
                position[path] = index - (len(layer) - 1) / 2


def _width(edge: Edge) -> float:
    return len(_edge_text(edge)) * _CHARACTER


def _size(lines: Sequence[str]) -> tuple[float, float]:
    width = max(len(line) for line in lines) * _CHARACTER + 2 * _PADDING
    return float(round(max(width, 80))), float(len(lines) * _LINE + 2 * _PADDING - 4)


def _svg_box(box: _Box, lines: Sequence[str], look: Literal["plain", "reached", "faint"]) -> str:
    width = ' stroke-width="2"' if look == "reached" else ' stroke-dasharray="3 3"' if look == "faint" else ""
    parts = [
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="6" '
        f'fill="currentColor" fill-opacity="0.06" stroke="currentColor" stroke-opacity="0.55"{width}/>'
    ]
    for index, line in enumerate(lines):
        last = look == "reached" and index == len(lines) - 1
        style = ' font-weight="600"' if index == 0 or last else ' opacity="0.75"'
        y = box.y + _PADDING + 10 + index * _LINE
        parts.append(f'<text x="{box.centre:g}" y="{y:g}" text-anchor="middle"{style}>{escape(line)}</text>')
    drawn = "".join(parts)
    return f'<g opacity="0.55">{drawn}</g>' if look == "faint" else drawn


def _svg_edge(layout: _Layout, edge: Edge) -> str:
    start, end = layout.boxes[edge.source], layout.boxes[edge.target]
    dashes = ' stroke-dasharray="4 3"' if edge.conditional or edge.arm is not None else ""
    if layout.aside(edge):
        lane = layout.right + 18 * layout.side.index(edge)
        if edge in layout.back:
            leave, arrive = start.y + start.height * 0.65, end.y + end.height * 0.35
            way = f"M{start.x + start.width:g} {leave:g} H{lane:g} V{arrive:g} H{end.x + end.width:g}"
        else:
            # Through the gaps between the layers, so that it crosses no box.
            leave, arrive = layout.below(edge.source) + 10, end.y - 14
            way = f"M{start.centre:g} {start.bottom:g} V{leave:g} H{lane:g} V{arrive:g} H{end.centre:g} V{end.y:g}"
        words_x, words_y = layout.right + 18 * len(layout.side) - 8.0, (leave + arrive) / 2
    else:
        middle = (start.bottom + end.y) / 2
        way = f"M{start.centre:g} {start.bottom:g} C{start.centre:g} {middle:g} {end.centre:g} {middle:g} "
        way += f"{end.centre:g} {end.y:g}"
        words_x, words_y = layout.words_x(edge), middle + 4
    pen = f'fill="none" stroke="currentColor" stroke-opacity="0.7"{dashes} marker-end="url(#{layout.arrow})"'
    line = f'<path d="{way}" {pen}/>'
    text = _edge_text(edge)
    words = f'<text x="{words_x:g}" y="{words_y:g}" opacity="0.75">{escape(text)}</text>' if text else ""
    return line + words
