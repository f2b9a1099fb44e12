"""What `langgraph.json` names is a graph that LangGraph's server can run: compiled, without a checkpointer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from langgraph.graph.state import CompiledStateGraph

ROOT = Path(__file__).parents[2]


def test_every_graph_of_langgraph_json_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    named = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    assert named
    for place in named.values():
        file, _, variable = place.partition(":")
        spec = importlib.util.spec_from_file_location("studio_example", ROOT / file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        graph = getattr(module, variable)
        assert isinstance(graph, CompiledStateGraph)
        assert graph.checkpointer is None
