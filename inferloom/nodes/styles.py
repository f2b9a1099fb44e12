"""Ways of asking for an answer: prompt styles, a plan first, and answers that come from running a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inferloom.core.code import code_of
from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext, SandboxResult
from inferloom.core.types import Candidate, Completion, Message, NodeState, Request
from inferloom.nodes.common import converse, draw, gather
from inferloom.nodes.prompts import add_role

Style = Literal["plain", "step_by_step", "program"]

ROLES: dict[Style, str] = {
    "plain": "solve",
    "step_by_step": add_role(
        "solve_step_by_step",
        ("question",),
        system="{{ answer_instruction }}",
        user="""{{ question }}

First say in one line what is asked and in another what is given. Then number your steps, one short line each, and let
each step do one thing only. Before the answer, check the result against the question in one line.""",
    ),
    "program": add_role(
        "solve_by_program",
        ("question",),
        system="You answer questions by writing Python programs.",
        user="""<question>
{{ question }}
</question>

Write a Python program that computes the answer. Use only the language itself: no files, no network, no input, no
packages beyond the standard library. The program must print the final answer, and nothing else, as its last line. Reply
with the program in one fenced code block and with nothing after it.""",
    ),
}
PLAN = add_role(
    "plan",
    ("question",),
    system="You plan how to answer questions. Somebody else carries out your plan.",
    user="""<question>
{{ question }}
</question>

Write a plan for answering it: a few numbered steps, a line each, that say what to find out or compute, in which order.
Do not carry the steps out and do not give an answer.""",
)
PLANNED = add_role(
    "question_with_plan",
    ("question", "plan"),
    user="""{{ question }}

<plan>
{{ plan }}
</plan>

The plan above is a suggestion by somebody else. Follow it where it is right, and depart from it where it is not.""",
)


@dataclass(frozen=True, slots=True)
class Asking:
    """One way of drawing: a model, a style, and what stands around the question."""

    model: str
    style: Style
    system: str | None
    examples: tuple[tuple[str, str], ...]
    plans: int
    """Plans written before the answers; 0: none."""

    @property
    def roles(self) -> frozenset[str]:
        """The roles that it speaks."""
        return frozenset({ROLES[self.style], *((PLAN, PLANNED) if self.plans else ())})


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a way of asking brought."""

    completions: tuple[Completion, ...]
    plans: int
    """Plans that were written, so that something was received even where no answer was."""
    refusal: BudgetExceededError | None


async def draw_answers(
    askings: Sequence[Asking], request: Request, state: NodeState, context: NodeContext
) -> list[Drawn]:
    """`request.n` answers for each way of asking, in the order of their plans, if any; what the budget allowed.

    Every plan is there before the first answer is asked for: where plans are equal, so are the requests, and which of
    them gets which draw must not depend on whose plan came first.
    """
    drawn_plans, _ = await gather(_plans(asking, request, state, context) for asking in askings)
    planned = [result for result in drawn_plans if result is not None]  # `draw` hands a refusal on as a value
    wanted = []
    for place, (asking, (plans, _)) in enumerate(zip(askings, planned, strict=True)):
        share, rest = divmod(request.n, asking.plans or 1)
        for index, plan in enumerate(plans):
            conversation = _asked(asking, state, context, plan)
            tools = None if asking.style == "program" else state.tools
            wanted.append((place, replace(request, n=share + (index < rest), messages=conversation, tools=tools)))
    completions: list[list[Completion]] = [[] for _ in askings]
    refusals = [refusal for _, refusal in planned]
    if wanted:
        results, _ = await gather(draw(context, askings[place].model, asked) for place, asked in wanted)
        for (place, _), result in zip(wanted, results, strict=True):
            if result is not None:
                completions[place] += result[0]
                refusals[place] = refusals[place] or result[1]
    return [
        Drawn(tuple(made), len(plans) if asking.plans else 0, refusal)
        for asking, made, (plans, _), refusal in zip(askings, completions, planned, refusals, strict=True)
    ]


async def _plans(
    asking: Asking, request: Request, state: NodeState, context: NodeContext
) -> tuple[Sequence[str | None], BudgetExceededError | None]:
    """The plans to answer with; None stands for an answer without one.

    Solved examples show worked answers, so a plan and a program are asked for without them.
    """
    if not asking.plans:
        return [None], None
    planning = converse(replace(state, examples=()), context, PLAN, system=asking.system)
    wanted = replace(request, messages=planning, n=asking.plans, stop=(), logprobs=None)
    plans, refusal = await draw(context, asking.model, wanted)
    return [plan.text for plan in plans], refusal


def _asked(asking: Asking, state: NodeState, context: NodeContext, plan: str | None) -> tuple[Message, ...]:
    """The conversation that asks for an answer."""
    values: dict[str, object] = {}
    if plan is not None:
        values["question"] = converse(state, context, PLANNED, {"plan": plan})[-1].content
    shown = asking.examples
    if asking.style == "program":
        state, shown = replace(state, examples=()), ()
    tools = state.tools is not None and asking.style != "program" and plan is None
    return converse(state, context, ROLES[asking.style], values, system=asking.system, examples=shown, with_tools=tools)


async def run_programs(candidates: Sequence[Candidate], context: NodeContext) -> list[Candidate]:
    """The candidates with the answers that their programs print, added to their texts; None for those that fail.

    The answer is the last line that is printed, or the value of the last expression where nothing is.
    """

    async def one(candidate: Candidate) -> Candidate:
        program = code_of(candidate.text, cut=not candidate.finished)
        if program is None:
            context.emit("parse_failed", {"role": ROLES["program"], "reply": candidate.text[:200]})
            return replace(candidate, answer=None)
        result = await context.sandbox.run(program)
        answer = _printed(result)
        if answer is None:
            context.emit("program_failed", {"outcome": result.outcome, "error": result.error[:200]})
            return replace(candidate, answer=None)
        return replace(candidate, text=f"{candidate.text}\n\nA: {answer}", answer=answer)

    if not candidates:
        return []
    done, refusal = await gather(one(candidate) for candidate in candidates)
    assert refusal is None  # a sandbox asks no model
    return [candidate for candidate in done if candidate is not None]


def _printed(result: SandboxResult) -> str | None:
    if result.outcome != "ok":
        return None
    lines = [line.strip() for line in result.output.splitlines() if line.strip()]
    if lines:
        return lines[-1]
    return None if result.value is None else str(result.value)
