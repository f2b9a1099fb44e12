"""Have a model review every candidate, step by step.

Archon's critic (arXiv 2409.15254), after Saunders et al. (arXiv 2206.05802), with a verdict for each step as the
critics of AutoMathCritique give it (arXiv 2411.16579). Departures: each candidate is reviewed in a call of its own,
where Archon asks for all reviews in one reply and splits it with a pattern; a step is a line; the critic is a prompted
model and not one trained to criticise. The score `critique` is the share of steps before the first wrong one, 1 where
none is wrong. A review without verdicts, or one cut off before it named a wrong step, says nothing for or against: it
counts 0.5, and the event `parse_failed` tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import ask, converse, gather, incoming, order_by, stop_reason

SCORE = "critique"
"""The score that a review gives."""
NO_CLAIM = 0.5
"""The score of a candidate whose review says neither right nor wrong."""
_VERDICT = re.compile(
    r"^\W{0,6}(?:step|line)?\s{0,3}[0-9]{1,4}\W{0,6}(?:is\s)?(?P<verdict>ok|correct|right|wrong|incorrect)\b",
    re.IGNORECASE,
)
_FINE = frozenset({"ok", "correct", "right"})


class CritiqueParams(Params):
    """Parameters of `critique`."""

    model: str = Field(min_length=1, description="The model that reviews", json_schema_extra={"model": True})
    temperature: float = Field(
        0.0, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.0, 0.4, 0.8]}
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest review, in tokens")


@register_node("critique")
class Critique(Node):
    """Add a review by a model to every candidate, and the score `critique` from its verdicts on the steps."""

    Params = CritiqueParams
    params: CritiqueParams
    paper = "https://arxiv.org/abs/2409.15254"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"critiques", "scores"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({SCORE})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"critique"})

    def calls(self, candidates: int) -> tuple[int, int]:
        return candidates, candidates

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        requests = review_requests(candidates, state, context, params.temperature, params.max_tokens)
        replies, refusal = await gather(ask(context, params.model, request) for request in requests)
        if refusal and not any(replies):
            raise refusal
        reviewed = [
            with_review(candidate, reply, context) if reply else candidate
            for candidate, reply in zip(candidates, replies, strict=True)
        ]
        if refusal:
            # The run ends here with its first candidate: let that be the best of those that were reviewed.
            places = order_by(
                [made.scores[SCORE] if reply else -1.0 for made, reply in zip(reviewed, replies, strict=True)]
            )
            reviewed = [reviewed[place] for place in places]
        return NodeOutput(candidates=tuple(reviewed), stopped=stop_reason(context, refusal))


def review_requests(
    candidates: Sequence[Candidate], state: NodeState, context: NodeContext, temperature: float, max_tokens: int
) -> list[Request]:
    """What asks for the review of each candidate."""
    return [
        Request(
            messages=converse(state, context, "critique", {"candidate": candidate.text}),
            temperature=temperature,
            max_tokens=max_tokens,
        )
        for candidate in candidates
    ]


def with_review(candidate: Candidate, reply: Completion, context: NodeContext) -> Candidate:
    """The candidate with a review and with the score that it gives."""
    share = share_before_wrong(read_verdicts(reply.text), candidate.text)
    if share is None or (share == 1.0 and reply.finish_reason == "length"):
        context.emit("parse_failed", {"role": "critique", "reply": reply.text[:200]})
        share = NO_CLAIM
    return candidate.with_critique(reply.text).with_score(SCORE, share)


def read_verdicts(review: str) -> list[bool]:
    """The verdicts of a review in its order, True for a step that is right; empty where it has none.

    They stand at the beginning of lines, each after its step's number: `1 ok`, `Step 2: wrong: ...`.
    """
    found = (_VERDICT.match(line) for line in review.splitlines())
    return [match["verdict"].lower() in _FINE for match in found if match]


def share_before_wrong(verdicts: Sequence[bool], text: str) -> float | None:
    """The share of lines before the first wrong one; 1 where none is wrong, None without verdicts."""
    if not verdicts:
        return None
    if all(verdicts):
        return 1.0
    steps = sum(1 for line in text.splitlines() if line.strip())
    # A review may end with the first wrong step, so it does not tell how many there are.
    return verdicts.index(False) / max(steps, len(verdicts))
