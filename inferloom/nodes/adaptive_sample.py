"""Draw candidates until enough is known, instead of a fixed number.

`agreement`: batches of 2, 2, 4, 8, ... until the most frequent answer has the share `threshold` of the draws, as
adaptive self-consistency in batches does. `beta`: the rule of Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860):
stop when the leader stays ahead of the second with the chance `threshold`, under a flat Beta prior. `self_eval` and
`prune` have the shape of Manvi et al. (arXiv 2410.02725), and are not their method: there a model trained on
preferences foretells in one token whether starting over would help; here an untrained judge is prompted, with the role
`score`, for how likely the text is right. Nothing of that paper's results is claimed.

Departures. Both rules on votes also stop where the draws that are left could not change the leader, and a draw without
an answer, or cut at the token limit, counts as a draw but votes for nothing. `beta` asks at once for as many draws as
it needs at least before it could stop, so it stops where one by one would and waits less. `self_eval` keeps one
temperature where the paper anneals it. `prune` judges the whole lines of an unfinished prefix, in the words in which
whole solutions are judged; a prefix that ended before `prefix_tokens` is judged too, and not continued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import candidates_of, converse, draw, order_by, stop_reason
from inferloom.nodes.grading import Grader, grader
from inferloom.nodes.pruning import draw_pruned, kept_of
from inferloom.nodes.stopping import enough, fewest_to_stop, leader_first, top_two

SELF_EVAL = "self_eval"
"""The score that `stop: self_eval` records."""
_THRESHOLDS = {"agreement": 0.75, "beta": 0.95, "self_eval": 0.9}


class AdaptiveSampleParams(Params):
    """Parameters of `adaptive_sample`."""

    model: str = Field(min_length=1, description="The model that answers", json_schema_extra={"model": True})
    n: int = Field(16, ge=1, le=1024, description="The most candidates drawn", json_schema_extra={"search": [8, 16]})
    stop: Literal["agreement", "beta", "self_eval", "prune"] = Field(
        "beta",
        description="What ends it: votes (agreement, beta), a judge (self_eval); prune finishes the best of n prefixes",
        json_schema_extra={"search": ["agreement", "beta"]},
    )
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Ends at this share of the leader (default 0.75), chance that it stays ahead (0.95) or score (0.9)",
        json_schema_extra={"search": [0.8, 0.9, 0.95]},
    )
    least: int = Field(1, ge=1, le=1024, description="Candidates drawn before the drawing may end")
    batch: int = Field(1, ge=1, le=1024, description="The fewest draws in one request, as far as n has room")
    judge: str | None = Field(
        None, min_length=1, description="The judge (self_eval, prune), else `model`", json_schema_extra={"model": True}
    )
    expected: bool = Field(False, description="Judge by the expected digit (self_eval, prune; needs `logprobs`)")
    judge_tokens: int = Field(16, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")
    prefix_tokens: int = Field(64, ge=1, le=1_000_000, description="Tokens before the weakest are dropped (prune)")
    keep: float = Field(0.5, gt=0, le=1, description="The share of the n prefixes that is finished (prune)")
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.4, 0.6, 0.8, 1.0]}
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest completion, in tokens")
    system: str | None = Field(None, description="A system message, in front of the prompt pack's own")

    @property
    def judged(self) -> bool:
        """Whether a model judges on the way."""
        return self.stop in ("self_eval", "prune")

    @model_validator(mode="after")
    def _fits_rule(self) -> AdaptiveSampleParams:
        if not self.judged and (self.judge is not None or self.expected):
            raise ValueError(f"stop `{self.stop}` calls no judge; leave out `judge` and `expected`")
        if not self.judged and self.threshold is not None and self.threshold <= 0.5:
            raise ValueError(f"threshold is {self.threshold:g}; for stop `{self.stop}` it must be above 0.5")
        if self.stop == "prune" and self.prefix_tokens >= self.max_tokens:
            raise ValueError(f"prefix_tokens is {self.prefix_tokens}; must be below max_tokens, {self.max_tokens}")
        return self


@register_node("adaptive_sample")
class AdaptiveSample(Node):
    """Draw up to n candidates, and stop as soon as a rule says that more would change little."""

    Params = AdaptiveSampleParams
    params: AdaptiveSampleParams
    offers_tools = True
    paper = "https://arxiv.org/abs/2305.11860"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "n": 16}

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"candidates", "scores"} if self.params.stop == "self_eval" else {"candidates"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({SELF_EVAL} if self.params.stop == "self_eval" else ())

    @property
    def drops(self) -> frozenset[Thing]:
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    @property
    def needs(self) -> frozenset[str]:
        wanted = {"logprobs": self.params.expected, "prefix": self.params.stop == "prune"}
        return frozenset(name for name, there in wanted.items() if there)

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve", "score"} if self.params.judged else {"solve"})

    def calls(self, candidates: int) -> tuple[int, int]:
        n = self.params.n
        if self.params.stop == "prune":
            return n + 1, 2 * n + kept_of(n, self.params.keep)
        # Equal texts are judged once, so one judgement may do for all.
        return (self._batch([]) + 1, 2 * n) if self.params.judged else (self._batch([]), n)

    def candidates_out(self, candidates: int) -> int:
        n = self.params.n
        return candidates + (kept_of(n, self.params.keep) if self.params.stop == "prune" else n)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        request = Request(
            messages=converse(state, context, "solve", system=params.system, with_tools=state.tools is not None),
            tools=state.tools,
            n=params.n,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
        )
        judge = params.judge or params.model
        grade = grader(state, context, model=judge, expected=params.expected, max_tokens=params.judge_tokens)
        taken = [candidate.id for candidate in state.candidates]
        if params.stop == "prune":
            drawn, refusal = await draw_pruned(
                context, params.model, request, prefix_tokens=params.prefix_tokens, keep=params.keep, grade=grade
            )
            pairs = [(params.model, completion) for completion in drawn]
            new = leader_first(candidates_of(context, pairs, taken=taken))
        else:
            new, refusal = await self._draw(request, context, grade, taken)
        return NodeOutput(candidates=(*new, *state.candidates), stopped=stop_reason(context, refusal))

    async def _draw(
        self, request: Request, context: NodeContext, grade: Grader, taken: list[str]
    ) -> tuple[list[Candidate], BudgetExceededError | None]:
        """Draw batch after batch; the most frequent answer first, or with a judge the best-judged."""
        params = self.params
        new: list[Candidate] = []
        grades: dict[str, float] = {}
        refusal: BudgetExceededError | None = None
        while refusal is None and len(new) < params.n and not self._enough(new, grades):
            more, refusal = await draw(context, params.model, replace(request, n=self._batch(new)))
            if refusal and not more and not new:
                raise refusal
            pairs = [(params.model, completion) for completion in more]
            new += candidates_of(context, pairs, taken=[*taken, *(candidate.id for candidate in new)])
            if params.judged and refusal is None:
                fresh, refusal = await grade(candidate.text for candidate in new if candidate.text not in grades)
                grades |= fresh
        if not params.judged:
            return leader_first(new), refusal
        order = order_by([grades.get(candidate.text, -1.0) for candidate in new])
        new = [one.with_score(SELF_EVAL, grades[one.text]) if one.text in grades else one for one in new]
        return [new[position] for position in order], refusal

    def _enough(self, new: Sequence[Candidate], grades: Mapping[str, float]) -> bool:
        params = self.params
        if len(new) < params.least:
            return False
        if params.stop == "agreement" or params.stop == "beta":
            return enough(params.stop, self._threshold, *top_two(new), len(new), params.n - len(new))
        return max(grades.values(), default=0.0) >= self._threshold

    def _batch(self, new: Sequence[Candidate]) -> int:
        """How many to draw in the next request."""
        params = self.params
        left = params.n - len(new)
        wanted = max(2, len(new)) if params.stop == "agreement" else 1
        if params.stop == "beta":
            wanted = fewest_to_stop(self._threshold, *top_two(new), left)
        return min(left, max(wanted, params.batch, params.least - len(new)))

    @property
    def _threshold(self) -> float:
        return self.params.threshold or _THRESHOLDS[self.params.stop]
