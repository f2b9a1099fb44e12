"""Change a memory by what an answer teaches, after the answer: entries added, corrected, deleted and marked.

`delta` follows ACE (arXiv 2510.04618): a model proposes typed operations, and code applies them. `cumulative` follows
Dynamic Cheatsheet (arXiv 2504.07952): a model writes the whole sheet anew. `full_history` keeps every question with its
answer, as that paper's baseline does; its limit takes the oldest. Like ReasoningBank (arXiv 2509.25140), it learns from
successes and from failures. Departures: updates and deletions happen, which the released merge of ACE ignores; the
limit is enforced by code; marks come from named feedback, and from the model only where there is none; without a
`model`, `delta` is code alone: a success is kept as a solved example, and code in it as a snippet if it runs in the
sandbox, a failure as a mistake to avoid. A reply that was cut, or that cannot be read, changes nothing and is counted.

What feedback is used is said by name: `none`, `verifier` (a score of the candidate, from a check that one could
deploy) or `label` (the right answer; marked as an oracle). Where the run may not write, as in an evaluation on frozen
memories, nothing is asked and nothing changes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from inferloom.core.errors import BudgetExceededError, UserError
from inferloom.core.memory import Add, EntryKind, Mark, Rules, Verdict
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming, scores_of
from inferloom.nodes.curating import CURATE, REWRITE, Proposals
from inferloom.nodes.lessons import Lesson, by_code, by_model, rewritten
from inferloom.nodes.nearest import last_question

_MARKS: dict[bool | None, Verdict] = {True: "helpful", False: "harmful", None: "used"}


class CurateParams(Params):
    """Parameters of `curate`."""

    memory: str = Field(min_length=1, description="The memory that is changed")
    mode: Literal["delta", "cumulative", "full_history"] = Field(
        "delta",
        description="Single entries change, the whole sheet is written anew, or every answer is kept",
        json_schema_extra={"search": ["delta", "full_history"]},
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The model that proposes; without it `delta` keeps what succeeded and marks what was read",
        json_schema_extra={"model": True},
    )
    feedback: Literal["none", "verifier", "label"] = Field(
        "none", description="What says whether the answer is right: nothing, a score, or the right answer (an oracle)"
    )
    by: str | None = Field(None, min_length=1, description="The score that says it (feedback verifier)")
    least: float = Field(
        0.5, description="The score from which on an answer is right", json_schema_extra={"search": [0.5, 0.75, 1.0]}
    )
    below: float | None = Field(
        None,
        description="Below this score an answer is wrong, and from here to `least` the check says nothing; without it"
        " every answer is right or wrong",
    )
    keep: Annotated[tuple[EntryKind, ...], Field(min_length=1)] = Field(
        ("strategy", "example", "snippet", "mistake"), description="What may be added (mode delta)"
    )
    k: int = Field(
        8, ge=1, le=64, description="Entries that the model sees: those that were read, then the nearest (mode delta)"
    )
    limit: int | None = Field(
        4000, ge=1, le=10_000_000, description="The most tokens of the memory, four characters each"
    )
    dedup: float | None = Field(
        0.95, ge=0, le=1, description="From this cosine on a new entry is one that is there (not in full_history)"
    )
    days: float | None = Field(None, gt=0, le=36_500, description="How long new entries live; without it for good")
    mask: bool = Field(True, description="Mask e-mail addresses, phone and card numbers and keys")
    max_tokens: int = Field(2048, ge=1, le=1_000_000, description="The longest reply, in tokens")

    @model_validator(mode="after")
    def _fits_mode(self) -> CurateParams:
        if (self.feedback == "verifier") != (self.by is not None):
            raise ValueError("curate needs `by`, the score that decides, with feedback `verifier`, and only there")
        if self.below is not None and (self.feedback == "none" or self.below > self.least):
            raise ValueError("`below` goes with feedback, and must not be above `least`")
        if self.mode == "cumulative" and self.model is None:
            raise ValueError("curate with mode `cumulative` needs `model`, which writes the sheet")
        if self.mode == "full_history" and self.model is not None:
            raise ValueError("curate with mode `full_history` keeps every answer; it takes no `model`")
        if "sheet" in self.keep:
            raise ValueError("`keep` cannot have `sheet`, which mode `cumulative` alone writes")
        return self

    @property
    def rules(self) -> Rules:
        """What holds for every change."""
        dedup = None if self.mode == "full_history" else self.dedup
        return Rules(limit=self.limit, dedup=dedup, days=self.days, mask=self.mask)


@register_node("curate")
class Curate(Node):
    """Change a memory by what the answer teaches; the candidates pass through."""

    Params = CurateParams
    params: CurateParams
    paper = "https://arxiv.org/abs/2510.04618"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"memory": "sums", "feedback": "verifier", "by": "judge", "keep": ["example"]}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.by else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset()

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by} if self.params.by else ())

    @property
    def oracle(self) -> bool:
        return self.params.feedback == "label"

    @property
    def roles(self) -> frozenset[str]:
        asked = {"delta": CURATE, "cumulative": REWRITE}.get(self.params.mode)
        return frozenset({asked} if self.params.model and asked else ())

    def calls(self, candidates: int) -> tuple[int, int]:
        # Nothing is asked where the run may not write.
        return 0, int(self.params.model is not None)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        memory, (candidate, *_) = context.memory(self.params.memory), incoming(state, context)
        succeeded = self._verdict(candidate, context)
        if not memory.writable:
            context.emit("curated", {"memory": memory.name, "version": await memory.version(), "frozen": True})
            return NodeOutput()
        read = [one.entry for one in state.recalled if one.memory == memory.name]
        proposals, refusal = Proposals([], []), None
        try:
            asked = last_question(state)
            proposals = await self._learned(Lesson(asked, candidate, succeeded, memory, read, state, context))
        except BudgetExceededError as error:
            # What the feedback says of the entries that were read is known without the model.
            refusal = error
        operations = [*(Mark(entry, _MARKS[succeeded]) for entry in read), *proposals.operations]
        done = await memory.commit(operations, self.params.rules, len(proposals.refused))
        context.emit(
            "curated",
            {
                "memory": memory.name,
                "version": done.version,
                "applied": done.applied,
                "dropped": [*proposals.refused, *map(": ".join, done.dropped)],
                "evicted": done.evicted,
                "masked": done.masked,
                "repeated": done.repeated,
            },
        )
        if refusal is not None:
            raise refusal
        return NodeOutput()

    def _verdict(self, candidate: Candidate, context: NodeContext) -> bool | None:
        """Whether the answer is right; None where nothing says so."""
        params = self.params
        if params.feedback == "none":
            return None
        if params.by is not None:
            return self._said(scores_of([candidate], params.by, context)[0])
        if context.oracle is None:
            raise UserError(
                "`curate` with feedback `label` needs the right answer, so it works only inside an evaluation; use"
                " `verifier` here",
                where=context.path,
            )
        return self._said(context.oracle(candidate))

    def _said(self, score: float) -> bool | None:
        """What a score says: right, wrong, or nothing."""
        below = self.params.least if self.params.below is None else self.params.below
        return True if score >= self.params.least else False if score < below else None

    async def _learned(self, lesson: Lesson) -> Proposals:
        params = self.params
        if params.mode == "full_history":
            return Proposals([Add("example", lesson.question, lesson.candidate.text)], [])
        if params.model is None:
            # A check that says nothing is no reason to believe an answer.
            silent = lesson.succeeded is None and params.feedback != "none"
            return Proposals([], []) if silent else await by_code(lesson, params.keep)
        if params.mode == "cumulative":
            return await rewritten(lesson, params.model, params.limit, params.max_tokens)
        marks = params.feedback == "none"
        return await by_model(lesson, params.model, params.keep, params.k, params.max_tokens, marks=marks)
