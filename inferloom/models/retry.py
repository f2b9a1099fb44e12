"""When a failed call is made again: retryable errors only, exponential backoff with jitter, `Retry-After` obeyed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from inferloom.core.errors import ModelError, UnreachableError

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds: the scale of the first wait and the longest wait that we choose ourselves."""
UNREACHABLE_ATTEMPTS = 3
"""An endpoint that cannot be reached at all is most likely a wrong address: fewer tries."""
_backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)


async def sleep(seconds: float) -> None:
    """Wait between attempts; tests replace it."""
    await asyncio.sleep(seconds)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ModelError) else None
    return max(asked or 0.0, _backoff(state))


def _again(error: BaseException) -> bool:
    return isinstance(error, ModelError) and error.retryable


def _stop(attempts: int) -> Callable[[RetryCallState], bool]:
    longest = stop_after_attempt(attempts)

    def stop(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, UnreachableError) and state.attempt_number >= UNREACHABLE_ATTEMPTS:
            return True
        return longest(state)

    return stop


async def pause_after(error: ModelError) -> None:
    """Wait between the first attempt and the second."""
    await sleep(max(error.retry_after or 0.0, random.uniform(0, FIRST_WAIT)))


def retrying(attempts: int) -> AsyncRetrying:
    """Up to `attempts` attempts; the last error is raised as it is."""

    async def pause(seconds: float) -> None:
        await sleep(seconds)

    return AsyncRetrying(
        stop=_stop(max(1, attempts)), wait=_wait, retry=retry_if_exception(_again), sleep=pause, reraise=True
    )
