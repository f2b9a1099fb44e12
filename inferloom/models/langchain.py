"""The scheme `langchain`: any LangChain chat model, named or made on the spot.

    langchain:NAME             a model registered with `register_chat_model("NAME", model)`
    langchain:PROVIDER:MODEL   one that LangChain makes (`init_chat_model`), such as `langchain:anthropic:claude-x`; the
                               spec's `extra` goes to its constructor

It makes one completion a call, has no seeds and tells no log-probabilities; results repeat through the bank.
`max_tokens`, `temperature` and `stop` go along with every call, less what the spec's `reject` names. A model that does
not tell its usage is refused at its first call, because the accounts would be wrong. Retries are the client's business:
set `max_retries` of the LangChain model to 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inferloom.core.errors import (
    BadResponseError,
    ConnectionCutError,
    InferloomError,
    ModelError,
    ModelTimeoutError,
    RateLimitedError,
    RequestRejectedError,
    ServerFaultError,
    SetupError,
)
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.registry import Registry
from inferloom.core.tools import ToolCall
from inferloom.core.types import Completion, FinishReason, Request
from inferloom.models.langchain_messages import from_langchain, reasoning_of, to_langchain
from inferloom.models.spec import ModelSpec

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

_ENDED = frozenset({"stop", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call", "eos"})
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_NOSTREAM = "nostream"
"""LangGraph's tag for tokens that are nobody's answer: these are drafts."""


class UnexplainedError(BadResponseError):
    """A failure of a kind that we do not know; asking again might cost again and not help."""

    retryable = False


CHAT_MODELS: Registry[BaseChatModel] = Registry("chat model")


def register_chat_model(name: str, model: BaseChatModel) -> BaseChatModel:
    """Make `langchain:NAME` this chat model.

    Raises:
        SetupError: The name is taken by another one.
    """
    return CHAT_MODELS.register(name)(model)


class LangChainBackend:
    """One LangChain chat model."""

    def __init__(self, name: str, model: BaseChatModel, spec: ModelSpec) -> None:
        from langchain_core.language_models import BaseChatModel

        self._name = name
        self._model = model
        self._spec = spec
        able = Capabilities(tools=type(model).bind_tools is not BaseChatModel.bind_tools)
        stated: dict[str, bool] = spec.capabilities.model_dump(exclude_none=True)
        self._capabilities = replace(able, **stated)

    @property
    def capabilities(self) -> Capabilities:
        """Tools where the model binds them, as the spec's `capabilities` correct it."""
        return self._capabilities

    async def fingerprint(self) -> str:
        """The hash of its class, what LangChain traces it by, the spec's `revision` and `extra`."""
        told = self._model._get_ls_params()
        kind = f"{type(self._model).__module__}.{type(self._model).__qualname__}"
        text = json.dumps([self._name, kind, dict(told), self._spec.revision, self._spec.extra], sort_keys=True)
        return "langchain-" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """One completion, streamed where somebody listens.

        Raises:
            ModelError: The kind says what happened and whether asking again may help.
        """
        if request.prefix is not None or request.continues:
            raise RequestRejectedError("cannot go on from text already written", where=self._name)
        messages = to_langchain(request.messages)
        config: Any = {"tags": [_NOSTREAM]}
        arguments = self._arguments(request)
        async with self._boundary():
            if on_token is None:
                message = await self._model.ainvoke(messages, config, **arguments)
            else:
                message = await self._streamed(messages, config, arguments, on_token)
        return [self._completion(message, request)]

    async def aclose(self) -> None:
        """Nothing to close: the model is its maker's."""

    async def _streamed(
        self, messages: list[Any], config: Any, arguments: Mapping[str, Any], on_token: TokenSink
    ) -> AIMessage:
        whole: Any = None
        async for chunk in self._model.astream(messages, config, **arguments):
            whole = chunk if whole is None else whole + chunk
            if chunk.text:
                on_token(0, str(chunk.text))
        if whole is None:
            raise ConnectionCutError("the stream ended before the completion did", where=self._name)
        message: AIMessage = whole
        return message

    def _arguments(self, request: Request) -> dict[str, Any]:
        """What goes along with the messages."""
        told: dict[str, Any] = {"temperature": request.temperature}
        if request.top_p != 1.0:
            told["top_p"] = request.top_p
        if request.stop:
            told["stop"] = list(request.stop)
        told = {name: value for name, value in told.items() if name not in self._spec.reject}
        told[self._spec.max_tokens_field or "max_tokens"] = request.max_tokens
        if request.tools is not None:
            # What `bind_tools` binds differs between providers, so the model itself is asked.
            choice = "any" if request.tools.choice == "required" else request.tools.choice
            bound: Any = self._model.bind_tools(json.loads(request.tools.definitions), tool_choice=choice)
            told |= bound.kwargs
        return told

    def _completion(self, message: AIMessage, request: Request) -> Completion:
        usage = message.usage_metadata
        if usage is None:
            raise UnexplainedError("the model did not tell its usage, so the accounts would be wrong", where=self._name)
        [turn] = from_langchain([message])
        text, stop_reason = _cut(turn.content, request.stop)
        told = message.response_metadata
        reason = told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason") or "stop"
        cached = (usage.get("input_token_details") or {}).get("cache_read") or 0
        return Completion(
            text=text,
            finish_reason=_finish(str(reason).lower()),
            stop_reason=stop_reason,
            prompt_tokens=usage["input_tokens"],
            cached_tokens=min(cached, usage["input_tokens"]),
            completion_tokens=usage["output_tokens"],
            reasoning=reasoning_of(message),
            tool_calls=tuple([ToolCall(call.name, call.arguments, call.id) for call in turn.tool_calls]),
        )

    @asynccontextmanager
    async def _boundary(self) -> AsyncIterator[None]:
        """Turn whatever the model raises into an error of ours."""
        try:
            async with asyncio.timeout(self._spec.timeout):
                yield
        except InferloomError:
            raise
        except TimeoutError:
            raise ModelTimeoutError(f"no answer within {self._spec.timeout:g} s", where=self._name) from None
        except Exception as error:
            raise _failure(error, self._name) from error


def open_langchain(rest: str, spec: ModelSpec) -> LangChainBackend:
    """The backend of `langchain:rest`. Makes no request.

    Raises:
        UnknownNameError: No chat model is registered under the name.
        SetupError: The package `langchain` or the provider's own is missing, or the provider cannot be set up.
    """
    if rest in CHAT_MODELS.names() or ":" not in rest:
        return LangChainBackend(rest, CHAT_MODELS.get(rest), spec)
    try:
        from langchain.chat_models import init_chat_model
    except ImportError:
        raise SetupError(
            "making a chat model by its provider needs the package `langchain` (pip install 'inferloom[langchain]'); or"
            " make it yourself and name it with `register_chat_model`",
            where=f"langchain:{rest}",
        ) from None
    try:
        model = init_chat_model(rest, **{"max_retries": 0, **spec.extra})
    except (ImportError, ValueError) as error:
        raise SetupError(" ".join(str(error).split())[:300], where=f"langchain:{rest}") from None
    return LangChainBackend(rest, model, spec)


def _finish(reason: str) -> FinishReason:
    return "stop" if reason in _ENDED else "length" if reason in _CUT else "other"


def _cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop string, which some providers leave in, and that string."""
    found = min(((text.find(stop), stop) for stop in stops if stop in text), default=None)
    return (text, None) if found is None else (text[: found[0]], found[1])


def _failure(error: Exception, where: str) -> ModelError:
    """What a provider's error means, by what such errors have in common: an HTTP status, or a telling name."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int):
        if status == 429:
            return RateLimitedError(said, where=where)
        if status in (408, 504):
            return ModelTimeoutError(said, where=where)
        return ServerFaultError(said, where=where) if status >= 500 else RequestRejectedError(said, where=where)
    name = type(error).__name__.lower()
    if "timeout" in name:
        return ModelTimeoutError(said, where=where)
    if "connect" in name:
        return ConnectionCutError(said, where=where)
    return UnexplainedError(said, where=where)
