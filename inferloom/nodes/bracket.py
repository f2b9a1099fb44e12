"""Single elimination, for nodes that find the best of many by comparing two at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from inferloom.core.errors import BudgetExceededError
from inferloom.nodes.common import gather

Duel: TypeAlias = Callable[[int, int], Awaitable[int | None]]
"""The winner of two, the first of which is shown first; None where the reply names neither."""


async def single_elimination(
    count: int, duel: Duel, *, both_orders: bool = False
) -> tuple[list[int], BudgetExceededError | None]:
    """The positions 0 to count - 1 by the round that they reached, the winner first; equals keep their order.

    Neighbours meet, the matches of a round at once; the last of an odd number goes on without one. That makes count - 1
    matches. With `both_orders` a match is two duels with the places swapped. The earlier of two goes on after a tie and
    where no reply can be read.

    Where the budget ends on the way, the matches that were decided count, and nobody else goes on or out.

    Raises:
        BudgetExceededError: Not even one duel was held.
    """
    alive = list(range(count))
    out: list[list[int]] = []
    any_held = False
    while len(alive) > 1:
        matches = list(zip(alive[::2], alive[1::2], strict=False))
        turned = [(second, first) for first, second in matches] if both_orders else []
        results, refusal = await gather(_held(duel, *places) for places in (*matches, *turned))
        any_held = any_held or any(results)
        if refusal and not any_held:
            raise refusal
        winners, losers, undecided = [], [], alive[2 * len(matches) :]
        for index, (first, second) in enumerate(matches):
            replies = [result[0] for result in results[index :: len(matches)] if result is not None]
            if not replies:
                undecided += [first, second]
                continue
            ahead = replies.count(second) > replies.count(first)
            winners.append(second if ahead else first)
            losers.append(first if ahead else second)
        out.append(sorted(losers))
        if refusal:
            return [*winners, *sorted(undecided), *(one for lost in reversed(out) for one in lost)], refusal
        alive = [*winners, *undecided]
    return [*alive, *(one for lost in reversed(out) for one in lost)], None


async def _held(duel: Duel, first: int, second: int) -> tuple[int | None]:
    """A duel's result, told apart from a duel that the budget did not allow."""
    return (await duel(first, second),)
