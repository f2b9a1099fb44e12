"""Tools that a caller offers to a model, and the calls that the model makes of them. Nothing here runs a tool."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict


class ToolCallJson(TypedDict):
    """A tool call as plain JSON; the fields are those of `ToolCall`."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for; whoever offered the tool makes it."""

    name: str
    arguments: str
    """The arguments as JSON text, as the model wrote them: usually an object, but nothing promises that it parses."""
    id: str = ""
    """The server's name for it, by which a `tool` message answers."""

    @property
    def canonical(self) -> str:
        """`name({"a": 1})` with sorted keys and numbers by value: equal for calls that do the same."""
        try:
            arguments = json.dumps(_by_value(json.loads(self.arguments or "{}")), sort_keys=True, ensure_ascii=False)
        except ValueError:
            arguments = self.arguments
        return f"{self.name}({arguments})"

    def to_json(self) -> ToolCallJson:
        """The call as plain JSON."""
        return {"name": self.name, "arguments": self.arguments, "id": self.id}

    @classmethod
    def from_json(cls, data: ToolCallJson) -> ToolCall:
        """The call that `to_json` wrote."""
        return cls(data["name"], data["arguments"], data["id"])


@dataclass(frozen=True, slots=True)
class Tools:
    """What a model may call."""

    definitions: str
    """JSON text of a list of `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    choice: str = "auto"
    """`auto`, `none`, `required` (at least one call), or the name of the one tool that must be called."""


def calls_text(calls: Iterable[ToolCall]) -> str:
    """Tool calls as text, a line each: what judges read of them."""
    return "\n".join(call.canonical for call in calls)


def calls_answer(calls: Iterable[ToolCall]) -> str:
    """The answer that tool calls are: the same whatever their order."""
    return "\n".join(sorted(call.canonical for call in calls))


def _by_value(data: object) -> object:
    if isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, list):
        return [_by_value(one) for one in data]
    if isinstance(data, dict):
        return {name: _by_value(one) for name, one in data.items()}
    return data
