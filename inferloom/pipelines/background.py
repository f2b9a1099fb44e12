"""Asynchronous code for synchronous callers: one event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import TypeVar

T = TypeVar("T")


class _Background:
    """One event loop on a thread of its own, for synchronous callers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="inferloom", daemon=True).start()


_background: _Background | None = None
_lock = threading.Lock()


def run_sync(coroutine: Coroutine[None, None, T]) -> T:
    """Run a coroutine on the background loop and wait for it; an interrupt cancels it and waits until it has let go."""
    global _background
    with _lock:
        if _background is None:
            _background = _Background()
    ended = threading.Event()

    async def whole() -> T:
        try:
            return await coroutine
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(whole(), _background.loop)
    try:
        return future.result()
    except BaseException:
        # What was in flight is still recorded; the caller must not close the database before that.
        if future.cancel():
            ended.wait(10)
        raise


def iterate_sync(items: AsyncIterator[T]) -> Iterator[T]:
    """The items of an asynchronous generator, made on the background loop; leaving early closes it."""

    async def advance() -> tuple[T] | None:
        try:
            return (await anext(items),)
        except StopAsyncIteration:
            return None

    async def close() -> None:
        if isinstance(items, AsyncGenerator):
            await items.aclose()

    try:
        while (item := run_sync(advance())) is not None:
            yield item[0]
    finally:
        run_sync(close())
