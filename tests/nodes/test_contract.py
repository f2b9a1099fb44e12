"""The contract suite over every registered node, with its example and with parameters that take its other branches."""

import pytest

from inferloom.nodes.base import NODES
from inferloom.nodes.testing import NodeCase, NodeContract

VARIANTS = [
    NodeCase(
        "sample", {"model": ["small", "large"], "n": 2, "logprobs": True, "system": "Be brief.", "stop": ["\n\n"]}
    ),
    NodeCase("sample", {"model": "small", "examples": [{"question": "1 + 1?", "answer": "A: 2"}], "temperature": 0}),
    NodeCase("beam_search", {"model": "small", "step": "\n\n", "n": 3, "width": 3, "expected": True, "keep": True}),
    NodeCase("beam_search", {"model": "small", "n": 1, "width": 1, "max_steps": 3, "distinct": True, "name": "grade"}),
    NodeCase("dvts", {"model": "small", "step": "\n\n", "n": 4, "width": 1, "aggregate": "product"}),
    NodeCase("dvts", {"model": "small", "n": 6, "width": 3, "max_steps": 4, "aggregate": "mean", "keep": True}),
    NodeCase("mcts", {"model": "small", "simulations": 5, "selection": "uct", "exploration": 0.5, "aggregate": "min"}),
    NodeCase("mcts", {"model": "small", "value": "rollout", "rollouts": 2, "max_steps": 3, "expected": True}),
    NodeCase("mcts", {"model": "small", "step": "\n\n", "simulations": 3, "width": 2, "max_steps": 1, "keep": True}),
    NodeCase("particle_filter", {"model": "small", "n": 3, "max_steps": 5, "resampling": "systematic", "ess": 0.5}),
    NodeCase("particle_filter", {"model": "small", "step": "\n\n", "ess": 0, "aggregate": "min", "keep": True}),
    NodeCase("particle_filter", {"model": "small", "n": 1, "max_steps": 1}),
    NodeCase("vote", {"weight": "judge"}),
    NodeCase("score", {"method": "logprob"}),
    NodeCase("score", {"model": "large", "expected": True, "name": "grade"}),
    NodeCase("rank", {"by": "judge", "top_k": 1}),
    NodeCase("rank", {"model": "large", "window": 2}),
    NodeCase("fuse", {"model": "large", "n": 3, "keep": True}),
]


@pytest.mark.parametrize("case", [*(NodeCase(name) for name in NODES.names()), *VARIANTS], ids=str)
class TestNodes(NodeContract):
    pass
