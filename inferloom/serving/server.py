"""Serving: a socket, a server that shuts out slow clients, and an orderly end.

A server that is told to stop (SIGTERM, Ctrl-C) takes no more requests, lets those that run go on for `Limits.grace`
seconds, then cancels them: their calls are recorded, and with an `Idempotency-Key` they can be taken up again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import FrameType

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from inferloom.core.errors import SetupError
from inferloom.models.client import Gateway
from inferloom.pipelines.spec import PipelineSpec
from inferloom.serving.app import Paths
from inferloom.serving.desk import Desk
from inferloom.serving.keys import ApiKey, Keyring
from inferloom.serving.limits import Limits
from inferloom.store import Store


def open_socket(host: str, port: int) -> socket.socket:
    """The socket to listen at.

    Raises:
        SetupError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        told = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen at {host}, port {port} ({told}); name another with --host and --port"
        raise SetupError(message, where="serve") from None
    return listening


def serve(
    specs: Mapping[str, PipelineSpec],
    store: Store,
    keys: list[tuple[ApiKey, bytes]],
    limits: Limits,
    listening: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Serve pipelines until told to stop; what was in flight then is recorded when this returns.

    Args:
        specs: The pipelines by the names under which they are served.
        store: The database; the caller closes it.
        keys: The API keys (`load_keys`); none: everybody may ask.
        limits: How much is taken on.
        listening: Where to listen (`open_socket`).
        ready: Called when requests are taken.
    """

    # It warns of every client that goes away while it is sent something.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

    async def run() -> None:
        desk = Desk(specs, Gateway(store), limits)
        config = Config(
            _Lifespan(Paths(desk, Keyring(keys, store)).app(), desk, ready),
            http=_guarded(limits.slow),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=int(limits.grace),
        )
        await Server(config).serve(sockets=[listening])

    # uvicorn raises the signal again when it is done, to whoever had it before: here that is nobody, a good end.
    before = {number: signal.signal(number, _nothing) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


class _Lifespan:
    """The application with its beginning and end."""

    def __init__(self, app: Starlette, desk: Desk, ready: Callable[[], None]) -> None:
        app.router.lifespan_context = self._span
        self._app = app
        self._desk = desk
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _span(self, app: Starlette) -> AsyncIterator[None]:
        self._ready()
        try:
            yield
        finally:
            await self._desk.aclose()


def _guarded(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, but a connection on which the head of a request does not come in time is closed."""

    class Guarded(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._stop_waiting()
            elif self._patience is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()

        def _wait(self) -> None:
            self._patience = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Guarded
