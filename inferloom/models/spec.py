"""What a user writes about a model: where it is, what it costs, how it may be called.

    models:
      small: pocket:small                       # short form
      judge:                                    # long form
        model: openai:gpt-4o-mini
        base_url: http://127.0.0.1:8000/v1
        price: {input: 0.15, cached: 0.075, output: 0.6}

A key never stands in a file: `key` is the *name* of an environment variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, JsonValue, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from inferloom.core.errors import SetupError, SpecError, UserError, nearest
from inferloom.core.types import Usage
from inferloom.models.serve_spec import Serve, SpecPart, looks_like_key, refuse_secrets

SCHEMES = ("langchain", "openai", "pocket", "scripted", "transformers", "vllm")
"""The schemes that come with inferloom; packages may add more."""

Parameter = Literal["temperature", "top_p", "stop", "seed", "logprobs", "n"]
"""Sampling parameters that an endpoint may refuse."""

_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "pocket": {"concurrency": 256, "cache_block": 16},
    "transformers": {"concurrency": 64},
    "scripted": {"concurrency": 256},
    "vllm": {"concurrency": 256},
}
"""What is different by default, by scheme."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
_MILLION = 1_000_000

YamlSpec: TypeAlias = "str | dict[str, JsonValue]"


class Price(SpecPart):
    """US dollars per million tokens."""

    input: float = Field(default=0.0, ge=0)
    """A prompt token that is not cached."""
    cached: float | None = Field(default=None, ge=0)
    """A prompt token served from the prefix cache; None: as dear as any other."""
    output: float = Field(default=0.0, ge=0)
    """A generated token, those of reasoning included."""


class Rates(SpecPart):
    """The speed that nominal seconds assume; not a measurement. `benchmarks/rates.py` fits them to a machine.

    The pass that reads a prompt also makes the first token of each completion, so that only the others count as
    generated: a judge that says one token costs what reading costs.

    The defaults stand for a mid-size model on one accelerator, one request at a time. They only need to be the same
    for the pipelines that are compared; set them per model to what your server does.
    """

    prefill: float = Field(default=5000.0, gt=0)
    """Uncached prompt tokens per second."""
    decode: float = Field(default=100.0, gt=0)
    """Generated tokens per second."""
    per_call: float = Field(default=0.0, ge=0)
    """Seconds added to every call."""


class CapabilityOverrides(SpecPart):
    """Capabilities that a user states for an endpoint; None leaves the backend's own answer."""

    n: bool | None = None
    logprobs: bool | None = None
    prefix: bool | None = None
    seed: bool | None = None
    structured: bool | None = None
    tools: bool | None = None


class ModelSpec(SpecPart):
    """One model of a pipeline. Validates from the short form (`openai:gpt-4o-mini`) and from a mapping.

    Use `ModelSpec.parse` for one-sentence errors; inside another pydantic model the plain field type works too.
    """

    model: str
    """`scheme:name`, such as `pocket:small`, `openai:gpt-4o-mini`, `transformers:/path`, `vllm:/path`."""
    base_url: str | None = None
    """Where the endpoint is, up to and including `/v1`; None: the scheme's own default."""
    replicas: tuple[str, ...] = ()
    """More addresses that serve the same model; each call goes to the one with the fewest in hand. No part of the
    fingerprint."""
    revision: str | None = None
    """A part of the fingerprint: change it when what the endpoint serves has changed."""
    price: Price | None = None
    rates: Rates = Rates()
    cache_block: int = Field(default=64, ge=1, le=65_536)
    """Characters of a prompt that a prefix cache keeps together, as nominal cost assumes: about vLLM's 16 tokens. 16 by
    default for `pocket`, whose tokens are characters."""
    concurrency: int = Field(default=8, ge=1, le=4096)
    """Calls in flight at once; for what batches them more by default: 256 for `pocket`, `vllm` and `scripted`, 64 for
    `transformers`."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that one attempt may take."""
    retries: int = Field(default=5, ge=1, le=100)
    """The most attempts for one call, the first included."""
    key: str | None = None
    """The NAME of the environment variable with the key; None: OPENAI_API_KEY for api.openai.com, none elsewhere."""
    prefix: Literal["completions", "continue_final_message", "off"] = "off"
    """How an OpenAI-compatible endpoint continues text: `/v1/completions` (raw prefixes, and with `tokenizer` open
    assistant turns), vLLM's `continue_final_message` (open assistant turns; raw prefixes go to `/v1/completions`), or
    not at all."""
    tokenizer: str | None = None
    """For `prefix: completions`: whose chat template and tokenizer turn what is to be continued into token ids, a
    folder, `pocket:SIZE` or a name on the Hugging Face hub. What the endpoint serves must have the same."""
    serve: Serve | None = None
    """A server that is started for the model; see `Serve`. Takes the place of `base_url`."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """How the endpoint calls the token limit; None: `max_completion_tokens` for api.openai.com, else `max_tokens`."""
    reject: tuple[Parameter, ...] = ()
    """Sampling parameters that the endpoint refuses and that are therefore not sent."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields for the body of every request, such as `{reasoning_effort: low}`; a part of the fingerprint."""
    capabilities: CapabilityOverrides = CapabilityOverrides()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"model": value}
        if isinstance(value, Mapping) and isinstance(value.get("model"), str):
            return {**_DEFAULTS.get(str(value["model"]).partition(":")[0], {}), **value}
        return value

    @field_validator("model")
    @classmethod
    def _scheme_and_name(cls, value: str) -> str:
        scheme, colon, rest = value.partition(":")
        if not colon or not rest or not scheme:
            near = nearest(scheme, SCHEMES)
            hint = f"; did you mean `{near}:...`?" if near else ""
            raise ValueError(f"model `{value}` must be `scheme:name` with a scheme such as {', '.join(SCHEMES)}{hint}")
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        return None if value is None else _checked_url("base_url", value)

    @field_validator("replicas")
    @classmethod
    def _plain_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_url("replicas", url) for url in value)

    @field_validator("key")
    @classmethod
    def _variable_name(cls, value: str | None) -> str | None:
        if value is not None and (not _VARIABLE.fullmatch(value) or looks_like_key(value)):
            raise SetupError(
                "`key` must be the name of an environment variable, such as OPENAI_API_KEY; "
                "what stands there looks like a key itself (it is not repeated here)"
            )
        return value

    @field_validator("extra")
    @classmethod
    def _no_secrets(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        refuse_secrets("extra", value)
        return value

    @model_validator(mode="after")
    def _prefix_has_a_way(self) -> ModelSpec:
        if self.model.startswith("openai:") and self.capabilities.prefix and self.prefix == "off":
            raise ValueError("`capabilities: {prefix: true}` needs `prefix: completions` or `continue_final_message`")
        return self

    @model_validator(mode="after")
    def _server_and_tokenizer_have_a_use(self) -> ModelSpec:
        for name in ("serve", "tokenizer"):
            if getattr(self, name) is not None and not self.model.startswith("openai:"):
                raise ValueError(f"`{name}` is for `openai:` models only, not for `{self.model[:40]}`")
        if self.serve is not None and self.base_url is not None:
            raise ValueError("`base_url` and `serve` exclude each other: a server that is started has its own address")
        if self.replicas and (self.base_url is None or not self.model.startswith("openai:")):
            raise ValueError("`replicas` needs an `openai:` model with `base_url`, the first address")
        if self.tokenizer is not None and self.prefix != "completions":
            raise ValueError("`tokenizer` needs `prefix: completions`")
        return self

    @classmethod
    def parse(cls, value: object, *, where: str | None = None) -> ModelSpec:
        """A spec from its YAML value.

        Raises:
            SpecError: The value does not describe a model; one sentence, with the field in `where`.
            UnknownNameError: No backend has the scheme.
            SetupError: A key stands where the name of an environment variable belongs.
        """
        if not isinstance(value, str | Mapping):
            raise SpecError(
                f"a model must be `scheme:name` or a mapping with `model`, not {type(value).__name__}", where=where
            )
        try:
            spec = cls.model_validate(value)
        except ValidationError as error:
            raise _spec_error(error, cls, where) from None
        except UserError as error:
            raise error.placed(where) from None
        # Imported late: the registry's factories take a ModelSpec.
        from inferloom.models.backends import BACKENDS

        BACKENDS.get(spec.scheme, where=where)
        return spec

    @property
    def scheme(self) -> str:
        """What stands before the first colon of `model`."""
        return self.model.partition(":")[0]

    @property
    def rest(self) -> str:
        """What stands after the first colon of `model`."""
        return self.model.partition(":")[2]

    def to_yaml(self) -> YamlSpec:
        """The value to write into YAML: the short form where all else is as by default. `parse(to_yaml())` is equal."""
        default = ModelSpec(model=self.model)
        changed = {name for name in type(self).model_fields if getattr(self, name) != getattr(default, name)}
        if not changed:
            return self.model
        written = self.model_dump(mode="json", include={"model", *changed}, exclude_defaults=False)
        for part in _PARTS:
            if part in written:
                written[part] = getattr(self, part).model_dump(mode="json", exclude_defaults=True)
        return written

    def usd(self, usage: Usage) -> float:
        """The price of a usage in US dollars; 0 where the model has no price."""
        if self.price is None:
            return 0.0
        cached = self.price.input if self.price.cached is None else self.price.cached
        fresh_tokens = usage.prompt_tokens - usage.cached_tokens
        cost = fresh_tokens * self.price.input + usage.cached_tokens * cached
        return (cost + usage.completion_tokens * self.price.output) / _MILLION

    def seconds(self, usage: Usage) -> float:
        """Nominal model seconds of a usage, by `rates`."""
        fresh_tokens = usage.prompt_tokens - usage.cached_tokens
        rates = self.rates
        decoded = max(0, usage.completion_tokens - usage.calls)
        return usage.calls * rates.per_call + fresh_tokens / rates.prefill + decoded / rates.decode

    def with_prices(self, prices: Mapping[str, Price]) -> ModelSpec:
        """The spec with its price from a table, looked up by `model` and then by the bare name; its own price wins."""
        found = prices.get(self.model) or prices.get(self.rest)
        return self if self.price is not None or found is None else self.model_copy(update={"price": found})


def _checked_url(field: str, value: str) -> str:
    parts = urlsplit(value)
    if parts.username or parts.password:
        # Not a ValueError: pydantic would keep the input, and with it the password.
        raise SetupError(f"`{field}` must not hold a user name or password; put the key in an environment variable")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"`{field}` must be a URL that starts with http:// or https://")
    return value.rstrip("/")


_PARTS: dict[str, type[BaseModel]] = {
    "price": Price,
    "rates": Rates,
    "capabilities": CapabilityOverrides,
    "serve": Serve,
}


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices by model name (`openai:gpt-4o-mini` or `gpt-4o-mini`) from a YAML mapping, US dollars per million tokens.

    Raises:
        SpecError: The file cannot be read or a price is wrong; `where` is `file:line`.
    """
    file = Path(path)
    try:
        document = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the price table: {error.strerror}", where=str(file)) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"not YAML: {error.problem}", where=f"{file}:{line}") from None
    except (YAMLError, UnicodeDecodeError):
        raise SpecError("not a YAML text file", where=str(file)) from None
    if document is None:
        return {}
    if not isinstance(document, CommentedMap):
        raise SpecError("a price table must be a mapping from model names to prices", where=f"{file}:1")
    prices = {}
    for name, value in document.items():
        place = f"{file}:{document.lc.key(name)[0] + 1}: {name}"
        if not isinstance(value, Mapping):
            raise SpecError("a price must be a mapping with input, cached, output", where=place)
        try:
            prices[str(name)] = Price.model_validate(dict(value))
        except ValidationError as error:
            raise _spec_error(error, Price, place) from None
    return prices


def _spec_error(error: ValidationError, model: type[BaseModel], where: str | None) -> SpecError:
    """The first thing that is wrong, as one sentence about one field."""
    first = error.errors(
        include_url=False,
        include_context=True,
    )[0]
    field = ".".join(str(part) for part in first["loc"])
    place = ": ".join(part for part in (where, field) if part) or None
    if first["type"] == "extra_forbidden":
        owner: type[BaseModel] = model
        for part in first["loc"][:-1]:
            owner = _PARTS.get(str(part), owner)
        known = sorted(owner.model_fields)
        name = str(first["loc"][-1])
        near = nearest(name, known)
        message = f"unknown field `{name}`" + ("" if near else f"; must be one of {', '.join(known)}")
        return SpecError(message, where=where, suggestion=near)
    message = first["msg"].removeprefix("Value error, ").replace("Input", "`input`" if not field else f"`{field}`")
    value = first["input"]
    # A short text cannot be a key; longer ones are not repeated.
    shown = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 16)
    shown = shown and first["type"] != "value_error"
    message = re.sub(r"a valid dictionary or instance of \w+", "a mapping", message)
    return SpecError(message + (f", not {value!r}" if shown else ""), where=where if field in message else place)
