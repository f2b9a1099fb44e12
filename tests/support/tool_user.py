"""A scripted model that uses tools as a good model would, for cases that are about how calls travel.

It calls the tool that it must, or the first one where it may and no tool has answered the question yet, and fills in
the arguments from the question by the types that the schema of the tool names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from inferloom.core.tools import ToolCall
from inferloom.core.types import Completion, Request
from inferloom.models.scripted import ScriptedBackend, count_prompt, last_user, register_backend


def reply(request: Request, seed: int) -> str | Completion:
    if request.tools is None or request.tools.choice == "none":
        return f"Hello! I have read {count_prompt(request)} words, and my number is {seed % 3}.\nA: {seed % 3}"
    answered = bool(request.messages) and request.messages[-1].role == "tool"
    if answered and request.tools.choice == "auto":
        return f"The tool said: {request.messages[-1].content}"
    offered = [tool["function"] for tool in json.loads(request.tools.definitions)]
    wanted = next((tool for tool in offered if tool["name"] == request.tools.choice), offered[0])
    arguments = json.dumps(filled(wanted.get("parameters") or {}, last_user(request)), ensure_ascii=False)
    call = ToolCall(wanted["name"], arguments, f"call_{seed % 10**9}")
    return Completion(text="", finish_reason="stop", completion_tokens=len(arguments) // 4 + 1, tool_calls=(call,))


def filled(schema: dict[str, Any], question: str) -> dict[str, Any]:
    """Arguments that fit a schema: numbers and quoted texts in the order of the question."""
    numbers = iter(re.findall(r"-?\d+", question))
    quoted = iter(re.findall(r"'([^']+)'", question))
    return {name: value(part, question, numbers, quoted) for name, part in schema.get("properties", {}).items()}


def value(schema: dict[str, Any], question: str, numbers: Iterator[str], quoted: Iterator[str]) -> Any:
    kinds = [schema.get("type"), *(option.get("type") for option in schema.get("anyOf", ()))]
    if "integer" in kinds or "number" in kinds:
        return int(next(numbers, "1"))
    return next(quoted, question) if "string" in kinds else None


TOOL_USER = register_backend("tool-user", ScriptedBackend(reply, name="tool-user"))
