"""What goes over the wire: OpenAI's chat completions as far as a pipeline can answer them, and our own additions.

A request is read strictly: a field that OpenAI knows and that makes no sense for a pipeline is refused unless it has
the value that changes nothing, and an unknown field is refused too. Nothing is dropped silently.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from inferloom.core.errors import nearest
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import Message
from inferloom.serving.errors import ApiError

Asked = TypeVar("Asked", bound=BaseModel)
_MOST_SHOWN = 60


class Strict(BaseModel):
    """A part of a request: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _nothing(value: object) -> object:
    """What clients send where they have nothing to say."""
    return None if value in ([], {}, "") else value


Empty = Annotated[None, BeforeValidator(_nothing)]
"""A field that a client may send without a value."""


class TextPart(Strict):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class FunctionSpec(Strict):
    """What a tool is for."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolSpec(Strict):
    """A tool that the answer may call."""

    type: Literal["function"]
    function: FunctionSpec


class ToolName(Strict):
    """The name of a tool."""

    name: str


class ToolChoice(Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: ToolName


class CalledFunction(Strict):
    """A call's tool and its arguments as JSON text."""

    name: str
    arguments: str


class CallPart(Strict):
    """A tool call of an earlier answer."""

    id: str = Field(min_length=1)
    type: Literal["function"]
    function: CalledFunction


class Turn(Strict):
    """A message of the conversation. What a client sends back of an earlier answer is taken along where it is empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None
    refusal: Empty = None
    annotations: Empty = None
    audio: Empty = None
    function_call: Empty = None

    @model_validator(mode="after")
    def _whole(self) -> Turn:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message must have `content`")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has `tool_calls`")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise ValueError("a tool's message has `tool_call_id`, and no other has")
        return self

    def message(self) -> Message:
        """The message as the rooms speak of it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in self.tool_calls or ())
        return Message("system" if self.role == "developer" else self.role, text, calls, self.tool_call_id)


class StreamOptions(Strict):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    """The only format that every pipeline writes."""

    type: Literal["text"]


class ChatRequest(Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=200, description="The name of a pipeline")
    messages: list[Turn] = Field(min_length=1, description="The conversation; the last message is the user's")
    n: int | None = Field(None, ge=1, le=128, description="Answers, each by a run of its own")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="For the steps that write answers")
    top_p: float | None = Field(None, gt=0, le=1, description="For the steps that write answers")
    max_tokens: int | None = Field(None, ge=1, description="Lowers the limit of the steps that write answers")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same as `max_tokens`")
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None = Field(
        None, description="The answer ends before the first of these"
    )
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="The same seed under the same API key gives the same draws"
    )
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer, where it is one completion")
    top_logprobs: int | None = Field(None, ge=0, le=0, description="Alternatives are not recorded")
    response_format: TextFormat | None = None
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: Empty = None
    tools: list[ToolSpec] | None = Field(None, max_length=128, description="What the answer may call")
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: Literal[True] | None = None
    functions: Empty = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = Field(None, description="Taken and not used")
    safety_identifier: str | None = Field(None, description="Taken and not used")
    prompt_cache_key: str | None = Field(None, description="Taken and not used")
    metadata: dict[str, str] | None = Field(None, max_length=16, description="Taken and not used")
    store: bool | None = Field(None, description="Taken and not used: every run is recorded")
    service_tier: Literal["auto", "default"] | None = None

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings before which the answer ends."""
        if isinstance(self.stop, str):
            return (self.stop,) if self.stop else ()
        return tuple(self.stop or ())

    @property
    def offered(self) -> Tools | None:
        """The tools that the answer may call.

        Raises:
            ApiError: The choice is none of them.
        """
        named = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else self.tool_choice
        names = [tool.function.name for tool in self.tools or ()]
        if named not in (None, "none", "auto", *(("required", *names) if names else ())):
            told = f"one of {', '.join(names)}" if names else "left out where there are no tools"
            raise ApiError(400, f"`tool_choice` is `{named}`; it must be {told}", param="tool_choice")
        if not names:
            return None
        definitions = [tool.model_dump(exclude_none=True) for tool in self.tools or ()]
        return Tools(json.dumps(definitions, ensure_ascii=False), named or "auto")

    @property
    def longest(self) -> int | None:
        """The token limit, by either name.

        Raises:
            ApiError: The two names disagree.
        """
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ApiError(
                400,
                f"`max_tokens` is {self.max_tokens} and `max_completion_tokens` is {self.max_completion_tokens}; "
                "send one of them, or the same number in both",
                param="max_tokens",
            )
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


class FeedbackRequest(Strict):
    """The body of `POST /v1/feedback`."""

    run: str = Field(pattern=r"^(chatcmpl-)?[0-9a-f]{32}$", description="A run's id, or the id of a completion")
    score: float = Field(ge=0, le=1, description="How good the answer was")
    grader: str = Field("user", min_length=1, max_length=200, description="Who judged")
    decision: str | None = Field(None, max_length=200, description="The router's decision that is judged")
    comment: str | None = Field(None, max_length=10_000)


def read_body(kind: type[Asked], body: bytes) -> Asked:
    """A request from its bytes.

    Raises:
        ApiError: 400; it names the field, what stands there, and what may.
    """
    try:
        data: JsonValue = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        if b"\\u" in body:
            # Half of a surrogate pair can be written as an escape, and no model can be sent it.
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({_first_line(error)})") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _wrong(error, kind) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _wrong(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    """The first thing that is wrong, as one sentence."""
    errors = error.errors(include_url=False)
    # A union tells of each kind that it tried; the one that got furthest into the value is the one that was meant.
    field_of_first = list(takewhile(lambda part: not _is_kind(part), errors[0]["loc"]))
    same = [one for one in errors if list(one["loc"][: len(field_of_first)]) == field_of_first]
    first = max(same, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    parts = [str(part) for part in first["loc"] if not _is_kind(part)]
    field = ".".join(parts)[:200]
    if first["type"] == "extra_forbidden":
        known = Turn.model_fields if parts[0] == "messages" else kind.model_fields
        near = nearest(parts[-1], known)
        rest = "" if near else f"; known are {', '.join(sorted(known))}"
        return ApiError(400, f"unknown field `{field}`{rest}", param=field, suggestion=near)
    if first["type"] == "missing":
        return ApiError(400, f"`{field}` is missing", param=field, code="missing_required_parameter")
    said = first["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    if first["type"] == "none_required":
        said = "it is not supported here and must be left out"
    if first["type"] == "literal_error" and parts[-1:] == ["type"]:
        said = f"only {first['ctx']['expected']} is supported"
    return ApiError(400, f"`{field}` is {_shown(first['input'])}: {said}", param=field)


def _is_kind(part: int | str) -> bool:
    """Whether a part of a place is the name of a kind that a union tried; no field has such a name."""
    return part in ("str", "TextPart", "ToolChoice") or (
        isinstance(part, str) and part.startswith(("list[", "constrained-", "literal["))
    )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
