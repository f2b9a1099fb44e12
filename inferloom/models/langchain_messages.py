"""LangChain's messages as ours and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inferloom.core.errors import UserError
from inferloom.core.tools import ToolCall
from inferloom.core.types import Message, Role

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall
    from langchain_core.messages import ToolCall as LangChainCall

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}
_PASSED_OVER = frozenset({"tool_use", "tool_call", "function_call", "reasoning", "thinking", "redacted_thinking"})
"""Blocks of content that stand elsewhere in the message too, or are no part of what was said."""


def from_langchain(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """A conversation as ours.

    Raises:
        UserError: A message holds what is not text, or is by nobody we know.
    """
    return tuple([_turn(message, place) for place, message in enumerate(messages)])


def _turn(message: BaseMessage, place: int) -> Message:
    from langchain_core.messages import AIMessage, ChatMessage, ToolMessage

    kind = message.role if isinstance(message, ChatMessage) else message.type.removesuffix("MessageChunk").lower()
    role = _ROLES.get(kind)
    if role is None:
        raise UserError(f"it is by `{kind}`; must be one of {', '.join(_ROLES)}", where=f"message {place}")
    calls: tuple[ToolCall, ...] = ()
    if isinstance(message, AIMessage):
        parsed = [
            ToolCall(call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"] or "")
            for call in message.tool_calls
        ]
        unread = [
            ToolCall(call["name"] or "", call["args"] or "", call["id"] or "") for call in message.invalid_tool_calls
        ]
        calls = (*parsed, *unread)
    answers = message.tool_call_id if isinstance(message, ToolMessage) else None
    return Message(role, _text(message.content, place), calls, answers)


def _text(content: str | list[Any], place: int) -> str:  # blocks are whatever a provider made of them
    if isinstance(content, str):
        return content
    texts = []
    for block in content:
        kind = "text" if isinstance(block, str) else block.get("type", "text")
        if kind == "text":
            texts.append(block if isinstance(block, str) else str(block.get("text", "")))
        elif kind == "tool_result":
            texts.append(_text(block.get("content", ""), place))
        elif kind not in _PASSED_OVER:
            raise UserError(f"it holds a block of the type `{kind}`; must be text", where=f"message {place}")
    return "".join(texts)


def reasoning_of(message: AIMessage) -> str | None:
    """The reasoning that a provider keeps apart from the answer; None where there is none."""
    blocks = (block.get("reasoning") for block in message.content_blocks if block["type"] == "reasoning")
    return "\n".join(str(block) for block in blocks if block) or None


def split_calls(calls: Sequence[ToolCall]) -> tuple[list[LangChainCall], list[InvalidToolCall]]:
    """Tool calls as LangChain's, those whose arguments are no JSON object apart."""
    from langchain_core.messages import InvalidToolCall
    from langchain_core.messages import ToolCall as LangChainCall

    good: list[LangChainCall] = []
    bad: list[InvalidToolCall] = []
    for call in calls:
        try:
            arguments = json.loads(call.arguments or "{}")
            if not isinstance(arguments, dict):
                raise ValueError("no object")
        except ValueError as error:
            bad.append(
                InvalidToolCall(
                    type="invalid_tool_call", name=call.name, args=call.arguments, id=call.id or None, error=str(error)
                )
            )
        else:
            good.append(LangChainCall(type="tool_call", name=call.name, args=arguments, id=call.id or None))
    return good, bad


def to_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """A conversation as LangChain's."""
    from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

    made: list[BaseMessage] = []
    for message in messages:
        if message.role == "system":
            made.append(SystemMessage(message.content))
        elif message.role == "user":
            made.append(HumanMessage(message.content))
        elif message.role == "tool":
            made.append(ToolMessage(message.content, tool_call_id=message.tool_call_id or ""))
        else:
            made.append(answer_message(message.content, message.tool_calls))
    return made


def answer_message(content: str, calls: Sequence[ToolCall] = (), **fields: Any) -> AIMessage:
    """An assistant's turn as LangChain's; `fields` are `AIMessage`'s own."""
    from langchain_core.messages import AIMessage

    good, bad = split_calls(calls)
    return AIMessage(content, tool_calls=good, invalid_tool_calls=bad, **fields)
