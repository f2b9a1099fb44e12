"""Python functions that score candidates, by the names that YAML uses.

    from inferloom.nodes.scorers import register_scorer

    @register_scorer("short")
    def short(question: str, candidate: Candidate) -> float:
        return 1 / (1 + len(candidate.text))

A pipeline then says `score: {method: callable, scorer: short}`. YAML never names a module: what is not registered, by
an import or by an entry point in the group `inferloom`, cannot be called.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from inferloom.core.errors import UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.registry import Registry
from inferloom.core.types import Candidate, NodeState

Scorer: TypeAlias = Callable[[str, Candidate], float | Awaitable[float]]
"""(question, candidate) -> score. One that takes long should be async: a plain function holds up every other run."""

SCORERS: Registry[Scorer] = Registry("scorer")

S = TypeVar("S", bound=Scorer)


def register_scorer(name: str) -> Callable[[S], S]:
    """Register a function under the name that YAML uses."""

    def add(scorer: S) -> S:
        SCORERS.register(name)(scorer)
        return scorer

    return add


async def call_scorer(name: str, candidate: Candidate, state: NodeState, context: NodeContext) -> float:
    """The score that a registered function gives a candidate.

    Raises:
        UnknownNameError: No function has this name.
        UserError: The function failed, or gave something other than a finite number.
    """
    scorer = SCORERS.get(name, where=context.path)
    try:
        value = scorer(state.question, candidate)
        score = float(await value if inspect.isawaitable(value) else value)
    except Exception as error:  # the user's code may raise anything; it becomes one sentence
        raise UserError(f"the scorer `{name}` failed: {type(error).__name__}: {error}", where=context.path) from error
    if not math.isfinite(score):
        raise UserError(f"the scorer `{name}` gave {score}; must be a finite number", where=context.path)
    return score
