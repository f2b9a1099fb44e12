"""Limits that hold: what a call may cost at most is reserved before it is made, and replaced by what it did cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inferloom.core.errors import BudgetExceededError
from inferloom.core.types import Completion, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that something may cost; None: no limit. A pipeline's budget counts nominal, a study's counts billed."""

    calls: float | None = None
    tokens: float | None = None
    usd: float | None = None
    seconds: float | None = None

    def limits(self) -> Mapping[str, float]:
        """The limits that are set, by name."""
        named = {"calls": self.calls, "tokens": self.tokens, "usd": self.usd, "seconds": self.seconds}
        return {name: limit for name, limit in named.items() if limit is not None}


def measures(usage: Usage) -> Mapping[str, float]:
    """What a usage counts against each limit."""
    return {"calls": usage.calls, "tokens": usage.tokens, "usd": usage.usd, "seconds": usage.seconds}


class Purse:
    """What is left of a budget, shared by everything that spends from it on one event loop."""

    def __init__(self, budget: Budget, spent: Usage | None = None, label: str = "") -> None:
        self.limits = budget.limits()
        self.refused = False
        """Whether something did not fit."""
        self._label = label
        self.spent = spent or Usage()
        self._reserved: dict[int, Usage] = {}
        self._settled: asyncio.Event | None = None
        self._next = 0

    def fits(self, most: Usage) -> str | None:
        """The first limit that spending `most` on top of all that is reserved could pass; None where all hold."""
        if not self.limits:
            return None
        total = self.spent + most
        for usage in self._reserved.values():
            total = total + usage
        amounts = measures(total)
        return next((name for name, limit in self.limits.items() if amounts[name] > limit * (1 + 1e-9)), None)

    async def reserve(self, most: Callable[[int], Usage], count: int) -> tuple[int, int]:
        """Set the cost of up to `count` completions aside; `most(k)` is the most that k of them can cost.

        Waits where running calls may still give something back.

        Returns:
            A ticket for `settle`, and how many completions were granted (1 to `count`).

        Raises:
            BudgetExceededError: Not even one fits, whatever the running calls turn out to cost.
        """
        if not self.limits:
            return 0, count
        while True:
            limit = self.fits(most(count))
            if limit is None:
                granted = count
                break
            if not self._reserved:
                granted = next((k for k in range(count - 1, 0, -1) if self.fits(most(k)) is None), 0)
                if granted:
                    break
                limit = self.fits(most(1)) or limit
                raise self.refusal(limit, most(1))
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()
        self._next += 1
        self._reserved[self._next] = most(granted)
        return self._next, granted

    def refusal(self, limit: str, most: Usage, received: Sequence[Completion] = ()) -> BudgetExceededError:
        """The error that says that spending `most` more would pass `limit`."""
        self.refused = True
        needed = measures(self.spent + most)[limit]
        return BudgetExceededError(f"{self._label}{limit}", self.limits[limit], needed, received=received)

    def settle(self, ticket: int, spent: Usage) -> None:
        """Replace a reservation by what was spent."""
        self._reserved.pop(ticket, None)
        self.spent = self.spent + spent
        if self._settled is not None:
            self._settled.set()
            self._settled = None
