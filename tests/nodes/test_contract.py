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
    NodeCase("fuse", {"model": "large", "n": 3, "keep": True}),
    NodeCase("refine", {"model": "small", "gate": "always", "rounds": 3}),
    NodeCase("refine", {"model": "small", "critic": "large", "gate": "score", "by": "judge", "below": 0.4}),
    NodeCase("verify", {"model": "large", "mode": "score"}),
    NodeCase("verify", {"model": "large", "first_k": 2}),
]


@pytest.mark.parametrize("case", [*(NodeCase(name) for name in NODES.names()), *VARIANTS], ids=str)
class TestNodes(NodeContract):
    pass
