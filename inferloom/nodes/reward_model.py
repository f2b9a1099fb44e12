"""Score every candidate by a trained reward model: any sequence classifier of the package `transformers`.

The model reads the conversation with the candidate as its last turn, in its own chat template or, where it has none, as
a pair of texts (question, candidate). Its output becomes a score in [0, 1]: by the sigmoid for a model with one output,
as in the Bradley-Terry models of Ouyang et al. (arXiv 2203.02155), by the softmax's part of `label` for one with
several. With `normalise: false` the score is the raw output, which has no bounds. Notes and solved examples are not
shown to it. Equal texts are scored once.

It runs in this process, in batches on a thread of its own, and needs the extra `pocket` (torch and transformers). It
makes no calls of a language model, so its work is not metered and no budget holds it yet; the event `reward_model` says
what it took, in seconds and tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from inferloom.core.errors import UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, Message, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming
from inferloom.nodes.grading import distinct, hand_on
from inferloom.nodes.rewarder import rewarder


class RewardModelParams(Params):
    """Parameters of `reward_model`."""

    path: str = Field(min_length=1, description="The model's folder, or its name on the Hugging Face hub")
    revision: str | None = Field(None, min_length=1, description="Which version of it, on the hub")
    label: int = Field(0, ge=0, le=1023, description="The output that counts, of a model with several")
    normalise: bool = Field(True, description="Bring the score to [0, 1]; otherwise it is the raw output")
    batch: int = Field(8, ge=1, le=1024, description="Candidates scored at once")
    max_tokens: int = Field(4096, ge=16, le=1_000_000, description="The longest text; more is cut off at its beginning")
    device: str | None = Field(
        None, min_length=1, description="Where it runs; without it the accelerator, else the CPU"
    )
    name: str = Field("reward_model", min_length=1, description="The score's name")


@register_node("reward_model")
class RewardModel(Node):
    """Score every candidate by a trained reward model that runs in this process."""

    Params = RewardModelParams
    params: RewardModelParams
    paper = "https://arxiv.org/abs/2203.02155"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"path": "Skywork/Skywork-Reward-V2-Qwen3-0.6B"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        texts = [candidate.text for candidate in distinct(candidates)]
        judged = await rewarder(params.path, params.revision, params.device).judge(
            state.messages or (Message("user", state.question),),
            texts,
            batch=params.batch,
            max_tokens=params.max_tokens,
        )
        context.emit(
            "reward_model",
            {"model": params.path, "texts": len(texts), "tokens": judged.tokens, "seconds": judged.seconds},
        )
        scores = {text: self._score(row, context) for text, row in zip(texts, judged.rows, strict=True)}
        return hand_on(candidates, scores, params.name, context)

    def _score(self, row: Sequence[float], context: NodeContext) -> float:
        label = self.params.label
        if label >= len(row):
            raise UserError(f"label is {label}; the model has {len(row)} outputs, from 0 on", where=context.path)
        if not all(map(math.isfinite, row)):
            raise UserError(f"the model `{self.params.path}` gave an output that is not a number", where=context.path)
        return bounded(row, label) if self.params.normalise else row[label]


def bounded(row: Sequence[float], label: int) -> float:
    """An output as a score in [0, 1]: the sigmoid of the only one, or its part of the softmax over several."""
    outputs = row if len(row) > 1 else (row[0], 0.0)
    top = max(outputs)
    parts = [math.exp(output - top) for output in outputs]
    return parts[label] / math.fsum(parts)
