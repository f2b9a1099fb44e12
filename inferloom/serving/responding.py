"""Between Starlette and the desk: bodies with a limit, clients that hang up, errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from inferloom.serving.errors import ApiError, api_error
from inferloom.serving.events import error_event
from inferloom.serving.limits import Limits

T = TypeVar("T")


class HungUp(Exception):
    """The client went away; nobody reads the reply."""


def error_response(error: ApiError) -> Response:
    """An error as a reply."""
    return JSONResponse(error.document(), status_code=error.status, headers=error.headers)


async def read_limited(request: Request, limits: Limits) -> bytes:
    """A request's body.

    Raises:
        ApiError: 413, too long; 408, too slow.
        HungUp: The client went away.
    """
    too_long = ApiError(413, f"the body is longer than {limits.body} bytes", headers={"connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.body:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.slow):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body:
                    raise too_long
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        message_ = f"the body did not come within {limits.slow:g} seconds"
        raise ApiError(408, message_, headers={"connection": "close"}) from None


async def unless_hung_up(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Do some work; a client that hangs up cancels it, and what was in flight has let go when this returns.

    Raises:
        HungUp: The client went away.
        ApiError: 503; the server is being stopped, and may not wait any longer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HungUp
    except asyncio.CancelledError:
        # Nobody else cancels a request.
        told = "the server was stopped before the answer was there; ask again (an `Idempotency-Key` keeps what is done)"
        raise ApiError(503, told, code="stopped", headers={"retry-after": "5"}) from None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. The reply begins with the first event, so that what fails before has a status of its own."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        self._events = events
        self._begun = False
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        del self.raw_headers[[name for name, _ in self.raw_headers].index(b"content-length")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await unless_hung_up(receive, self._send_all(scope, receive, send))
        except HungUp:
            pass
        except ApiError as error:
            await self._end(error, scope, receive, send)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for event in self._events:
                if not self._begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    self._begun = True
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except Exception as error:
            await self._end(api_error(error), scope, receive, send)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell of an error: as the reply, or in the middle of it."""
        if self._begun:
            await send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        else:
            await error_response(error)(scope, receive, send)
