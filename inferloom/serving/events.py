"""An answer as server-sent events: tokens as they come where they are the answer's, else the answer once it is chosen.

What the pipeline does meanwhile is told in comments, which clients pass over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from inferloom.core.types import Json
from inferloom.pipelines.live_text import LiveText
from inferloom.pipelines.run import StreamEvent
from inferloom.serving.desk import Desk, Document, Order
from inferloom.serving.errors import ApiError

_QUIET = 10.0
"""Seconds without an event after which a comment says that the work goes on."""


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where the events of one choice go."""

    index: int
    queue: asyncio.Queue[tuple[int, StreamEvent] | None]

    def put_nowait(self, event: StreamEvent, /) -> None:
        """Take an event."""
        self.queue.put_nowait((self.index, event))


async def event_stream(desk: Desk, order: Order, include_usage: bool) -> AsyncIterator[bytes]:
    """The answer as server-sent events.

    Raises:
        ApiError: Whatever went wrong, as the client is told; it may come after the first events.
    """
    queue: asyncio.Queue[tuple[int, StreamEvent] | None] = asyncio.Queue()
    task = asyncio.create_task(desk.answer(order, lambda index: _Sink(index, queue)))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    texts = [LiveText(order.stops) for _ in order.runs]
    head = _head(order.id, order.created, order.name)
    try:
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    item = await queue.get()
            except TimeoutError:
                yield b": working\n\n"
                continue
            if item is None:
                break
            index, event = item
            if event.kind == "restart":
                texts[index].restart()
            elif event.kind != "token":
                if (comment := _comment(index, event)) is not None:
                    yield comment
            elif event.data.get("index") == 0 and not order.logprobs:
                fresh = not texts[index].sent
                if new := texts[index].hear(str(event.data["text"])):
                    yield _chunk(head, index, _delta(new, fresh))
        for part in _rest(await task, texts, include_usage):
            yield part
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _rest(document: Document, texts: list[LiveText], include_usage: bool) -> list[bytes]:
    """What is missing of a whole answer.

    Raises:
        ApiError: 502; the answer is not what was sent of it.
    """
    choices = document["choices"]
    assert isinstance(choices, list)
    # An answer that was kept under an `Idempotency-Key` has an id of its own.
    head = _head(document["id"], document["created"], document["model"])
    parts = []
    for choice, text in zip(choices, texts, strict=True):
        assert isinstance(choice, dict)
        message = choice["message"]
        assert isinstance(message, dict)
        index = int(str(choice["index"]))
        fresh = not text.sent
        new = text.finish(str(message["content"] or ""))
        if new is None:
            raise ApiError(502, "a model's answer broke off and came out differently when asked again", code="diverged")
        if new or fresh:
            parts.append(_chunk(head, index, _delta(new, fresh), logprobs=choice["logprobs"]))
        if isinstance(calls := message.get("tool_calls"), list):
            numbered: list[Json] = [{"index": at, **call} for at, call in enumerate(calls) if isinstance(call, dict)]
            parts.append(_chunk(head, index, {"tool_calls": numbered}))
        parts.append(_chunk(head, index, {}, finish=choice["finish_reason"]))
    own: dict[str, Json] = {**head, "choices": [], "inferloom": document["inferloom"]}
    if include_usage:
        own["usage"] = document["usage"]
        parts.append(_event(own))
    else:
        # Clients that did not ask for usage expect a choice in every event, so ours goes into a comment.
        parts.append(f": {json.dumps(document['inferloom'])}\n\n".encode())
    parts.append(b"data: [DONE]\n\n")
    return parts


def error_event(error: ApiError) -> bytes:
    """An error in the middle of a stream."""
    return _event({"error": dict(error.document()["error"])})


def _head(id: Json, created: Json, model: Json) -> dict[str, Json]:
    return {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}


def _delta(text: str, fresh: bool) -> dict[str, Json]:
    return {"role": "assistant", "content": text} if fresh else {"content": text}


def _chunk(head: Mapping[str, Json], index: int, delta: Json, *, logprobs: Json = None, finish: Json = None) -> bytes:
    choice: Json = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return _event({**head, "choices": [choice]})


def _event(data: Mapping[str, Json]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _comment(index: int, event: StreamEvent) -> bytes | None:
    """A stage of the pipeline as a comment, on one line; None for events that are no stage."""
    if event.kind != "node":
        return None
    told = ", ".join(f"{name} {value}" for name, value in event.data.items())
    choice = f"choice {index}: " if index else ""
    line = " ".join(f": {choice}{event.path}: {told}".split())
    return f"{line}\n\n".encode()
