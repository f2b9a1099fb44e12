"""OpenAI's wire format: what replies look like, how they become completions, and what failures mean.

Knows nothing of HTTP calls, keys in the environment or specs; `inferloom.models.openai` makes the calls.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from pydantic import AliasChoices, BaseModel, Field, JsonValue, ValidationError

from inferloom.core.answers import split_reasoning
from inferloom.core.errors import (
    BadResponseError,
    ConnectionCutError,
    ModelError,
    ModelTimeoutError,
    RateLimitedError,
    RequestRejectedError,
    ServerFaultError,
    UnreachableError,
)
from inferloom.core.protocols import TokenSink
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import Completion, FinishReason, Message, Request, TokenLogprob

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAIError

_LEAST_LOGPROB = -9999.0
"""Servers write it (or minus infinity, which JSON does not have) for what cannot be."""
_FINISH: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "stop"}
_KEY_LIKE = re.compile(r"\b(?:sk|pk|key|gsk|hf|xai)[-_][A-Za-z0-9*._-]{6,}")


class MissingLogprobsError(BadResponseError):
    """The server quietly left out the log-probabilities that were asked for; asking again would not help."""

    retryable = False


def wire_message(message: Message) -> dict[str, JsonValue]:
    """A turn as `/v1/chat/completions` takes it."""
    body: dict[str, JsonValue] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def wire_tools(tools: Tools) -> dict[str, JsonValue]:
    """The fields that offer tools."""
    choice: JsonValue = tools.choice
    if tools.choice not in ("auto", "none", "required"):
        choice = {"type": "function", "function": {"name": tools.choice}}
    return {"tools": json.loads(tools.definitions), "tool_choice": choice}


class Reply(Protocol):
    """A whole reply."""

    def completions(self, request: Request, n: int, where: str) -> list[Completion]:
        """The completions, n at most.

        Raises:
            BadResponseError: A field that must be there is not.
        """
        ...


class _Details(BaseModel):
    cached_tokens: int | None = None


class WireUsage(BaseModel):
    """What the server billed for the whole call."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    prompt_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's name for cached tokens."""

    @property
    def cached(self) -> int:
        """The prompt tokens served from a cache."""
        detailed = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None
        return max(0, min(detailed or self.prompt_cache_hit_tokens or 0, self.prompt_tokens))


class _Top(BaseModel):
    token: str
    logprob: float | None


class _Scored(_Top):
    top_logprobs: list[_Top] = []


class _ChatLogprobs(BaseModel):
    content: list[_Scored] | None = None

    def tokens(self) -> tuple[TokenLogprob, ...]:
        return tuple(
            TokenLogprob(
                one.token, _finite(one.logprob), tuple((top.token, _finite(top.logprob)) for top in one.top_logprobs)
            )
            for one in self.content or ()
        )


class _TextLogprobs(BaseModel):
    tokens_: list[str] = Field(validation_alias="tokens")
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None = None

    def tokens(self) -> tuple[TokenLogprob, ...]:
        tops = self.top_logprobs or [None] * len(self.tokens_)
        return tuple(
            TokenLogprob(token, _finite(logprob), _ordered(top or {}))
            for token, logprob, top in zip(self.tokens_, self.token_logprobs, tops, strict=False)
        )


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(BaseModel):
    """A tool call, or in a stream a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Message(BaseModel):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning: str | None = Field(default=None, validation_alias=AliasChoices("reasoning_content", "reasoning"))


class _Choice(BaseModel):
    index: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class ChatChoice(_Choice):
    """A choice of `/v1/chat/completions`."""

    message: _Message
    logprobs: _ChatLogprobs | None = None


class TextChoice(_Choice):
    """A choice of `/v1/completions`."""

    text: str
    logprobs: _TextLogprobs | None = None


class ChatReply(BaseModel):
    """The reply of `/v1/chat/completions`."""

    choices: list[ChatChoice] = Field(min_length=1)
    usage: WireUsage

    def completions(self, request: Request, n: int, where: str) -> list[Completion]:
        """The completions, n at most."""
        parts = [_Part(choice, choice.message.content or "", choice.message.reasoning) for choice in self.choices]
        return _assemble(parts, self.usage, request, n, where)


class TextReply(BaseModel):
    """The reply of `/v1/completions`."""

    choices: list[TextChoice] = Field(min_length=1)
    usage: WireUsage

    def completions(self, request: Request, n: int, where: str) -> list[Completion]:
        """The completions, n at most."""
        return _assemble([_Part(choice, choice.text, None) for choice in self.choices], self.usage, request, n, where)


class _Vector(BaseModel):
    index: int | None = None
    embedding: list[float] = Field(min_length=1)


class VectorReply(BaseModel):
    """The reply of `/v1/embeddings`."""

    data: list[_Vector]

    def vectors(self, n: int, where: str) -> list[list[float]]:
        """The n vectors in the order of the texts.

        Raises:
            BadResponseError: There are more or fewer.
        """
        placed = {place if one.index is None else one.index: one.embedding for place, one in enumerate(self.data)}
        if sorted(placed) != list(range(n)) or len(self.data) != n:
            raise BadResponseError(f"the reply holds {len(self.data)} vectors for {n} texts", where=where)
        return [placed[index] for index in range(n)]


class _Part:
    """One choice with its text and reasoning, whole or in the making."""

    def __init__(self, choice: _Choice, text: str, reasoning: str | None) -> None:
        self.index = choice.index
        self.text = text
        self.reasoning = reasoning
        self.finish_reason = choice.finish_reason
        self.stop_reason = choice.stop_reason
        logprobs = choice.logprobs if isinstance(choice, ChatChoice | TextChoice) else None
        self.logprobs: tuple[TokenLogprob, ...] | None = logprobs.tokens() if logprobs is not None else None
        self.calls: dict[int, ToolCall] = {}
        if isinstance(choice, ChatChoice):
            self.add_calls(choice.message)

    def add_calls(self, message: _Message) -> None:
        """Take in tool calls, or the next pieces of some; a piece without a place is a whole call."""
        for piece in message.tool_calls or ():
            place = len(self.calls) if piece.index is None else piece.index
            call = self.calls.get(place, ToolCall("", ""))
            name, arguments = call.name + (piece.function.name or ""), call.arguments + (piece.function.arguments or "")
            self.calls[place] = ToolCall(name, arguments, call.id or piece.id or "")

    @property
    def length(self) -> int:
        """Characters that were generated."""
        called = sum(len(call.name) + len(call.arguments) for call in self.calls.values())
        return len(self.text) + len(self.reasoning or "") + called


class _Delta(_Choice):
    delta: _Message | None = None
    text: str | None = None
    logprobs: dict[str, object] | None = None


class _Event(BaseModel):
    choices: list[_Delta] = []
    usage: WireUsage | None = None


class StreamedReply:
    """A reply put together from the events of a stream; new text goes to the sink as it comes."""

    def __init__(self, chat: bool, on_token: TokenSink) -> None:
        self._chat = chat
        self._on_token = on_token
        self._parts: dict[int, _Part] = {}
        self._usage: WireUsage | None = None

    @property
    def finished(self) -> bool:
        """Whether every choice that began has ended."""
        return bool(self._parts) and all(part.finish_reason is not None for part in self._parts.values())

    def add(self, data: object, where: str) -> None:
        """Take in one event.

        Raises:
            BadResponseError: The event cannot be read.
        """
        try:
            event = _Event.model_validate(data)
            for delta in event.choices:
                self._grow(delta)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise BadResponseError(f"an event of the stream cannot be read: `{field}`", where=where) from None
        self._usage = event.usage or self._usage

    def _grow(self, delta: _Delta) -> None:
        text = (delta.delta.content if self._chat and delta.delta else delta.text) or ""
        part = self._parts.get(delta.index)
        if part is None:
            part = self._parts[delta.index] = _Part(delta, "", None)
        part.text += text
        if delta.delta is not None:
            part.add_calls(delta.delta)
            if delta.delta.reasoning:
                part.reasoning = (part.reasoning or "") + delta.delta.reasoning
        part.finish_reason = delta.finish_reason or part.finish_reason
        part.stop_reason = delta.stop_reason if delta.stop_reason is not None else part.stop_reason
        if delta.logprobs is not None:
            shape: type[_ChatLogprobs] | type[_TextLogprobs] = _ChatLogprobs if self._chat else _TextLogprobs
            part.logprobs = (part.logprobs or ()) + shape.model_validate(delta.logprobs).tokens()
        if text:
            self._on_token(delta.index, text)

    def completions(self, request: Request, n: int, where: str) -> list[Completion]:
        """The completions, n at most."""
        if self._usage is None:
            raise BadResponseError("the stream did not say its usage, so the accounts would be wrong", where=where)
        return _assemble(list(self._parts.values()), self._usage, request, n, where)


def _assemble(parts: Sequence[_Part], usage: WireUsage, request: Request, n: int, where: str) -> list[Completion]:
    ordered = sorted(parts, key=lambda part: part.index)[:n]
    shares = _shares(ordered, usage.completion_tokens)
    completions: list[Completion] = []
    for part, share in zip(ordered, shares, strict=True):
        if request.logprobs is not None and part.logprobs is None and part.text:
            raise MissingLogprobsError(
                "log-probabilities were asked for and did not come; set `reject: [logprobs]` for this model",
                where=where,
            )
        text, inline = split_reasoning(part.text)
        first = not completions
        completions.append(
            Completion(
                text=text,
                finish_reason=_FINISH.get(part.finish_reason, "other"),
                stop_reason=part.stop_reason if isinstance(part.stop_reason, str) else None,
                prompt_tokens=usage.prompt_tokens if first else 0,
                cached_tokens=usage.cached if first else 0,
                completion_tokens=share,
                logprobs=None if request.logprobs is None else part.logprobs or (),
                reasoning=part.reasoning or inline,
                tool_calls=tuple(call for _, call in sorted(part.calls.items())),
            )
        )
    return completions


def _shares(parts: Sequence[_Part], total: int) -> list[int]:
    """Each completion's part of the generated tokens; they add up to the total."""
    counted = [len(part.logprobs) for part in parts if part.logprobs is not None]
    if len(counted) == len(parts) and sum(counted) == total:
        return counted
    weights = [1 + part.length for part in parts]
    shares = [total * weight // sum(weights) for weight in weights]
    for position in range(total - sum(shares)):
        shares[position % len(shares)] += 1
    return shares


def _finite(logprob: float | None) -> float:
    return _LEAST_LOGPROB if logprob is None else max(_LEAST_LOGPROB, min(0.0, logprob))


def _ordered(top: Mapping[str, float | None]) -> tuple[tuple[str, float], ...]:
    likeliest = sorted(((token, _finite(logprob)) for token, logprob in top.items()), key=lambda pair: -pair[1])
    return tuple(likeliest)


def failure(error: OpenAIError, where: str, key: str | None, key_name: str | None) -> ModelError:
    """What an error of the SDK means. `key` is cut out of every message that a server sent."""
    import httpx2
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    cause = error.__cause__
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError | httpx2.UnsupportedProtocol):
        return UnreachableError("cannot connect; is the server running and `base_url` right?", where=where)
    if isinstance(error, APITimeoutError):
        return ModelTimeoutError("no answer in time", where=where)
    if isinstance(error, APIConnectionError):
        return ConnectionCutError(f"the connection broke ({type(cause).__name__})", where=where)
    if isinstance(error, APIStatusError):
        return _status_failure(error, where, key, key_name)
    return BadResponseError(_without_key(str(error), key), where=where)


def _status_failure(error: APIStatusError, where: str, key: str | None, key_name: str | None) -> ModelError:
    status = error.status_code
    said = _without_key(_server_message(error), key)
    wait = retry_after(error.response.headers)
    if status == 401:
        # Servers repeat keys in this message.
        hint = f"check the environment variable {key_name}" if key_name else "name the key's variable in `key`"
        return RequestRejectedError(f"the server refused the key (401); {hint}", where=where)
    if status == 429 and error.code != "insufficient_quota":
        return RateLimitedError(f"the server asks to slow down (429): {said}", where=where, retry_after=wait)
    if status in (408, 504):
        # A gateway gave up waiting; the model behind it may have gone on.
        return ModelTimeoutError(f"the server gave up waiting ({status}): {said}", where=where, retry_after=wait)
    if status >= 500:
        return ServerFaultError(f"the server failed ({status}): {said}", where=where, retry_after=wait)
    return RequestRejectedError(f"the server rejected the request ({status}): {said}", where=where)


def _server_message(error: APIStatusError) -> str:
    """The message that stands in the reply's body, 300 characters at most."""
    body = error.body
    if isinstance(body, Mapping):
        # The SDK unwraps `error` itself; some servers write `detail` or a bare `error` text.
        for name in ("message", "detail", "error"):
            if body.get(name):
                return " ".join(str(body[name]).split())[:300]
    text = body if isinstance(body, str) else error.response.reason_phrase
    return " ".join(text.split())[:300] or "no message"


def _without_key(text: str, key: str | None) -> str:
    if key:
        text = text.replace(key, "***")
    return _KEY_LIKE.sub("***", text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None where it does not say."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / scale)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError):
            pass
    return None
