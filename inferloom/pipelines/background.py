"""Asynchronous code for synchronous callers: one event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_LETTING_GO = 10.0
"""Seconds that an interrupted caller waits for what was in flight to be recorded."""


class _Background:
    """One event loop on a thread of its own, for synchronous callers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="inferloom", daemon=True).start()


_background: _Background | None = None
_lock = threading.Lock()


def run_sync(coroutine: Coroutine[None, None, T]) -> T:
    """Run a coroutine on the background loop and wait for it; an interrupt cancels it and waits until it has let go."""
    future, ended = _start(coroutine)
    try:
        return future.result()
    except BaseException:
        _cancel(future, ended)
        raise


def iterate_sync(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an asynchronous generator that runs on the background loop; leaving early closes it."""
    told: SimpleQueue[tuple[T] | None] = SimpleQueue()

    async def whole() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    told.put((item,))
        finally:
            told.put(None)

    future, ended = _start(whole())
    try:
        while (item := told.get()) is not None:
            yield item[0]
        future.result()
    finally:
        _cancel(future, ended)


def _start(coroutine: Coroutine[None, None, T]) -> tuple[Future[T], threading.Event]:
    """A coroutine on its way on the background loop, and what is set when it has let go."""
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

    return asyncio.run_coroutine_threadsafe(whole(), _background.loop), ended


def _cancel(future: Future[T], ended: threading.Event) -> None:
    # What was in flight is still recorded; the caller must not close the database before that.
    if future.cancel():
        ended.wait(_LETTING_GO)
