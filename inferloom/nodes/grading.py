"""The role `score` put to a judge for many texts at once, for nodes that decide by it as they go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Completion, NodeState, Request
from inferloom.nodes.common import ask, converse, gather
from inferloom.nodes.score import expected_digit, greedy_digit

Grades: TypeAlias = tuple[dict[str, float], BudgetExceededError | None]
Grader: TypeAlias = Callable[[Iterable[str]], Awaitable[Grades]]

_ALTERNATIVES = 20
_TOP_DIGIT = 9


def grader(state: NodeState, context: NodeContext, *, model: str, expected: bool, max_tokens: int) -> Grader:
    """What grades texts, whole or partial solutions, from 0 to 1; equal texts are judged once.

    A reply without a digit grades 0 and is reported as the event `parse_failed`. Texts that the budget left no room for
    are missing from the grades, and the refusal stands beside them.
    """

    async def one(text: str) -> Completion:
        request = Request(
            messages=converse(state, context, "score", {"candidate": text}),
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=_ALTERNATIVES if expected else None,
        )
        return await ask(context, model, request)

    async def grade(texts: Iterable[str]) -> Grades:
        different = list(dict.fromkeys(texts))
        if not different:
            return {}, None
        replies, refusal = await gather(one(text) for text in different)
        grades: dict[str, float] = {}
        for text, reply in zip(different, replies, strict=True):
            if reply is None:
                continue
            digit = expected_digit(reply) if expected else greedy_digit(reply.text)
            if digit is None:
                context.emit("parse_failed", {"role": "score", "reply": reply.text[:200]})
            grades[text] = (digit or 0.0) / _TOP_DIGIT
        return grades, refusal

    return grade
