"""What a user writes under `serve:`: a model server that inferloom itself starts and stops.

large:
  model: openai:large
  prefix: completions
  tokenizer: pocket:large
  serve:
    model: pocket:large
    args: {dtype: float32, max-model-len: 1024, enforce-eager: true}
    env: {VLLM_CPU_KVCACHE_SPACE: 1}
    log: vllm-large.log
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from inferloom.core.errors import SetupError

_SECRET_NAMES = re.compile(r"(api[-_]?key|authorization|password|secret|bearer|_token$)", re.IGNORECASE)
_VENDOR_KEYS = re.compile(r"(sk|pk|hf|gsk|xai|key)[-_]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_OURS = ("model", "served-model-name", "host", "port")
"""Arguments that inferloom sets itself."""
_NEUTRAL = frozenset(
    {
        "api-server-count",
        "block-size",
        "disable-log-stats",
        "enable-chunked-prefill",
        "enable-log-requests",
        "enable-prefix-caching",
        "enable-prompt-tokens-details",
        "enforce-eager",
        "gpu-memory-utilization",
        "kv-cache-memory-bytes",
        "max-log-len",
        "max-num-batched-tokens",
        "max-num-seqs",
        "no-enable-chunked-prefill",
        "no-enable-prefix-caching",
        "uvicorn-log-level",
    }
)
"""Arguments that change how fast a server is, not what its model says. One that is missing here costs nothing but
completions made anew when it changes."""


class SpecPart(BaseModel):
    """A part of a model's spec. Errors never repeat the input: it might be a key put in the wrong place."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Serve(SpecPart):
    """How to start a server for a model."""

    model: str = Field(min_length=1)
    """What it serves: `pocket:SIZE`, a folder, or a name on the Hugging Face hub."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the server without their dashes: `dtype: float32` is `--dtype float32`, `true` is a bare switch,
    `false` leaves it out, a list gives several values."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables added to its environment, which is otherwise ours."""
    python: str | None = None
    """The Python that has vLLM; None: the one that runs inferloom."""
    command: tuple[str, ...] = ()
    """The program and its first arguments, for a server that is not vLLM's; it is handed `--model`,
    `--served-model-name`, `--host` and `--port` like vLLM's and must answer `/health`."""
    log: str | None = None
    """The file that its output is added to; None: one in the folder for temporary files."""
    restart: bool = False
    """Whether a server that died is started again; requests on their way are then made again."""
    wait: float = Field(default=300.0, gt=0)
    """Seconds that it may take until it answers `/health`."""

    @field_validator("args")
    @classmethod
    def _known_kind_of_arguments(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        refuse_secrets("serve.args", value)
        for name, given in value.items():
            if not _ARGUMENT.fullmatch(name):
                raise ValueError(f"`{name}` in `args` must be the name of an argument without its dashes")
            if name.replace("_", "-") in _OURS:
                raise ValueError(f"`{name}` in `args` is set by inferloom; leave it out")
            parts = given if isinstance(given, list) else [given]
            if given is None or any(isinstance(part, dict | list) or part is None for part in parts):
                raise ValueError(f"`{name}` in `args` must be a text, a number, true, false or a list of those")
        return value

    @field_validator("env", mode="before")
    @classmethod
    def _values_as_text(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        # YAML reads 1 as a number and true as a truth; the environment holds text.
        return {
            name: str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given
            for name, given in value.items()
        }

    @field_validator("env")
    @classmethod
    def _no_hidden_keys(cls, value: dict[str, str]) -> dict[str, str]:
        refuse_secrets("serve.env", value)
        for name, given in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"`{name}` in `env` must be the name of an environment variable")
            if _VENDOR_KEYS.match(given):
                raise SetupError(
                    f"what stands for `{name}` in `serve.env` looks like a key (it is not repeated here); "
                    "set it in inferloom's own environment, which the server inherits"
                )
        return value

    @field_validator("command")
    @classmethod
    def _no_key_among_the_arguments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refuse_secrets("serve.command", value)
        return value

    @model_validator(mode="after")
    def _one_program(self) -> Serve:
        if self.command and self.python:
            raise ValueError("`python` and `command` exclude each other; name the Python in `command`")
        return self

    def telling(self) -> dict[str, JsonValue]:
        """The part that changes what the model says, its files apart: what its fingerprint hashes."""
        named = {name.replace("_", "-"): given for name, given in self.args.items()}
        told: dict[str, JsonValue] = {name: given for name, given in named.items() if name not in _NEUTRAL}
        return {"args": told, "command": list(self.command)} if self.command else {"args": told}


def refuse_secrets(field: str, names: Iterable[str]) -> None:
    """See that no name speaks of a key.

    Raises:
        SetupError: One does.
    """
    for name in names:
        if not _SECRET_NAMES.search(name):
            continue
        if field == "extra":
            raise SetupError(f"`extra` must not hold `{name}`; name an environment variable in `key` instead")
        # Not repeated: in a command a key may stand beside its name.
        raise SetupError(
            f"`{field}` must not hold a key; set it in inferloom's own environment, which the server inherits"
        )


def looks_like_key(value: str) -> bool:
    """Vendors' prefixes, or a long mix of lower-case letters and digits, which no variable is called."""
    if _VENDOR_KEYS.match(value):
        return True
    return len(value) >= 24 and "_" not in value and any(c.isdigit() for c in value) and any(c.islower() for c in value)
