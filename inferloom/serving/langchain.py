"""A pipeline as a LangChain chat model: what a chain or an agent asks, a pipeline answers.

    from inferloom import ChatInferloom
    model = ChatInferloom(model="best.yaml")

Tools bound to it go to the pipeline's `sample` steps; candidates that call tools are voted on by name and arguments,
and the calls of the chosen one come back. Structured output is a forced tool call, as LangChain does it. The final
answer is streamed as it comes where one call writes it, else when it is chosen. The usage is nominal and counts every
call of the run; `response_metadata` has the run's id, the bare answer, its scores and the usage by model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from inferloom.core.errors import ConnectionCutError, ModelTimeoutError, UnknownNameError, UserError, nearest
from inferloom.core.tools import Tools
from inferloom.core.types import Message
from inferloom.memory.scope import MemoryScope
from inferloom.models.langchain_messages import from_langchain
from inferloom.pipelines.background import iterate_sync, run_sync
from inferloom.pipelines.embed import result_message
from inferloom.pipelines.result import RunResult
from inferloom.pipelines.run import Pipeline
from inferloom.serving.errors import ApiError
from inferloom.serving.overrides import Overrides, cut, overridden

_CHOICES = ("auto", "none", "required")
_PER_CALL = ("max_tokens", "model", "stop", "temperature", "tool_choice", "tools")
"""What one call may say otherwise than the model's fields."""


class ChatInferloom(BaseChatModel):
    """A chat model whose answers come from a pipeline.

    `temperature`, `max_tokens` and `stop` go to the steps that write answers, as `inferloom serve` has it. LangChain's
    `max_retries` means nothing here: each model of the pipeline has retries of its own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model: str = ""
    """The pipeline: a YAML file or a preset's name."""
    pipeline: Pipeline | None = Field(default=None, exclude=True, repr=False)
    """A loaded pipeline instead of `model`."""
    store: str | None = None
    """The database's URL; None: the variable INFERLOOM_DB, else `inferloom.db` in this folder."""
    draws: str | None = None
    """The name of the stream that draws come from; None: fresh draws for every call."""
    namespace: str | None = None
    """The namespace of the memories that the pipeline reads and writes."""
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    timeout: float | None = None
    """Seconds after which a call is given up; None: no limit."""

    _pipelines: dict[tuple[str, Overrides], Pipeline] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_pipeline(self) -> ChatInferloom:
        if self.pipeline is not None and not self.model:
            self.model = self.pipeline.spec.name
        elif not self.model:
            raise ValueError("name the pipeline: `model` must be a YAML file or a preset's name")
        return self

    @property
    def _llm_type(self) -> str:
        return "inferloom"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens, "stop": self.stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "inferloom"
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that its answers may call.

        Args:
            tools: Whatever LangChain makes tools of.
            tool_choice: `auto`, `none`, `any` or `required` (at least one call), or the one tool that must be called.
            strict: Whether arguments are held to the schemas, where the pipeline's models can.
            kwargs: Bound as they are.

        Raises:
            UnknownNameError: `tool_choice` names no tool.
        """
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        names = [str(tool["function"]["name"]) for tool in formatted]
        choice = _choice(tool_choice)
        if choice not in (*_CHOICES, *names):
            raise UnknownNameError("tool", choice, names, where="tool_choice")
        return self.bind(tools=formatted, tool_choice=choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return run_sync(self._agenerate(messages, stop, None, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked = _Asked(self, messages, stop, kwargs)
        async with asked.limit():
            result = await asked.pipeline.ainvoke(asked.turns, **asked.options)
        message = asked.message(result)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from iterate_sync(self._astream(messages, stop, None, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        asked = _Asked(self, messages, stop, kwargs)
        live = asked.pipeline.live_path
        tokens_of = () if live is None or asked.stops else (live,)
        events = asked.pipeline.astream(asked.turns, tokens_of=tokens_of, **asked.options)
        async with asked.limit(), aclosing(events):
            async for event in events:
                if event.kind == "answer" and not asked.stops:
                    if event.data.get("anew"):
                        raise ConnectionCutError("the answer broke off and came out differently when asked again")
                    yield _chunk(AIMessageChunk(content=str(event.data["text"])))
                elif event.result is not None:
                    for message in asked.last_chunks(event.result):
                        yield _chunk(message)

    def _pipeline(self, name: str, wanted: Overrides) -> Pipeline:
        """The pipeline of a name with a call's sampling parameters, loaded once.

        Raises:
            UserError: There is no such pipeline, or a parameter makes no sense for it.
        """
        found = self._pipelines.get((name, wanted))
        if found is None:
            mine = self.pipeline is not None and name == self.model
            found = self.pipeline if mine else self._pipelines.get((name, Overrides()))
            found = found or Pipeline.load(name, store=self.store)
            self._pipelines[name, Overrides()] = found
            if wanted != Overrides():
                try:
                    found = Pipeline(overridden(found.spec, wanted), found.gateway)
                except ApiError as error:
                    raise UserError(error.message) from None
                self._pipelines[name, wanted] = found
        return found


class _Asked:
    """One call of the model: which pipeline, what it is asked, and how its result is told."""

    def __init__(
        self, model: ChatInferloom, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> None:
        for name in kwargs:
            if name not in _PER_CALL and not name.startswith("ls_"):
                raise UserError(
                    f"unknown argument `{name}`; must be one of {', '.join(_PER_CALL)}",
                    suggestion=nearest(name, _PER_CALL),
                )
        self.name: str = kwargs.get("model") or model.model
        self.stops = tuple(stop or model.stop or ())
        self.turns: tuple[Message, ...] = from_langchain(messages)
        wanted = Overrides(
            temperature=kwargs.get("temperature", model.temperature),
            max_tokens=kwargs.get("max_tokens", model.max_tokens),
            stop=self.stops,
        )
        self.pipeline = model._pipeline(self.name, wanted)
        self._timeout = model.timeout
        tools = kwargs.get("tools")
        choice = _choice(kwargs.get("tool_choice"))
        self.options: dict[str, Any] = {  # ainvoke's own
            "stream": model.draws,
            "memory": None if model.namespace is None else MemoryScope(namespace=model.namespace),
            "tools": Tools(json.dumps(tools, ensure_ascii=False), choice) if tools else None,
        }

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Give up after the model's timeout.

        Raises:
            ModelTimeoutError: It has passed.
        """
        timeout = asyncio.timeout(self._timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ModelTimeoutError(f"no answer within {self._timeout:g} s", where=self.name) from None

    def message(self, result: RunResult) -> AIMessage:
        """The whole answer."""
        message = result_message(result, self.name)
        if self.stops and not message.tool_calls:
            message.content = cut(result.content, self.stops)
        return message

    def last_chunks(self, result: RunResult) -> Iterator[AIMessageChunk]:
        """What is left to tell of a streamed answer: where stop strings cut it all of it, then calls and accounts."""
        message = self.message(result)
        if self.stops:
            yield AIMessageChunk(content=message.content)
        calls = [
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id or None, index=index)
            for index, call in enumerate(result.tool_calls)
        ]
        yield AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )


def _choice(wanted: str | dict[str, Any] | bool | None) -> str:
    """LangChain's ways to say which tool must be called, in our words."""
    if isinstance(wanted, dict):
        return str(wanted.get("function", wanted).get("name", ""))
    if wanted is None or wanted is False:
        return "auto"
    return "required" if wanted is True or wanted == "any" else wanted


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)
