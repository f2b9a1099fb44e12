"""A small model drafts each step, a large one grades it with one token and writes the step itself where it is too low.

SpecReason of Pan et al. (arXiv 2504.07891). Reading a step is much cheaper than writing it, so that where most drafts
are accepted a solution costs little more than the small model's and is held to the large model's judgement. The first
`first` steps are the large model's own; a rejected step is rewritten once and the new one is not graded; a solution
that says the same step twice in a row ends.

Departures. Everything is counted: rejected drafts, grades and drafts made ahead. How a step ended decides what follows
(separator, end of text and token limit are three different things), where the reference joins all three with a blank
line; the token limit is on what is kept, and cut solutions are not finished. The judge is asked in a turn of its own
behind the solution so far, so that one prefix cache serves it and the writer; a reply without a digit rejects the step.
Grades go from 0 to 1: the paper's threshold, 7 of 9, is 0.75 here. `ahead` drafts the next step while the last is
graded, which the authors left open; `trust`, which is ours, spares a draft the grade where the small model was sure of
all its tokens. Chains go on step by step together, so that which one asks first never depends on the clock. Token-level
speculative decoding of the large model is the server's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field, model_validator

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState, StepRecord
from inferloom.nodes.base import register_node
from inferloom.nodes.chain import Chain
from inferloom.nodes.prompts import add_role
from inferloom.nodes.stepping import Partial, StepWriter, Walk, WalkParams

SCORE_STEP = add_role(
    "score_step",
    ("question", "candidate"),
    before=(("system", "{{ answer_instruction }}"), ("user", "{{ question }}"), ("assistant", "{{ candidate }}")),
    user="""\
Look at the last step of the solution above. How sure are you that it is free of mistakes and follows from what stands
before it? Length, style and whether the solution is complete do not count. Reply with a single digit from 0 (certainly
wrong) to 9 (certainly right) and nothing else.""",
)


class SpecReasonParams(WalkParams):
    """Parameters of `spec_reason`: `model` rewrites what `judge` (else `model` itself) rejects."""

    draft: str = Field(
        min_length=1, description="The small model, which drafts (needs `prefix`)", json_schema_extra={"model": True}
    )
    n: int = Field(1, ge=1, le=256, description="Solutions written side by side", json_schema_extra={"search": [1, 4]})
    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Steps graded lower are rejected; 0 accepts all",
        json_schema_extra={"search": [0.35, 0.55, 0.75, 0.95]},
    )
    trust: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Keep a draft ungraded where its least likely token has this probability (needs `logprobs`)",
        json_schema_extra={"search": [0.9, 0.99]},
    )
    first: int = Field(
        0, ge=0, le=1000, description="Steps that the large model writes first", json_schema_extra={"search": [0, 1, 2]}
    )
    draft_step: str | None = Field(
        None, min_length=1, description="What ends a step of the small model, where that is not `step`"
    )
    repeats: int = Field(2, ge=2, le=100, description="A solution ends at so many equal steps in a row")
    ahead: bool = Field(False, description="Draft the next step while the last is graded; wasted by a rejection")
    judge_tokens: int = Field(1, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")

    @model_validator(mode="after")
    def _first_fits(self) -> SpecReasonParams:
        if self.first > self.max_steps:
            raise ValueError(f"first is {self.first}; must be at most max_steps, {self.max_steps}")
        return self


@register_node("spec_reason")
class SpecReason(StepWriter):
    """Write solutions by steps: the small model drafts each, the large one checks it and writes it anew if need be."""

    Params = SpecReasonParams
    params: SpecReasonParams
    paper = "https://arxiv.org/abs/2504.07891"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"draft": "small", "model": "large"}

    @property
    def writers(self) -> frozenset[str]:
        return frozenset({self.params.model, self.params.draft})

    def needs_of(self, model: str) -> frozenset[str]:
        trusted = self.params.trust is not None and model == self.params.draft
        return super().needs_of(model) | (frozenset({"logprobs"}) if trusted else frozenset())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve", "score_step"})

    def calls(self, candidates: int) -> tuple[int, int]:
        params = self.params
        drafted = params.max_steps - params.first
        # Least: all end with the first step and say the same. Most: every draft is new, rejected and rewritten.
        each = params.first + 3 * drafted + (max(0, drafted - 1) if params.ahead else 0)
        return params.n + (0 if params.first or params.trust else 1), params.n * each

    def new_candidates(self) -> int:
        return self.params.n

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        walk = Walk(self.params, state, context, role=SCORE_STEP)
        chains = [Chain() for _ in range(self.params.n)]
        while walk.refusal is None and (going := [chain for chain in chains if not chain.part.end]):
            if going[0].part.steps < self.params.first:
                await self._rewrite(going, [None] * len(going), walk)
            else:
                await self._step(going, walk, context)
        received = [chain for chain in chains if chain.part.steps]
        if not received and walk.refusal is not None:
            raise walk.refusal
        received.sort(key=lambda chain: chain.part.end != "finished")
        made = walk.candidates([chain.part for chain in received])
        return walk.hand_on(chain.told(one) for one, chain in zip(made, received, strict=True))

    async def _step(self, going: Sequence[Chain], walk: Walk, context: NodeContext) -> None:
        """Draft, grade, and keep or rewrite one step of every chain."""
        params = self.params
        bare = [chain for chain in going if chain.ahead is None]
        for chain, draft in zip(bare, await self._draft([chain.part for chain in bare], walk), strict=True):
            chain.ahead = draft
        # A chain without a draft is one that the budget refused.
        drafted = [(chain, chain.ahead) for chain in going if chain.ahead is not None]
        grading = self._grade([draft for _, draft in drafted], walk)
        following: dict[int, Partial | None] = {}
        if params.ahead:
            open_ = [(chain, draft) for chain, draft in drafted if not draft.end]
            graded, ahead = await asyncio.gather(grading, self._draft([draft for _, draft in open_], walk))
            following = {id(chain): draft for (chain, _), draft in zip(open_, ahead, strict=True)}
        else:
            graded = await grading
        rejected: list[tuple[Chain, StepRecord | None]] = []
        for (chain, _), draft in zip(drafted, graded, strict=True):
            record = StepRecord(model=params.draft, completion=draft.completion)
            if draft.judged:
                record["grade"] = draft.scores[-1]
            # What the budget left ungraded stays: it is the best there is.
            accepted = not draft.judged or draft.scores[-1] >= params.threshold
            context.emit("draft", {"accepted": accepted, "completion": draft.completion, "grade": record.get("grade")})
            if accepted:
                chain.keep(draft, record, params.repeats)
                chain.ahead = following.get(id(chain))
            else:
                chain.ahead = draft
                rejected.append((chain, record))
        if rejected:
            await self._rewrite([chain for chain, _ in rejected], [record for _, record in rejected], walk)

    async def _draft(self, parts: Sequence[Partial], walk: Walk) -> list[Partial | None]:
        params = self.params
        logprobs = None if params.trust is None else 0
        return (
            await walk.extend(parts, model=params.draft, separator=params.draft_step, logprobs=logprobs)
            if parts
            else []
        )

    async def _grade(self, drafts: Sequence[Partial], walk: Walk) -> list[Partial]:
        """The drafts, those judged that are not trusted."""
        trust = self.params.trust
        doubted = [draft for draft in drafts if trust is None or draft.sure is None or draft.sure < trust]
        judged = dict(zip(map(id, doubted), await walk.judge(doubted), strict=True))
        return [judged.get(id(draft), draft) for draft in drafts]

    async def _rewrite(self, chains: Sequence[Chain], drafts: Sequence[StepRecord | None], walk: Walk) -> None:
        """The large model's step for every chain; where the budget refuses, a rejected draft stays."""
        written = await walk.extend([chain.part for chain in chains])
        for chain, draft, new in zip(chains, drafts, written, strict=True):
            if new is None:
                if chain.ahead is not None and draft is not None:
                    chain.keep(chain.ahead, draft, self.params.repeats)
                continue
            record = StepRecord(model=self.params.model, completion=new.completion)
            if draft is not None:
                record["rejected"] = draft["completion"]
                record["grade"] = draft["grade"]
            chain.keep(new, record, self.params.repeats)
            chain.ahead = None
