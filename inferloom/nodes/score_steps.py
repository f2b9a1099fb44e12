"""Score every candidate by its steps: a judge grades the solution after each step, and the grades become one score.

The judge reads the question and the solution up to the end of a step (role `score`) and grades it from 0 to 1, a
prompted stand-in for a trained process reward model. For the grades r_1 .. r_n of a solution, `aggregate` is

    last      r_n
    min       the least of them
    product   r_1 * ... * r_n
    mean      (r_1 + ... + r_n) / n
    clip      the mean of min(r_k - eta, 0), moved to [0, 1]: 1 + mean / eta
    delta     r_n + alpha * sum of (r_k - r_(k+1)), k < n; the sum telescopes, so it is (1 - alpha) * r_n + alpha * r_1

all in [0, 1]. There is no plain sum, which rewards length. `clip` and `delta` are the bounded process rewards of Gao et
al. (arXiv 2410.15115). Departures: they shape rewards in training, here they rank finished solutions; clip is averaged
where the paper adds up, so that a solution is not punished for having more steps; delta adds the grade of the whole
solution where the paper adds whether its answer was right, and its last step has no difference. `last` and `delta` ask
for the grades that they need only. Equal prefixes are graded once. Of a solution with more than `max_steps` steps, as
many are graded, evenly spread, the whole always among them; for `delta` r_1 is the grade after the first step in any
case. A reply without a digit is a 0 and the event `parse_failed`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import incoming
from inferloom.nodes.grading import distinct, grader, hand_on

Aggregate = Literal["last", "min", "product", "mean", "clip", "delta"]
Step = Literal["line", "paragraph"]
_ENDS = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n[^\S\n]*\n")}


class ScoreStepsParams(Params):
    """Parameters of `score_steps`."""

    model: str = Field(min_length=1, description="The model that judges", json_schema_extra={"model": True})
    aggregate: Aggregate = Field(
        "min",
        description="How the steps' grades become one score",
        json_schema_extra={"search": ["last", "min", "product", "mean", "clip", "delta"]},
    )
    step: Step = Field("line", description="What one step is: a line, or a paragraph")
    max_steps: int = Field(32, ge=2, le=1024, description="The most steps of one candidate that are graded")
    eta: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Grades above it count no more (aggregate clip); best near the mean grade",
        json_schema_extra={"search": [0.3, 0.5, 0.7, 0.9]},
    )
    alpha: float = Field(0.5, ge=0, le=1, description="The weight of the summed differences (aggregate delta)")
    name: str = Field("steps", min_length=1, description="The score's name")
    expected: bool = Field(
        False,
        description="Use the expected digit instead of the likeliest (needs the capability `logprobs`)",
        json_schema_extra={"search": [False, True]},
    )
    max_tokens: int = Field(16, ge=1, le=1_000_000, description="The judge's longest reply, in tokens")


@register_node("score_steps")
class ScoreSteps(Node):
    """Score every candidate by a judge's grades after each of its steps."""

    Params = ScoreStepsParams
    params: ScoreStepsParams
    paper = "https://arxiv.org/abs/2410.15115"
    static = False

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large", "aggregate": "min"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"scores"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} if self.params.expected else ())

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"score"})

    def calls(self, candidates: int) -> tuple[int, int]:
        each = {"last": 1, "delta": 2}.get(self.params.aggregate, self.params.max_steps)
        return min(candidates, 1), candidates * each

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        params = self.params
        prefixes = {candidate.text: self._prefixes(candidate.text) for candidate in distinct(candidates)}
        grade = grader(state, context, model=params.model, expected=params.expected, max_tokens=params.max_tokens)
        grades, refusal = await grade(prefix for needed in prefixes.values() for prefix in needed)
        if refusal and not grades:
            raise refusal
        # A candidate of which the budget left some steps out has no score: part of its steps says too much good of it.
        scores = {
            text: combine([grades[prefix] for prefix in needed], params.aggregate, params.eta, params.alpha)
            for text, needed in prefixes.items()
            if all(prefix in grades for prefix in needed)
        }
        return hand_on(candidates, scores, params.name, context, refusal)

    def _prefixes(self, text: str) -> list[str]:
        """What is graded of a text, the whole last."""
        if self.params.aggregate == "last":
            return [text]
        if self.params.aggregate == "delta":
            return [text[: step_ends(text, self.params.step)[0]], text]
        return step_prefixes(text, self.params.step, self.params.max_steps)


def step_ends(text: str, step: Step) -> list[int]:
    """Where each step ends, blank steps left out; the last at the end of the text."""
    cuts = [found.start() for found in _ENDS[step].finditer(text)]
    spans = zip([0, *cuts], [*cuts, len(text)], strict=True)
    ends = [end for start, end in spans if text[start:end].strip()] or [len(text)]
    ends[-1] = len(text)  # blanks behind the last step belong to it
    return ends


def step_prefixes(text: str, step: Step, most: int) -> list[str]:
    """The text up to the end of each step, blank steps left out; `most` of them, evenly spread, the whole last."""
    ends = step_ends(text, step)
    if len(ends) > most:
        ends = [ends[math.ceil(len(ends) * place / most) - 1] for place in range(1, most + 1)]
    return [text[:end] for end in ends]


def combine(grades: Sequence[float], how: Aggregate, eta: float = 0.5, alpha: float = 0.5) -> float:
    """The score of the steps' grades, each in [0, 1], as the module's docstring has it."""
    if how == "last":
        return grades[-1]
    if how == "min":
        return min(grades)
    if how == "product":
        return math.prod(grades)
    if how == "mean":
        return math.fsum(grades) / len(grades)
    if how == "clip":
        return max(0.0, 1 + math.fsum(min(grade - eta, 0.0) for grade in grades) / len(grades) / eta)
    return (1 - alpha) * grades[-1] + alpha * grades[0]
