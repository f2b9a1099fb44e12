"""From a request to its answer: which pipeline, from which stream, on whose account; its runs, and their document."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inferloom.core.digest import digest
from inferloom.core.errors import CapabilityError, UnknownNameError
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import Candidate, Json, Message, TokenLogprob, total
from inferloom.memory.scope import MemoryScope
from inferloom.models.budget import Purse
from inferloom.models.client import Gateway
from inferloom.pipelines.rules import check_tools
from inferloom.pipelines.run import EventSink, Pipeline, RunResult
from inferloom.pipelines.spec import PipelineSpec
from inferloom.serving.errors import ApiError, api_error
from inferloom.serving.idempotency import Claims, check_key, stream_of
from inferloom.serving.keys import Account
from inferloom.serving.limits import Admission, Limits
from inferloom.serving.metrics import Metrics
from inferloom.serving.overrides import Overrides, cut, overridden
from inferloom.serving.wire import ChatRequest

_MOST_VARIANTS = 256
"""Pipelines with other sampling parameters that are kept compiled."""

Sinks = Callable[[int], EventSink]
"""Where the events of the index-th choice go."""
Document = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request."""

    name: str
    """The pipeline's name on this server."""
    pipeline: Pipeline
    messages: tuple[Message, ...]
    stops: tuple[str, ...]
    logprobs: bool
    tools: Tools | None
    runs: tuple[str, ...]
    """The id of each choice's run."""
    streams: tuple[str | None, ...]
    """Where each choice draws from; None: fresh draws."""
    account: Account
    idempotency: str | None
    body: str
    """The hash of the request's body."""
    created: int

    @property
    def id(self) -> str:
        """The answer's id."""
        return f"chatcmpl-{self.runs[0]}"


class Desk:
    """Answers requests with the pipelines of one server.

    Args:
        pipelines: What is served, by name.
        gateway: Their models and their database.
        limits: How much is taken on.
    """

    def __init__(self, pipelines: Mapping[str, PipelineSpec], gateway: Gateway, limits: Limits) -> None:
        self.gateway = gateway
        self.limits = limits
        self.admission = Admission(limits)
        self.metrics = Metrics()
        self.live: set[str] = set()
        """The runs that are going on."""
        self.pipelines = {name: Pipeline(spec, gateway) for name, spec in pipelines.items()}
        self._variants: OrderedDict[tuple[str, Overrides], Pipeline] = OrderedDict()
        self._claims = Claims(gateway.store)
        self._working: set[asyncio.Task[object]] = set()

    def order(self, request: ChatRequest, account: Account, idempotency: str | None, body: bytes) -> Order:
        """Check a request.

        Raises:
            ApiError: 400, 403 or 404; what is wrong, and what is allowed.
        """
        self._check(request, account)
        wanted = Overrides(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.longest,
            stop=request.stops,
            logprobs=bool(request.logprobs),
        )
        stream = None
        if request.seed is not None:
            stream = stream_of(account.name, "seed", str(request.seed))
        elif idempotency is not None:
            stream = stream_of(account.name, "key", check_key(idempotency))
        choices = range(request.choices)
        pipeline, tools = self._pipeline(request.model, wanted), request.offered
        if tools is not None:
            try:
                check_tools(pipeline.spec, pipeline.capabilities)
            except CapabilityError as error:
                raise ApiError(400, f"pipeline `{request.model}`: {error.message}", param="tools") from None
        return Order(
            name=request.model,
            pipeline=pipeline,
            messages=tuple(turn.message() for turn in request.messages),
            stops=request.stops,
            logprobs=wanted.logprobs,
            tools=tools,
            runs=tuple(uuid.uuid4().hex for _ in choices),
            streams=tuple(stream and (f"{stream}/{index}" if index else stream) for index in choices),
            account=account,
            idempotency=idempotency and check_key(idempotency),
            body=digest(body.decode("utf-8", "replace")),
            created=int(time.time()),
        )

    async def answer(self, order: Order, sinks: Sinks | None = None) -> Document:
        """The answer as a document of OpenAI's shape; also kept, where the request has an `Idempotency-Key`.

        Raises:
            ApiError: Whatever went wrong, as the client is told.
        """
        started = time.monotonic()
        results: Sequence[RunResult] = ()
        status = 499  # the client went away
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        self.metrics.waiting.inc()
        waiting = True
        try:
            with order.account.asking():
                async with self.admission.place():
                    self.metrics.waiting.dec()
                    waiting = False
                    with self.metrics.running.track_inprogress():
                        document, results = await self._once(order, sinks)
            status = 200
            return document
        except Exception as error:
            told = api_error(error, order.runs[0])
            status = told.status
            raise told from error
        finally:
            self._working.discard(task)
            if waiting:
                self.metrics.waiting.dec()
            self.metrics.answered(order.name, status, time.monotonic() - started, results)

    async def aclose(self) -> None:
        """Cancel what still runs, wait until it has let go, and close the models."""
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(set(self._working), timeout=10)
        await self.gateway.aclose()

    def _check(self, request: ChatRequest, account: Account) -> None:
        if request.model not in self.pipelines:
            known = [name for name in self.pipelines if account.may_ask(name)]
            error = UnknownNameError("model", request.model[:200], known)
            raise ApiError(404, error.sentence, param="model", code="model_not_found")
        if not account.may_ask(request.model):
            raise ApiError(403, f"key `{account.name}` may not ask `{request.model}`", param="model")
        limits = self.limits
        if len(request.messages) > limits.turns:
            count = len(request.messages)
            raise ApiError(400, f"`messages` has {count} messages; at most {limits.turns}", param="messages")
        last = request.messages[-1]
        if last.role not in ("user", "tool") or not last.message().content.strip():
            what = "is empty" if last.role in ("user", "tool") else f"is the {last.role}'s"
            message = f"the last of `messages` {what}; it must be the user's question, or what a tool said"
            raise ApiError(400, message, param="messages")
        if request.choices > limits.choices:
            raise ApiError(400, f"`n` is {request.choices}; it must be from 1 to {limits.choices}", param="n")
        if request.stream_options is not None and not request.stream:
            raise ApiError(400, "`stream_options` is for streams; send `stream: true` too", param="stream_options")

    def _pipeline(self, name: str, wanted: Overrides) -> Pipeline:
        """The pipeline with a request's sampling parameters."""
        base = self.pipelines[name]
        if wanted == Overrides():
            return base
        found = self._variants.get((name, wanted))
        if found is None:
            spec = overridden(base.spec, wanted)
            try:
                found = base if spec is base.spec else Pipeline(spec, self.gateway)
            except CapabilityError as error:
                raise ApiError(400, f"pipeline `{name}` cannot do this: {error.message}") from None
            self._variants[name, wanted] = found
            if len(self._variants) > _MOST_VARIANTS:
                self._variants.popitem(last=False)
        self._variants.move_to_end((name, wanted))
        return found

    async def _once(self, order: Order, sinks: Sinks | None) -> tuple[Document, Sequence[RunResult]]:
        """Answer, or find the answer that this very request has already."""
        if order.idempotency is None:
            return await self._answer(order, sinks)
        row = await self._claims.take(
            order.account.name, order.idempotency, order.body, order.runs[0], order.streams[0] or ""
        )
        if row.status == "done":
            found: Document = json.loads(row.response or "{}")
            return found, ()
        kept = None
        try:
            document, results = await self._answer(order, sinks)
            kept = json.dumps(document)
        finally:
            self._claims.end(row, kept)
        return document, results

    async def _answer(self, order: Order, sinks: Sinks | None) -> tuple[Document, Sequence[RunResult]]:
        purse = await order.account.purse()
        async with asyncio.timeout(self.limits.seconds):
            results = await self._runs(order, purse, sinks)
        if purse is not None and any(result.stopped and not result.candidates for result in results):
            limit = next(iter(purse.limits))
            raise order.account.exhausted(f"what is left of {purse.limits[limit]:g} {limit} does not allow one answer")
        return await self._document(order, results), results

    async def _runs(self, order: Order, purse: Purse | None, sinks: Sinks | None) -> list[RunResult]:
        """The runs of all choices, at once; the first that fails cancels the others, which let go before it is told."""
        tasks = [
            asyncio.create_task(
                order.pipeline.ainvoke(
                    order.messages,
                    stream=stream,
                    run_id=run,
                    tag=order.account.tag,
                    memory=MemoryScope(order.account.namespace),
                    account=purse,
                    tools=order.tools,
                    events=sinks(index) if sinks else None,
                    tokens_of=_live(order),
                )
            )
            for index, (run, stream) in enumerate(zip(order.runs, order.streams, strict=True))
        ]
        self.live.update(order.runs)
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.live.difference_update(order.runs)

    async def _document(self, order: Order, results: Sequence[RunResult]) -> Document:
        usage = total(result.usage for result in results)
        return {
            "id": order.id,
            "object": "chat.completion",
            "created": order.created,
            "model": order.name,
            "choices": [await self._choice(order, index, result) for index, result in enumerate(results)],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            },
            "inferloom": {"runs": [_account(result) for result in results]},
        }

    async def _choice(self, order: Order, index: int, result: RunResult) -> Json:
        best = result.candidates[0] if result.candidates else None
        whole = result.content
        text = cut(whole, order.stops)
        ended = result.stopped is None and (text != whole or best is None or best.finished)
        calls: list[Json] = [
            _call(call, f"call_{best.id}_{at}" if best else "") for at, call in enumerate(result.tool_calls)
        ]
        message: dict[str, Json] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        logprobs: Json = None
        if order.logprobs and best is not None:
            logprobs = await asyncio.to_thread(self._logprobs, best, text)
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": "tool_calls" if calls else "stop" if ended else "length",
        }

    def _logprobs(self, best: Candidate, text: str) -> Json:
        """The tokens of an answer that is one completion's text; None for others."""
        try:
            completion = self.gateway.store.completion(best.origin.get("completion", ""))
        except UnknownNameError:
            return None
        if completion.text != best.text or not completion.text.startswith(text) or completion.logprobs is None:
            return None
        tokens: list[Json] = []
        written = 0
        for token in completion.logprobs:
            if written >= len(text):
                break
            written += len(token.token)
            tokens.append(_token(token))
        return {"content": tokens, "refusal": None}


def _live(order: Order) -> tuple[str, ...]:
    path = order.pipeline.live_path
    return () if path is None else (path,)


def _call(call: ToolCall, id: str) -> Json:
    return {"id": call.id or id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _token(token: TokenLogprob) -> Json:
    return {
        "token": token.token,
        "logprob": max(token.logprob, -9999.0),  # JSON has no infinity
        "bytes": list(token.token.encode("utf-8", "surrogatepass")),
        "top_logprobs": [],
    }


def _account(result: RunResult) -> Json:
    """What is ours in an answer: where it comes from and what was spent."""
    return {
        "run": result.run_id,
        "answer": result.answer,
        "stopped": result.stopped,
        "usage": dict(result.usage.to_json()),
        "billed": dict(result.billed.to_json()),
        "unknown_at_most": dict(result.bound.to_json()),
        "wall_seconds": result.wall_seconds,
    }
