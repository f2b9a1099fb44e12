"""The contract suite over every registered node, with its example and with parameters that take its other branches."""

from collections.abc import Sequence

import pytest

from inferloom.core.types import Candidate, Message
from inferloom.nodes import reward_model
from inferloom.nodes.base import NODES
from inferloom.nodes.rewarder import Judged
from inferloom.nodes.scorers import register_scorer
from inferloom.nodes.testing import NodeCase, NodeContract


@register_scorer("contract/short")
def short(question: str, candidate: Candidate) -> float:
    return 1 / (1 + len(candidate.text))


class FakeRewarder:
    """Stands in for a model of the hub: longer answers are better."""

    async def judge(
        self, conversation: Sequence[Message], texts: Sequence[str], *, batch: int, max_tokens: int
    ) -> Judged:
        return Judged(tuple([len(text) / 100, 0.5] for text in texts), sum(map(len, texts)), 0.0)


@pytest.fixture(autouse=True)
def no_reward_model_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model, "rewarder", lambda *named: FakeRewarder())


VARIANTS = [
    NodeCase(
        "sample", {"model": ["small", "large"], "n": 2, "logprobs": True, "system": "Be brief.", "stop": ["\n\n"]}
    ),
    NodeCase("sample", {"model": "small", "examples": [{"question": "1 + 1?", "answer": "A: 2"}], "temperature": 0}),
    NodeCase("vote", {"weight": "judge"}),
    NodeCase("score", {"method": "logprob"}),
    NodeCase("score", {"model": "large", "expected": True, "name": "grade"}),
    NodeCase("score", {"method": "callable", "scorer": "contract/short"}),
    NodeCase("pairwise", {"model": "large"}),
    NodeCase("pairwise", {"model": "large", "pairs": 3, "both_orders": False, "temperature": 0.5, "name": "wins"}),
    NodeCase("listwise", {"model": "large", "points": "borda", "window": 3, "votes": 1, "name": "borda"}),
    NodeCase("generative_reward", {"model": "large", "votes": 2, "window": 3}),
    NodeCase("generative_reward", {"model": "large", "votes": 3, "keep_votes": 1, "meta": "small", "name": "grm"}),
    NodeCase("score_steps", {"model": "large", "aggregate": "last", "expected": True}),
    NodeCase("score_steps", {"model": "large", "aggregate": "product", "max_steps": 2}),
    NodeCase("score_steps", {"model": "large", "aggregate": "mean", "step": "paragraph"}),
    NodeCase("score_steps", {"model": "large", "aggregate": "clip", "eta": 0.7}),
    NodeCase("score_steps", {"model": "large", "aggregate": "delta", "alpha": 0.3, "name": "delta"}),
    NodeCase("score_criteria", {"model": "large", "most": 2, "correctness": 0.7}),
    NodeCase(
        "score_criteria",
        {"model": "large", "criteria": [{"name": "Brief", "weight": 2.0, "rubric": "One line: 5."}, {"name": "Kind"}]},
    ),
    NodeCase("reward_model", {"path": "a/b", "label": 1, "batch": 2, "device": "cpu", "revision": "v1"}),
    NodeCase("reward_model", {"path": "a/b", "normalise": False, "name": "raw"}),
    NodeCase("rank", {"by": "judge", "top_k": 1}),
    NodeCase("rank", {"model": "large", "window": 2}),
    NodeCase("fuse", {"model": "large", "n": 3, "keep": True}),
]


@pytest.mark.parametrize("case", [*(NodeCase(name) for name in NODES.names()), *VARIANTS], ids=str)
class TestNodes(NodeContract):
    pass


@pytest.mark.parametrize("case", [NodeCase("score", {"method": "logprob", "tokens": "min"})], ids=str)
class TestNodesThatReadOtherScores(NodeContract):
    score_names = ("judge", "min_logprob")
