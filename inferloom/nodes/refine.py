"""Have candidates reviewed and revised, round after round; every original stays a candidate and keeps its vote.

The critic in the loop of AutoMathCritique (arXiv 2411.16579), whose refined answer becomes the next round's origin, and
Self-Refine (arXiv 2303.17651), which ends once the feedback finds nothing to mend. Departures: this is the papers'
honest mode only, without a look at the right answer when deciding what to revise; revising is gated, because prompted
critics often cannot tell when to do it, while AutoMathCritique revises everything; originals stay beside their
revisions, where AutoMathCritique votes over revisions alone; critic and reviser are prompted, not trained. A review
that cannot be read (event `parse_failed`) does not say wrong: with the gate `critique` the candidate is left as it is.
A revision that was cut (event `revision_cut`) stays behind what it was made from, and is not revised further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import ask, candidates_of, converse, gather, incoming, scores_of, stop_reason
from inferloom.nodes.critique import read_verdicts, review_requests, with_review


class RefineParams(Params):
    """Parameters of `refine`."""

    model: str = Field(min_length=1, description="The model that revises", json_schema_extra={"model": True})
    critic: str | None = Field(
        None, min_length=1, description="The model that reviews; without it `model`", json_schema_extra={"model": True}
    )
    rounds: int = Field(
        1, ge=1, le=16, description="Rounds of review and revision", json_schema_extra={"search": [1, 2, 3]}
    )
    gate: Literal["critique", "score", "always"] = Field(
        "critique",
        description="What is revised: that in which the review finds a wrong step, that whose score `by` is low when it"
        " comes in, or everything",
        json_schema_extra={"search": ["critique", "always"]},
    )
    by: str | None = Field(None, min_length=1, description="The score that decides (gate score)")
    below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Scores below this are low (gate score)",
        json_schema_extra={"search": [0.3, 0.5, 0.7]},
    )
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature of the revisions", json_schema_extra={"search": [0.0, 0.8]}
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest revision, in tokens")
    critique_temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the reviews")
    critique_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest review, in tokens")

    @model_validator(mode="after")
    def _fits_gate(self) -> RefineParams:
        if self.gate == "score" and self.by is None:
            raise ValueError("refine with gate `score` needs `by`, the score that decides")
        if self.gate != "score" and (self.by is not None or "below" in self.model_fields_set):
            raise ValueError(f"`by` and `below` go with gate `score`, not with gate `{self.gate}`")
        return self


@register_node("refine")
class Refine(Node):
    """Review and revise candidates; those revised last come first, all that they were made from stay."""

    Params = RefineParams
    params: RefineParams
    paper = "https://arxiv.org/abs/2411.16579"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "critic": "large"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.gate == "score" else {"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def scores_in(self) -> frozenset[str]:
        return frozenset({self.params.by} if self.params.by else ())

    @property
    def drops(self) -> frozenset[Thing]:
        # The revisions have none of these.
        return frozenset({"scores", "critiques", "tests", "one"})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"critique", "revise"})

    def calls(self, candidates: int) -> tuple[int, int]:
        # Least with gate `always`: every first revision is cut, so there is no second round.
        least = {"critique": candidates, "score": 0, "always": 2 * candidates}[self.params.gate]
        return least, 2 * candidates * self.params.rounds

    def candidates_out(self, candidates: int) -> int:
        return candidates * (1 + self.params.rounds)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        chains = [[candidate] for candidate in incoming(state, context)]
        going = self._chosen(chains, context)
        refusal: BudgetExceededError | None = None
        asked = False
        # Rounds go side by side over all candidates: the order of asking, and with it every draw, is always the same.
        for _ in range(self.params.rounds):
            if not going:
                break
            going, refusal = await self._review(going, state, context)
            if refusal and not going and not asked:
                raise refusal
            asked = True
            if self.params.gate == "critique":
                going = [chain for chain in going if not all(read_verdicts(chain[-1].critiques[-1]))]
            if refusal or not going:
                break
            going, refusal = await self._revise(going, chains, state, context)
            if refusal:
                break
        return NodeOutput(candidates=_newest_first(chains), stopped=stop_reason(context, refusal))

    def _chosen(self, chains: list[list[Candidate]], context: NodeContext) -> list[list[Candidate]]:
        """The candidates to begin with."""
        if self.params.by is None:
            return chains
        scores = scores_of([chain[0] for chain in chains], self.params.by, context)
        return [chain for chain, score in zip(chains, scores, strict=True) if score < self.params.below]

    async def _review(
        self, chains: Sequence[list[Candidate]], state: NodeState, context: NodeContext
    ) -> tuple[list[list[Candidate]], BudgetExceededError | None]:
        """Review the newest of each chain; the chains for which a review came."""
        params = self.params
        newest = [chain[-1] for chain in chains]
        requests = review_requests(newest, state, context, params.critique_temperature, params.critique_tokens)
        replies, refusal = await gather(ask(context, params.critic or params.model, request) for request in requests)
        reviewed = []
        for chain, reply in zip(chains, replies, strict=True):
            if reply is not None:
                chain[-1] = with_review(chain[-1], reply, context)
                reviewed.append(chain)
        return reviewed, refusal

    async def _revise(
        self,
        chains: Sequence[list[Candidate]],
        everything: Sequence[Sequence[Candidate]],
        state: NodeState,
        context: NodeContext,
    ) -> tuple[list[list[Candidate]], BudgetExceededError | None]:
        """Write the next of each chain; the chains that may go on, those whose revision came to its end."""
        replies, refusal = await gather(self._ask(chain[-1], state, context) for chain in chains)
        taken = {candidate.id for chain in everything for candidate in chain}
        grown = []
        for chain, reply in zip(chains, replies, strict=True):
            if reply is not None:
                (new,) = candidates_of(context, [(self.params.model, reply)], parents=[chain[-1].id], taken=taken)
                taken.add(new.id)
                chain.append(new)
                if new.finished:
                    grown.append(chain)
                else:
                    context.emit("revision_cut", {"candidate": new.id, "parent": new.parents[0]})
        return grown, refusal

    async def _ask(self, candidate: Candidate, state: NodeState, context: NodeContext) -> Completion:
        values = {"candidate": candidate.text, "critique": candidate.critiques[-1]}
        request = Request(
            messages=converse(state, context, "revise", values),
            temperature=self.params.temperature,
            max_tokens=self.params.max_tokens,
        )
        return await ask(context, self.params.model, request)


def _newest_first(chains: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """The front of each chain in the order in which they came, then the rest, the newest first.

    The front is the newest that came to its end; the newest of all where none did.
    """
    fronts = [next((one for one in reversed(chain) if one.finished), chain[-1]) for chain in chains]
    rest = (one for chain, front in zip(chains, fronts, strict=True) for one in reversed(chain) if one is not front)
    return (*fronts, *rest)
