from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from inferloom.pipelines import presets
from inferloom.pipelines.draw import mermaid, svg
from inferloom.pipelines.spec import PipelineSpec

LOOP = """
name: "a <b> & c"
models: {small: pocket:small, large: pocket:large}
nodes:
  draw: {sample: {model: small, n: 2, system: 'say "x" <script>alert(1)</script>'}}
  check: {critique: large}
  more: {sample: small}
  pick: vote
edges:
  - [draw, check, pick]
  - {from: check, to: more, when: "candidates < 5"}
  - {from: more, to: check, at_most: 2}
  - [more, pick]
"""
PIPELINES = {**{name: presets.path(name).read_text() for name in presets.names()}, "loop": LOOP}


def test_mermaid_text() -> None:
    text = mermaid(PipelineSpec.load("archon_classic"))
    assert text.startswith('flowchart TD\n    n0["sample<br/>model: small<br/>n: 4"]\n')
    assert "    n0 --> n2\n    n1 --> n2\n" in text
    assert text.endswith("    n4 --> answer\n")


def test_mermaid_escapes_what_would_end_a_label() -> None:
    text = mermaid(PipelineSpec.parse(LOOP))
    assert '-. "candidates #lt; 5" .->' in text
    assert "<script" not in text
    labels = re.findall(r'\["(.*)"\]$', text, re.MULTILINE)
    assert len(labels) == 4
    assert not any('"' in label for label in labels)


@pytest.mark.parametrize("text", PIPELINES.values(), ids=PIPELINES)
def test_pictures_are_the_same_every_time_and_the_svg_is_well_formed(text: str) -> None:
    one, two = PipelineSpec.parse(text), PipelineSpec.parse(text)
    assert (svg(one), mermaid(one)) == (svg(two), mermaid(two))
    root = ElementTree.fromstring(svg(one))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == len(one.steps)
    assert len(root.findall(f"{space}path")) == len(one.graph.edges)
    assert not root.findall(f".//{space}script")
    assert "#" not in svg(one).replace("url(#arrow", "")  # no colours of its own
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [[float(box.attrib[key]) for key in ("x", "y", "width", "height")] for box in root.findall(f"{space}rect")]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for index, (x, y, w, h) in enumerate(boxes):
        for ox, oy, ow, oh in boxes[:index]:
            assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h, "boxes overlap"
