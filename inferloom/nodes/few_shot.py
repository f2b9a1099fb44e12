"""Show solved examples before the question: the nearest ones of a file, random ones, or the first.

The k nearest by embedding cosine are the first part of Medprompt (Nori et al., arXiv 2311.16452). Reasoning-native
models can lose by examples (arXiv 2411.03590): `k: 0` switches the node off, so that a search can find that out for its
models. Departures: the paper has a model write the reasoning of each exemplar and keeps those that came out right, here
the file's answers are shown as they stand; the nearest exemplar comes last, next to the question. As in the paper an
exemplar that is the question itself is left out; so is one that is there already.

The file (JSONL or CSV, relative to the working folder) is read and embedded once per process and again when it changes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inferloom.core.answers import normalise
from inferloom.core.errors import DataError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import order_by
from inferloom.nodes.nearest import Rows, field_of, last_question, similarities


class FewShotParams(Params):
    """Parameters of `few_shot`."""

    examples: str = Field(min_length=1, description="A .jsonl or .csv file of solved questions")
    k: int = Field(
        5, ge=0, le=64, description="Examples to show; 0 switches the node off", json_schema_extra={"search": [0, 2, 5]}
    )
    method: Literal["nearest", "random", "first"] = Field(
        "nearest",
        description="Which examples: nearest to the question by embedding, random ones, or the file's first",
        json_schema_extra={"search": ["nearest", "random"]},
    )
    question: str = Field("question", min_length=1, description="What the file calls the question")
    answer: str = Field("answer", min_length=1, description="What the file calls the whole worked answer")


@register_node("few_shot")
class FewShot(Node):
    """Put k solved examples from a file before the question."""

    Params = FewShotParams
    params: FewShotParams
    paper = "https://arxiv.org/abs/2311.16452"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"examples": "examples.jsonl", "k": 3}

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"examples"} if self.params.k else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        if params.k == 0:
            return NodeOutput()
        rows = context.rows(params.examples)
        if not rows:
            raise DataError("the file has no rows; it needs at least one example", where=params.examples)
        question = last_question(state)
        there = {normalise(question), *(normalise(shown) for shown, _ in state.examples)}
        chosen: list[tuple[str, str]] = []
        for index in await self._order(rows, question, context):
            if len(chosen) == params.k:
                break
            asked = field_of(rows, index, params.question, params.examples)
            if normalise(asked) not in there:
                there.add(normalise(asked))
                chosen.append((asked, field_of(rows, index, params.answer, params.examples)))
        if params.method == "nearest":
            chosen.reverse()
        return NodeOutput(examples=(*state.examples, *chosen))

    async def _order(self, rows: Rows, question: str, context: NodeContext) -> list[int]:
        """Positions of rows in the order in which they are to be taken."""
        params = self.params
        if params.method == "nearest":
            return order_by(await similarities(context, params.examples, rows, params.question, question))
        order = list(range(len(rows)))
        if params.method == "random":
            context.rng.shuffle(order)
        return order
