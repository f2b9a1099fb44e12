"""The contract suite over every registered node, with its example and with parameters that take its other branches."""

import pytest

from inferloom.nodes.base import NODES
from inferloom.nodes.testing import NodeCase, NodeContract

VARIANTS = [
    NodeCase(
        "sample", {"model": ["small", "large"], "n": 2, "logprobs": True, "system": "Be brief.", "stop": ["\n\n"]}
    ),
    NodeCase("sample", {"model": "small", "examples": [{"question": "1 + 1?", "answer": "A: 2"}], "temperature": 0}),
    NodeCase("vote", {"weight": "judge"}),
    NodeCase("score", {"method": "logprob"}),
    NodeCase("score", {"model": "large", "expected": True, "name": "grade"}),
    NodeCase("rank", {"by": "judge", "top_k": 1}),
    NodeCase("rank", {"model": "large", "window": 2}),
    NodeCase("program_check", {"model": "large", "mode": "score", "name": "checked"}),
    NodeCase("unit_tests", {"model": "large", "cap": 1, "name": "passed", "temperature": 0.5}),
    NodeCase("fuse", {"model": "large", "n": 3, "keep": True}),
]


@pytest.mark.parametrize("case", [*(NodeCase(name) for name in NODES.names()), *VARIANTS], ids=str)
class TestNodes(NodeContract):
    pass
