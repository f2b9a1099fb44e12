"""Every registered node as the tests use it: the files that examples name, and parameters that take other branches."""

from __future__ import annotations

from collections.abc import Sequence

from inferloom.core.types import Candidate, Json, Message
from inferloom.nodes.rewarder import Judged
from inferloom.nodes.scorers import register_scorer
from inferloom.nodes.testing import NodeCase

FILES: dict[str, list[dict[str, Json]]] = {
    "examples.jsonl": [{"question": f"What is {n} + 3?", "answer": f"{n} + 3\nA: {n + 3}"} for n in range(8)],
    "documents.jsonl": [{"text": text} for text in ("Numbers add up.", "Cats sleep.", "Addition is a sum.")],
}
DIGITS: list[Json] = list("0123456789")


@register_scorer("contract/short")
def short(question: str, candidate: Candidate) -> float:
    return 1 / (1 + len(candidate.text))


@register_scorer("contract/long")
def long(question: str, candidate: Candidate) -> float:
    return 1 - 1 / (1 + len(candidate.text))


class FakeRewarder:
    """Stands in for a model of the hub: longer answers are better."""

    async def judge(
        self, conversation: Sequence[Message], texts: Sequence[str], *, batch: int, max_tokens: int
    ) -> Judged:
        return Judged(tuple([len(text) / 100, 0.5] for text in texts), sum(map(len, texts)), 0.0)


VARIANTS = [
    NodeCase("adaptive_sample", {"model": "small", "n": 9, "stop": "agreement", "least": 3, "system": "Be brief."}),
    NodeCase("adaptive_sample", {"model": "small", "n": 5, "threshold": 0.8, "batch": 2}),
    NodeCase("adaptive_sample", {"model": "small", "n": 1}),
    NodeCase("adaptive_sample", {"model": "small", "n": 5, "stop": "self_eval", "judge": "large"}),
    NodeCase("adaptive_sample", {"model": "small", "n": 4, "stop": "self_eval", "expected": True, "batch": 3}),
    NodeCase("adaptive_sample", {"model": "small", "n": 5, "stop": "prune", "judge": "large", "keep": 0.4}),
    NodeCase("gauge", {"agreement": 1.0, "logprob": 2.0, "grade": 3.0, "by": "judge"}),
    NodeCase("calibrate", {"by": "judge", "method": "rank", "reference": "steps/0", "name": "place"}),
    NodeCase("calibrate", {"by": "logprob", "tilt": -3}),
    NodeCase("top_k", {"by": "judge", "k": 1}),
    NodeCase("random", {"k": 3}),
    NodeCase(
        "sample", {"model": ["small", "large"], "n": 2, "logprobs": True, "system": "Be brief.", "stop": ["\n\n"]}
    ),
    NodeCase("sample", {"model": "small", "examples": [{"question": "1 + 1?", "answer": "A: 2"}], "temperature": 0}),
    NodeCase("sample", {"model": "small", "n": 3, "plan": True, "style": "step_by_step"}),
    NodeCase("sample", {"model": ["small", "large"], "n": 3, "plan": True, "plans": 2, "logprobs": True}),
    NodeCase("sample", {"model": "small", "n": 2, "style": ["plain", "step_by_step", "program"]}),
    NodeCase("sample", {"model": "small", "style": "program", "plan": True, "plans": 9}),
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
    NodeCase("speculative_thinking", {"draft": "small", "model": "large", "n": 3, "begin_tokens": 9, "keep": True}),
    NodeCase(
        "speculative_thinking",
        {"draft": "small", "model": "large", "step": "\n", "positive": ["draw", *DIGITS], "max_segments": 5},
    ),
    NodeCase(
        "speculative_thinking",
        {
            "draft": "small",
            "model": "large",
            "n": 2,
            "step": "\n",
            "choose": "disagreement",
            "negative": ["draw", *DIGITS],
            "negative_limit": 1,
        },
    ),
    NodeCase(
        "speculative_thinking",
        {
            "draft": "small",
            "model": "large",
            "step": "\n",
            "choose": "disagreement",
            "verify": ["draw", *DIGITS],
            "max_segments": 4,
        },
    ),
    NodeCase("nudging", {"nudger": "small", "model": "large", "threshold": 0.7, "max_rounds": 3, "keep": True}),
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
    NodeCase("rank", {"model": "large", "method": "tournament"}),
    NodeCase("rank", {"model": "large", "method": "tournament", "both_orders": True, "top_k": 1}),
    NodeCase("program_check", {"model": "large", "mode": "score", "name": "checked"}),
    NodeCase("unit_tests", {"model": "large", "cap": 1, "name": "passed", "temperature": 0.5}),
    NodeCase("fuse", {"model": "large", "n": 3, "keep": True}),
    NodeCase("few_shot", {"examples": "examples.jsonl", "k": 2, "method": "random"}, FILES),
    NodeCase("few_shot", {"examples": "examples.jsonl", "k": 9, "method": "first"}, FILES),
    NodeCase("few_shot", {"examples": "no file is read", "k": 0}),
    NodeCase("rerank", {"model": "large", "criteria": "inferred", "batch": 1}),
    NodeCase("rerank", {"model": "large", "criteria": [{"name": "depth", "weight": 1.0}], "least": 0, "keep": 1}),
    NodeCase("recall", {"memory": "sums", "mode": "whole", "limit": 20}),
    NodeCase("recall", {"memory": "sums", "mode": "empty", "examples": "notes"}),
    NodeCase("recall", {"memory": "sums", "kinds": ["example"], "k": 1}),
    NodeCase("recall", {"memory": "sums", "mode": "retrieve_synthesize", "model": "large", "max_tokens": 9}),
    NodeCase("curate", {"memory": "sums", "model": "large", "k": 2, "max_tokens": 99}),
    NodeCase("curate", {"memory": "sums", "mode": "cumulative", "model": "large", "limit": None}),
    NodeCase("curate", {"memory": "sums", "feedback": "verifier", "by": "judge", "least": 1.5, "below": 0.5}),
    NodeCase("curate", {"memory": "sums", "mode": "full_history", "feedback": "label"}),
    NodeCase("retrieve", {"documents": "documents.jsonl", "k": 1, "least": 0.9}, FILES),
    NodeCase("retrieve", {"documents": "no file is read", "k": 0}),
    NodeCase("safety", {"mode": "judge", "model": "large", "rules": "Be kind."}),
    NodeCase("shuffle_choices", {"model": "large", "n": 2, "temperature": 0, "top_p": 0.9, "max_tokens": 9}),
    NodeCase("refine", {"model": "small", "gate": "always", "rounds": 3}),
    NodeCase("refine", {"model": "small", "critic": "large", "gate": "score", "by": "judge", "below": 0.4}),
    NodeCase("verify", {"model": "large", "mode": "score"}),
    NodeCase("verify", {"model": "large", "first_k": 2}),
]
