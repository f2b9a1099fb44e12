"""The final answer's tokens for LangGraph's `messages` stream, which listens to LangChain's callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForLLMRun, BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler


def streams_messages(config: RunnableConfig) -> bool:
    """Whether somebody wants tokens as they come; LangChain's chat models ask the same way."""
    callbacks = config.get("callbacks")
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or []
    return any(isinstance(handler, _StreamingCallbackHandler) for handler in handlers)


class MessageTokens:
    """Tells tokens as those of one chat model; an asynchronous context around the call that makes them."""

    def __init__(self, config: RunnableConfig, messages: Sequence[BaseMessage], id: str) -> None:
        self._manager: AsyncCallbackManager = get_async_callback_manager_for_config(config)
        self._messages = list(messages)
        self._id = id
        self._text = ""
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def put(self, text: str) -> None:
        """Tell a piece, soon and in order."""
        self._pieces.put_nowait(text)

    async def __aenter__(self) -> MessageTokens:
        [self._call] = await self._manager.on_chat_model_start({"name": "inferloom"}, [self._messages])
        self._telling = asyncio.create_task(self._tell(self._call))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.put_nowait(None)
        await self._telling
        if error is None:
            message = AIMessage(content=self._text, id=self._id)
            await self._call.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))
        else:
            await self._call.on_llm_error(error)

    async def _tell(self, call: AsyncCallbackManagerForLLMRun) -> None:
        while (text := await self._pieces.get()) is not None:
            self._text += text
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text, id=self._id))
            await call.on_llm_new_token(text, chunk=chunk)
