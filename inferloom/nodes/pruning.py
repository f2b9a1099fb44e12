"""Dropping weak samples in the middle of their generation, for nodes that draw more prefixes than they finish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Completion, Request
from inferloom.nodes.common import draw, gather, open_turn, order_by
from inferloom.nodes.grading import Grader


def kept_of(count: int, share: float) -> int:
    """How many of `count` samples a share of them is, rounded up, at least one."""
    return max(1, math.ceil(share * count - 1e-9))


async def draw_pruned(
    context: NodeContext, model: str, request: Request, *, prefix_tokens: int, keep: float, grade: Grader
) -> tuple[list[Completion], BudgetExceededError | None]:
    """Draw `request.n` prefixes, and write the best-graded share of them to their ends; the best first.

    A prefix that ended is graded like the others and is not continued. Where the budget ends on the way, the rest of
    the kept ones stay cut.

    Raises:
        BudgetExceededError: Not even one prefix was received.
    """
    prefixes, refusal = await draw(context, model, replace(request, max_tokens=prefix_tokens))
    if refusal and not prefixes:
        raise refusal
    judged = [_judged_part(prefix) for prefix in prefixes]
    grades: dict[str, float] = {}
    if refusal is None:
        grades, refusal = await grade(judged)
    order = order_by([grades.get(text, -1.0) for text in judged])
    if refusal:
        # The run ends here: an answer, however weak, before a text without one.
        order.sort(key=lambda position: prefixes[position].finish_reason != "stop")
    kept = [prefixes[position] for position in order[: kept_of(request.n, keep)]]
    if refusal:
        return kept, refusal
    return await _finish(context, model, replace(request, max_tokens=request.max_tokens - prefix_tokens), kept)


def _judged_part(prefix: Completion) -> str:
    """What a judge sees of a prefix: its whole lines, as far as it has any; half a line looks like a mistake."""
    if prefix.finish_reason != "length" or "\n" not in prefix.text:
        return prefix.text
    return prefix.text[: prefix.text.rindex("\n")]


async def _finish(
    context: NodeContext, model: str, request: Request, prefixes: Sequence[Completion]
) -> tuple[list[Completion], BudgetExceededError | None]:
    """Go on with the prefixes that have not ended; equal ones in one request."""
    counts = Counter(prefix.text for prefix in prefixes if prefix.finish_reason == "length")
    if not counts:
        return list(prefixes), None
    drawn, _ = await gather(
        draw(context, model, replace(request, messages=open_turn(request.messages, text), n=count))
        for text, count in counts.items()
    )
    more: dict[str, list[Completion]] = {}
    refusal = None
    for text, result in zip(counts, drawn, strict=True):
        if result is not None:  # `draw` hands a refusal on as a value
            more[text] = list(reversed(result[0]))
            refusal = refusal or result[1]
    whole = []
    for prefix in prefixes:
        if prefix.finish_reason == "length" and more[prefix.text]:
            rest = more[prefix.text].pop()
            whole.append(replace(rest, text=prefix.text + rest.text))
        else:
            whole.append(prefix)
    return whole, refusal
