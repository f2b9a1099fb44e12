"""The contract suite over every registered node, with its example and with parameters that take its other branches."""

import pytest

from inferloom.nodes import reward_model
from inferloom.nodes.base import NODES
from inferloom.nodes.testing import NodeCase, NodeContract
from tests.support.node_cases import FILES, VARIANTS, FakeRewarder


@pytest.fixture(autouse=True)
def no_reward_model_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model, "rewarder", lambda *named: FakeRewarder())


@pytest.mark.parametrize("case", [*(NodeCase(name, None, FILES) for name in NODES.names()), *VARIANTS], ids=str)
class TestNodes(NodeContract):
    def test_scores_that_it_provides_have_names(self, case: NodeCase) -> None:
        node = case.make()
        assert "scores" not in node.provides or node.scores_out


@pytest.mark.parametrize("case", [NodeCase("score", {"method": "logprob", "tokens": "min"})], ids=str)
class TestNodesThatReadOtherScores(NodeContract):
    score_names = ("judge", "min_logprob")
