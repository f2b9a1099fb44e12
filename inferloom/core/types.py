"""The words that every room speaks: message, request, completion, usage, candidate, state.

All of it turns to plain JSON and back, so that LangGraph checkpoints and the database can hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NotRequired, TypeAlias, TypedDict

from inferloom.core.memory import Recalled
from inferloom.core.tools import ToolCall, ToolCallJson, Tools, calls_text

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "other"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; a `tool` turn is what a tool said to the call `tool_call_id`."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What something cost; adds up. `cached_tokens` is the part of `prompt_tokens` that a prefix cache serves."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """Model seconds, summed over calls; wall time is kept apart."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            usd=self.usd + other.usd,
            seconds=self.seconds + other.seconds,
        )

    def to_json(self) -> dict[str, float]:
        """The usage as plain JSON."""
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": self.usd,
            "seconds": self.seconds,
        }


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of usages."""
    result = Usage()
    for usage in usages:
        result = result + usage
    return result


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token with its natural-log probability and the likeliest alternatives, itself included if likely."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a model: a conversation, or a raw prefix to continue.

    A conversation whose last turn is the assistant's is continued from inside that turn (capability `prefix`).
    """

    messages: tuple[Message, ...] = ()
    prefix: str | None = None
    n: int = 1
    max_tokens: int = 512
    temperature: float = 0.8
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings; `Completion.stop_reason` says which."""
    logprobs: int | None = None
    """Alternatives wanted beside each token's own log-probability; None: no log-probabilities."""
    schema: str | None = None
    """A JSON schema (as JSON text) that the reply must satisfy (capability `structured`)."""
    tools: Tools | None = None
    """What the model may call instead of answering, or besides (capability `tools`)."""

    @property
    def continues(self) -> bool:
        """Whether the reply goes on from text already written."""
        return self.prefix is not None or bool(self.messages and self.messages[-1].role == "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote. `text` holds no reasoning block; that is in `reasoning`."""

    text: str
    finish_reason: FinishReason
    stop_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    id: str = ""
    """Its place in the bank; set by the client."""

    @property
    def mean_logprob(self) -> float | None:
        """The mean log-probability of its tokens; None where none were asked for or it is empty."""
        if not self.logprobs:
            return None
        return sum(token.logprob for token in self.logprobs) / len(self.logprobs)

    @property
    def min_logprob(self) -> float | None:
        """The log-probability of its least likely token; None where none were asked for or it is empty."""
        return min(token.logprob for token in self.logprobs) if self.logprobs else None


class StepRecord(TypedDict):
    """How a piece of a text that several models wrote came about; completions are places in the bank."""

    model: str
    """Who wrote it."""
    completion: str
    grade: NotRequired[float]
    """The judge's grade of the draft, from 0 to 1."""
    rejected: NotRequired[str]
    """The draft that it replaced."""


class Origin(TypedDict):
    """Where a candidate comes from: the node's path, the model's name and the completion's place in the bank."""

    node: str
    model: NotRequired[str]
    completion: NotRequired[str]
    steps: NotRequired[list[StepRecord]]
    """The pieces of a text that was not written in one, in order."""


class CandidateJson(TypedDict):
    """A candidate as plain JSON; the fields are those of `Candidate`."""

    id: str
    text: str
    answer: str | None
    parents: list[str]
    origin: Origin
    scores: dict[str, float]
    critiques: list[str]
    tests: list[bool]
    finished: bool
    tool_calls: NotRequired[list[ToolCallJson]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer under construction. Changed text is a new candidate, so its scores and critiques cannot go stale."""

    id: str
    text: str
    """What the model said; tool calls stand at its end, a line each, so that judges read them."""
    answer: str | None
    """The final answer extracted from the text; None where there is none. Of tool calls: the calls themselves."""
    parents: tuple[str, ...] = ()
    origin: Origin = field(default_factory=lambda: Origin(node=""))
    scores: dict[str, float] = field(default_factory=dict)
    critiques: tuple[str, ...] = ()
    tests: tuple[bool, ...] = ()
    finished: bool = True
    """False for a text that did not come to its end, such as one cut at the token limit."""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def content(self) -> str:
        """The text without the tool calls at its end."""
        if not self.tool_calls:
            return self.text
        return self.text.removesuffix(calls_text(self.tool_calls)).removesuffix("\n")

    def with_score(self, name: str, value: float) -> Candidate:
        """The same candidate with one more score."""
        return replace(self, scores={**self.scores, name: value})

    def with_critique(self, critique: str) -> Candidate:
        """The same candidate with one more critique."""
        return replace(self, critiques=(*self.critiques, critique))

    def to_json(self) -> CandidateJson:
        """The candidate as plain JSON."""
        data: CandidateJson = {
            "id": self.id,
            "text": self.text,
            "answer": self.answer,
            "parents": list(self.parents),
            "origin": self.origin,
            "scores": self.scores,
            "critiques": list(self.critiques),
            "tests": list(self.tests),
            "finished": self.finished,
        }
        if self.tool_calls:
            data["tool_calls"] = [call.to_json() for call in self.tool_calls]
        return data

    @classmethod
    def from_json(cls, data: CandidateJson) -> Candidate:
        """The candidate that `to_json` wrote."""
        return cls(
            id=data["id"],
            text=data["text"],
            answer=data["answer"],
            parents=tuple(data["parents"]),
            origin=data["origin"],
            scores=data["scores"],
            critiques=tuple(data["critiques"]),
            tests=tuple(data["tests"]),
            finished=data["finished"],
            tool_calls=tuple([ToolCall.from_json(call) for call in data.get("tool_calls", ())]),
        )


def candidate_id(path: str, parents: Iterable[str], index: int) -> str:
    """The id of the index-th candidate that the node at `path` makes from `parents`: 12 hex digits."""
    return hashlib.blake2b(f"{path}|{','.join(parents)}|{index}".encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a node reads: the question as the user asked it, the conversation, and what earlier nodes made."""

    question: str
    messages: tuple[Message, ...]
    candidates: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()
    """Retrieved context and memory, a note each, put in front of the question by nodes that generate."""
    examples: tuple[tuple[str, str], ...] = ()
    """Solved examples (question, answer text), shown as earlier turns."""
    recalled: tuple[Recalled, ...] = ()
    """The entries of memories that stand in the notes and examples."""
    tools: Tools | None = None
    """What the caller lets the answer call; nodes that answer the question offer it to their models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which arm of a `route` a question takes, and why."""

    arm: str
    reasons: Mapping[str, Json]
    """What the decision rests on, as plain JSON."""
    router: str
    version: str
    propensity: float = 1.0
    """The chance that this arm had when it was chosen; known before anything is called."""
    explored: bool = False
    """Whether it was chosen to learn, not because it was expected to be best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutput:
    """What a node changes; None leaves a field as it was. `candidates` is always the full list."""

    candidates: tuple[Candidate, ...] | None = None
    notes: tuple[str, ...] | None = None
    examples: tuple[tuple[str, str], ...] | None = None
    recalled: tuple[Recalled, ...] | None = None
    stopped: str | None = None
    """Why the run is to stop here with these candidates, the best so far (`budget`); None: go on."""
    choice: Choice | None = None
    """The way on that a `route` chose."""
