"""The HTTP application: one function per path."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from inferloom.core.errors import InferloomError, UnknownNameError
from inferloom.core.types import Json, Usage
from inferloom.serving.description import description
from inferloom.serving.desk import Desk, Document, Order
from inferloom.serving.errors import ApiError, api_error
from inferloom.serving.events import event_stream
from inferloom.serving.keys import Account, Keyring
from inferloom.serving.page import run_page
from inferloom.serving.responding import EventStream, HungUp, error_response, read_limited, unless_hung_up
from inferloom.serving.trace import trace
from inferloom.serving.wire import ChatRequest, FeedbackRequest, read_body
from inferloom.store.rows import FeedbackRow, RunRow

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_RUN = re.compile(r"[0-9a-f]{32}")
_HUNG_UP = 499
"""What stands for a reply that nobody reads."""


class Paths:
    """What the server answers under each path.

    Args:
        desk: Answers requests with pipelines.
        keyring: Knows whose key is whose.
    """

    def __init__(self, desk: Desk, keyring: Keyring) -> None:
        self.desk = desk
        self.keyring = keyring
        self._started = int(time.time())

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/feedback", self.feedback, methods=["POST"]),
            Route("/runs/{run}", self.run, methods=["GET"]),
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={
                InferloomError: _told,
                HTTPException: _refused,
                HungUp: _unread,
                Exception: _unforeseen,
            },
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        account = self._account(request)
        listed: list[Json] = [self._model(name) for name in self.desk.pipelines if account.may_ask(name)]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        account = self._account(request)
        name = str(request.path_params["model"])
        known = [name for name in self.desk.pipelines if account.may_ask(name)]
        if name not in known:
            raise ApiError(404, UnknownNameError("model", name[:200], known).sentence, code="model_not_found")
        return JSONResponse(self._model(name))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        account = self._account(request)
        body = await read_limited(request, self.desk.limits)
        asked = read_body(ChatRequest, body)
        order = self.desk.order(asked, account, request.headers.get("idempotency-key"), body)
        named = {"x-inferloom-run": ",".join(order.runs)}
        if asked.stream:
            options = asked.stream_options
            usage = bool(options and options.include_usage)
            return EventStream(event_stream(self.desk, order, usage), named)
        document = await unless_hung_up(request.receive, self.desk.answer(order))
        return JSONResponse(document, headers=_accounts(document, order))

    async def feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`."""
        account = self._account(request)
        body = await read_limited(request, self.desk.limits)
        asked = read_body(FeedbackRequest, body)
        run = await self._run(asked.run.removeprefix("chatcmpl-"), account)
        row = FeedbackRow(
            id=uuid.uuid4().hex,
            run=run.id,
            score=float(asked.score),
            grader=asked.grader,
            decision=asked.decision,
            comment=asked.comment,
            owner=account.name,
            created=time.time(),
        )
        await self.desk.gateway.store.write(row)
        told = {"id": row.id, "object": "inferloom.feedback", "run": row.run, "score": row.score}
        return JSONResponse(told, status_code=201)

    async def run(self, request: Request) -> Response:
        """`GET /runs/{run}`: a page for a browser, else JSON."""
        account = self._account(request)
        run = await self._run(str(request.path_params["run"]), account)
        store = self.desk.gateway.store
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(await asyncio.to_thread(run_page, store, run.id))
        return JSONResponse(await asyncio.to_thread(trace, store, run, run.id in self.desk.live))

    async def healthz(self, request: Request) -> Response:
        """`GET /healthz`."""
        self.desk.gateway.store.raise_if_failed()
        return JSONResponse({"status": "ok", "pipelines": len(self.desk.pipelines)})

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        account = self._account(request)
        if not account.key.metrics:
            raise ApiError(403, f"key `{account.name}` may not read the metrics; give its entry `metrics: true`")
        return Response(self.desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        return JSONResponse(description(list(self.desk.pipelines), self.keyring.locked))

    def _account(self, request: Request) -> Account:
        return self.keyring.account(request.headers.get("authorization"))

    def _model(self, name: str) -> dict[str, Json]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "inferloom"}

    async def _run(self, id: str, account: Account) -> RunRow:
        """A run of this key.

        Raises:
            ApiError: 404; there is none, or it is another key's, which looks the same.
        """
        if _RUN.fullmatch(id):
            try:
                run = await asyncio.to_thread(self.desk.gateway.store.run, id)
            except UnknownNameError:
                run = None
            if run is not None and run.tag == account.tag:
                return run
        raise ApiError(404, f"there is no run `{id[:64]}` of this key", code="run_not_found")


def _accounts(document: Document, order: Order) -> dict[str, str]:
    """Run and bill as headers; those of the answer, which may have been kept under an `Idempotency-Key`."""
    own = document["inferloom"]
    assert isinstance(own, dict)
    runs = own["runs"]
    assert isinstance(runs, list)
    billed = Usage()
    ids = []
    for run in runs:
        assert isinstance(run, dict)
        ids.append(str(run["run"]))
        if run["run"] in order.runs:
            spent = run["billed"]
            assert isinstance(spent, dict)
            billed += Usage(**spent)  # type: ignore[arg-type]  # it is what `to_json` of a usage made
    return {
        "x-inferloom-run": ",".join(ids),
        "x-inferloom-billed-calls": str(billed.calls),
        "x-inferloom-billed-tokens": str(billed.tokens),
        "x-inferloom-billed-usd": f"{billed.usd:.6f}",
    }


async def _told(request: Request, error: Exception) -> Response:
    return error_response(api_error(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: f"there is nothing at {request.url.path[:200]}", 405: f"{request.method} is not for this path"}
    told = ApiError(error.status_code, message.get(error.status_code, str(error.detail)), headers=error.headers)
    return error_response(told)


async def _unread(request: Request, error: Exception) -> Response:
    return Response(status_code=_HUNG_UP)


async def _unforeseen(request: Request, error: Exception) -> Response:
    sys.stderr.write(f"error: unexpected {type(error).__name__} at {request.url.path[:200]}\n")
    traceback.print_exception(error)
    return error_response(api_error(error))
