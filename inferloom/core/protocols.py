"""What the rooms show one another: a model's backend, and the context through which a node reaches everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Literal, Protocol, TypeAlias

from inferloom.core.memory import Memory
from inferloom.core.types import Candidate, Completion, Json, Message, Request

TokenSink: TypeAlias = Callable[[int, str], None]
"""Called with (index of the completion, new text) as tokens come; previews only, never the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do by itself. Only `n` is ever emulated, by n metered calls."""

    n: bool = False
    """Several completions of one request in one call."""
    logprobs: bool = False
    prefix: bool = False
    """Going on from a raw prefix or from inside an assistant turn."""
    seed: bool = False
    """The same seed gives the same completion."""
    structured: bool = False
    """Replies held to a JSON schema."""
    tools: bool = False
    """Calling tools that come with the request."""

    def names(self) -> list[str]:
        """The capabilities that are there."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


class Backend(Protocol):
    """A way to get completions from one model."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do by itself."""
        ...

    async def fingerprint(self) -> str:
        """What identifies the model's answers: the hash of weights and tokenizer, or base URL, name and revision."""
        ...

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """Make one completion per seed (`request.n` is not read here).

        Without the capability `n` there is exactly one seed. Usage: each completion carries its own
        `completion_tokens`; `prompt_tokens` and `cached_tokens` as the server billed them stand on the first only.

        Raises:
            ModelError: The kind says what happened and whether asking again may help.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """What became of code that ran in a sandbox."""

    outcome: Literal["ok", "error", "limit", "unsupported"]
    """`error`: the code raised; `limit`: it ran past a limit; `unsupported`: the sandbox cannot run such code, which
    says nothing about whether it is right."""
    output: str = ""
    """What it printed, cut at the sandbox's limit."""
    value: Json = None
    """The value of its last expression, where that is plain data."""
    error: str = ""
    """One sentence on what went wrong."""


class Sandbox(Protocol):
    """Runs Python that a model wrote: no files, no network, limits on time, memory and recursion."""

    async def run(self, code: str, inputs: Mapping[str, Json] | None = None) -> SandboxResult:
        """Run a program with `inputs` as its global names; never raises for what the code does."""
        ...


Oracle: TypeAlias = Callable[[Candidate], float]
"""Grades a candidate against the right answer, from 0 to 1."""


class Prompts(Protocol):
    """A prompt pack: the wording of every node's roles for one kind of model."""

    @property
    def name(self) -> str:
        """The pack's name."""
        ...

    @property
    def options(self) -> int:
        """The most candidates that one prompt may show side by side."""
        ...

    def render(self, role: str, values: Mapping[str, object]) -> tuple[Message, ...]:
        """The messages of a role, with its values filled in.

        Raises:
            UnknownNameError: The pack has no such role.
        """
        ...


class NodeContext(Protocol):
    """All that a node may reach. Everything it asks for is banked, metered and held to the budget."""

    path: str
    """The node's place in the pipeline, such as `steps/1` or `judge`."""
    prompts: Prompts

    @property
    def rng(self) -> Random:
        """Seeded by (stream, item, path): the only source of chance that a node may use."""
        ...

    async def generate(self, model: str, request: Request) -> list[Completion]:
        """`request.n` completions of a named model, committed before they are returned.

        Raises:
            BudgetExceededError: The next call could pass a limit of the run.
            ModelError: The model failed for good.
        """
        ...

    @property
    def oracle(self) -> Oracle | None:
        """The grader of the item in work; None where no right answer is known, as in production."""
        ...

    @property
    def sandbox(self) -> Sandbox:
        """Where code that a model wrote is run."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """A unit vector for each text, so that the product of two is their cosine."""
        ...

    def memory(self, name: str) -> Memory:
        """A memory by its name; which one that is, and whether it may be written to, depends on the run."""
        ...

    def rows(self, path: str) -> Sequence[Mapping[str, Json]]:
        """The rows of a JSONL or CSV file, read once.

        Raises:
            DataError: The file cannot be read; the message names the line.
        """
        ...

    def emit(self, event: str, data: Mapping[str, Json]) -> None:
        """Tell whoever watches the run that something happened."""
        ...
