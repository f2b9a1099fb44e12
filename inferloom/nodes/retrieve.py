"""Put the documents of a file that are nearest to the question into the notes, nearest first.

Dense retrieval by embedding cosine, the first stage that rerankers such as REBEL (arXiv 2504.07104) start from.
Departures: a row is a document as it stands, where the paper cuts documents into overlapping chunks; similarities are
taken to every row of the file, without an index. A document that is a note already is left out.

The file (JSONL, CSV, or .txt with a document a line; relative to the working folder) is read and embedded once per
process and again when it changes.
"""

from __future__ import annotations

from pydantic import Field

from inferloom.core.errors import DataError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import order_by
from inferloom.nodes.nearest import field_of, last_question, similarities


class RetrieveParams(Params):
    """Parameters of `retrieve`."""

    documents: str = Field(min_length=1, description="A .jsonl, .csv or .txt file of documents, one a row")
    k: int = Field(
        5,
        ge=0,
        le=256,
        description="Documents to take; 0 switches the node off",
        json_schema_extra={"search": [0, 3, 10]},
    )
    text: str = Field("text", min_length=1, description="What the file calls the document's text")
    least: float = Field(-1.0, ge=-1, le=1, description="Leave out documents with a lower cosine than this")


@register_node("retrieve")
class Retrieve(Node):
    """Put the k nearest documents of a file into the notes."""

    Params = RetrieveParams
    params: RetrieveParams
    paper = "https://arxiv.org/abs/2504.07104"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"documents": "documents.jsonl", "k": 3}

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"notes"} if self.params.k else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        return 0, 0

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        if params.k == 0:
            return NodeOutput()
        rows = context.rows(params.documents)
        if not rows:
            raise DataError("the file has no rows; it needs at least one document", where=params.documents)
        near = await similarities(context, params.documents, rows, params.text, last_question(state))
        found: dict[str, None] = {}
        for index in order_by(near):
            if len(found) == params.k or near[index] < params.least:
                break
            text = field_of(rows, index, params.text, params.documents)
            if text not in state.notes:
                found[text] = None
        return NodeOutput(notes=(*state.notes, *found))
