"""What running a pipeline gives: the result with its accounts, and the events on the way to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypedDict

from inferloom.core.answers import split_reasoning
from inferloom.core.protocols import Oracle
from inferloom.core.tools import ToolCall
from inferloom.core.types import Candidate, Json, Usage

if TYPE_CHECKING:
    from inferloom.memory.scope import MemoryScope


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """An answer with its accounts: `usage` is nominal, what it costs in production; `billed` was spent this time."""

    answer: str | None
    candidates: tuple[Candidate, ...]
    usage: Usage
    billed: Usage
    bound: Usage
    """The most that calls of unknown outcome can have cost on top of `billed`."""
    usage_by_model: Mapping[str, Usage]
    stopped: str | None
    """Why the run ended early (`budget`), or None."""
    run_id: str
    stream: str
    wall_seconds: float

    @property
    def text(self) -> str:
        """The full text of the answer."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def content(self) -> str:
        """The text of the answer as a reply to the user: without reasoning and without tool calls."""
        return split_reasoning(self.candidates[0].content)[0] if self.candidates else ""

    @property
    def scores(self) -> Mapping[str, float]:
        """The scores of the answer, by name."""
        return self.candidates[0].scores if self.candidates else {}

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the answer consists of, where tools were offered and it calls some."""
        return self.candidates[0].tool_calls if self.candidates else ()

    def to_json(self) -> dict[str, Json]:
        """The result as the document of `run --json`."""
        return {
            "answer": self.answer,
            "text": self.text,
            "tool_calls": [{"name": call.name, "arguments": call.arguments, "id": call.id} for call in self.tool_calls],
            "scores": dict(self.scores),
            "usage": dict(self.usage.to_json()),
            "usage_by_model": {name: dict(usage.to_json()) for name, usage in self.usage_by_model.items()},
            "billed": dict(self.billed.to_json()),
            "unknown_at_most": dict(self.bound.to_json()),
            "stopped": self.stopped,
            "run_id": self.run_id,
            "stream": self.stream,
            "wall_seconds": self.wall_seconds,
        }


class RunOptions(TypedDict, total=False):
    """What an evaluation says of a run beside the question; `Pipeline.ainvoke` explains each."""

    stream: str | None
    notes: Sequence[str]
    examples: Sequence[tuple[str, str]]
    study: str | None
    item: str | None
    tag: str | None
    oracle: Oracle | None
    memory: MemoryScope | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """Something that happens while a run goes on.

    `token` is a piece of any completion (a preview), `restart` says that the tokens of a completion so far are void,
    since its call failed and is made again, `node` is the end of a step, and `answer` a piece of the final answer (its
    `text`; together they are `RunResult.content`; one with `anew` is all of it, because what was told before is no
    part of it). `result` comes last, and everything else is an event of a node.
    """

    kind: str
    path: str
    data: Mapping[str, Json] = field(default_factory=dict)
    result: RunResult | None = None


class EventSink(Protocol):
    """Where the events of a run go; an `asyncio.Queue` is one."""

    def put_nowait(self, event: StreamEvent, /) -> None:
        """Take an event."""
        ...
