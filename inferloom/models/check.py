"""What an endpoint can really do, found out by asking it: some fifteen short calls, each result with its reason.

The report's `suggested` are the fields to put into the model's spec so that nothing is asked of the endpoint in vain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from inferloom.core.errors import ModelError, RequestRejectedError
from inferloom.core.protocols import Backend
from inferloom.core.types import Completion, Json, Message, Request, Usage
from inferloom.models.backends import open_backend
from inferloom.models.openai_wire import MissingLogprobsError
from inferloom.models.retry import retrying
from inferloom.models.spec import ModelSpec, Parameter

Result = Literal["ok", "no", "unknown"]

PARAMETERS: tuple[Parameter, ...] = get_args(Parameter)
_ATTEMPTS = 2
_TOKENS = 16
_ASK = (Message("user", "Write five random words."),)
_COUNT = (Message("user", "Count from 1 to 9, with commas."), Message("assistant", "1, 2, 3, 4,"))
_SCHEMA = {
    "type": "object",
    "properties": {"digit": {"type": "integer"}},
    "required": ["digit"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to the endpoint and its answer: `unknown` where the endpoint failed or the answer proves nothing."""

    name: str
    result: Result
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a model can do."""

    model: str
    base_url: str | None
    fingerprint: str
    probes: tuple[Probe, ...]
    rejected: tuple[str, ...]
    """Sampling parameters that the endpoint refuses."""
    suggested: dict[str, Json]
    """Fields for the model's spec; empty where it is right as it is."""
    usage: Usage
    """What the probe cost, as far as the endpoint told."""

    @property
    def reachable(self) -> bool:
        """Whether the endpoint answered at all."""
        return self["reachable"].result == "ok"

    def __getitem__(self, name: str) -> Probe:
        return next(probe for probe in self.probes if probe.name == name)

    def to_json(self) -> dict[str, Json]:
        """The report as plain JSON."""
        return {
            "model": self.model,
            "base_url": self.base_url,
            "fingerprint": self.fingerprint,
            "reachable": self.reachable,
            "probes": [{"name": probe.name, "result": probe.result, "detail": probe.detail} for probe in self.probes],
            "rejected": list(self.rejected),
            "suggested": self.suggested,
            "usage": {**self.usage.to_json()},
        }


async def check_model(spec: ModelSpec) -> CheckReport:
    """Probe a model. What goes wrong at the endpoint is a result; nothing is stored.

    Raises:
        SetupError: A key or a package is missing.
        UnknownNameError: The scheme or the model does not exist here.
    """
    session = _Session(spec)
    try:
        fingerprint = await session.opened(spec).fingerprint()
        probes = [await session.reach()]
        if probes[0].result == "ok":
            if spec.scheme == "openai":
                for parameter in PARAMETERS:
                    await session.try_parameter(parameter)
            for name, ask in _PROBES.items():
                probes.append(await session.probe(name, ask))
        else:
            probes += [Probe(name, "unknown", "not asked: the endpoint does not answer") for name in _PROBES]
    finally:
        await session.aclose()
    return CheckReport(
        model=spec.model,
        base_url=spec.base_url,
        fingerprint=fingerprint,
        probes=tuple(probes),
        rejected=tuple(session.rejected),
        suggested=session.suggestions(probes),
        usage=session.usage,
    )


@dataclass(slots=True)
class _Session:
    """The spec as far as it is known to work, and what the questions cost."""

    spec: ModelSpec
    known: ModelSpec = field(init=False)
    """`spec` with what was found out."""
    usage: Usage = field(default_factory=Usage)
    rejected: list[Parameter] = field(default_factory=list)
    undecided: dict[str, str] = field(default_factory=dict)
    _backends: dict[str, Backend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = self.spec

    def opened(self, spec: ModelSpec) -> Backend:
        # Only `openai` reads the fields that change between probes; other models are opened once.
        key = spec.model_dump_json() if spec.scheme == "openai" else spec.model
        if key not in self._backends:
            self._backends[key] = open_backend(spec)
        return self._backends[key]

    async def aclose(self) -> None:
        for backend in self._backends.values():
            await backend.aclose()

    async def ask(
        self, request: Request, seeds: Sequence[int] = (1,), spec: ModelSpec | None = None
    ) -> list[Completion]:
        """The completions of one call, with a second attempt where that may help."""
        spec = spec or self.known
        made: list[Completion] = []
        async for trial in retrying(_ATTEMPTS):
            with trial:
                made = await self.opened(spec).generate(replace(request, n=len(seeds)), seeds)
        spent = Usage(
            calls=1,
            prompt_tokens=sum(one.prompt_tokens for one in made),
            cached_tokens=sum(one.cached_tokens for one in made),
            completion_tokens=sum(one.completion_tokens for one in made),
        )
        self.usage += replace(spent, usd=spec.usd(spent), seconds=spec.seconds(spent))
        return made

    async def reach(self) -> Probe:
        """Ask with as few fields as can be, under either name of the token limit."""
        request = Request(messages=_ASK, max_tokens=_TOKENS)
        bare = self.spec.model_copy(update={"reject": PARAMETERS})
        fields = ("max_tokens", "max_completion_tokens")
        variants = [bare, *(bare.model_copy(update={"max_tokens_field": name}) for name in fields)]
        first: ModelError | None = None
        for variant in variants if self.spec.scheme == "openai" else variants[:1]:
            try:
                await self.ask(request, spec=variant)
            except RequestRejectedError as error:
                first = first or error
                continue
            except ModelError as error:
                return Probe("reachable", "no", error.message)
            self.known = self.spec.model_copy(update={"max_tokens_field": variant.max_tokens_field})
            return Probe("reachable", "ok", "the model answers")
        return Probe("reachable", "no", first.message if first else "no answer")

    async def try_parameter(self, name: Parameter) -> None:
        """Send one sampling parameter alone, to see whether it is refused."""
        request = Request(messages=_ASK, max_tokens=_TOKENS, temperature=0.5, top_p=0.9, stop=("\n\n",))
        if name == "logprobs":
            request = replace(request, logprobs=1)
        others = tuple(other for other in PARAMETERS if other != name)
        # A capability that the spec denies is asked for all the same: that is the question.
        alone = self.known.model_copy(update={"reject": others, "capabilities": type(self.known.capabilities)()})
        try:
            await self.ask(request, (1, 2) if name == "n" else (1,), spec=alone)
        except RequestRejectedError:
            self.rejected.append(name)
        except ModelError as error:
            self.undecided[name] = error.message
        if name == PARAMETERS[-1]:
            self.known = self.known.model_copy(update={"reject": tuple(self.rejected)})

    async def probe(self, name: str, ask: Callable[[_Session], Awaitable[tuple[Result, str]]]) -> Probe:
        """One probe with its failures turned into results."""
        if name in self.rejected:
            return Probe(name, "no", f"the endpoint rejects the parameter `{name}`")
        if (
            self.spec.scheme != "openai"
            and name not in self.opened(self.spec).capabilities.names()
            and name in _CAPABLE
        ):
            return Probe(name, "no", "the backend does not offer it")
        try:
            result, detail = await ask(self)
        except (RequestRejectedError, MissingLogprobsError) as error:
            return Probe(name, "no", error.message)
        except ModelError as error:
            return Probe(name, "unknown", error.message)
        return Probe(name, result, detail)

    def suggestions(self, probes: Sequence[Probe]) -> dict[str, Json]:
        """The fields by which the spec should differ from what the user wrote."""
        if self.spec.scheme != "openai":
            return {}
        fields: dict[str, Json] = {}
        if self.known.max_tokens_field != self.spec.max_tokens_field:
            fields["max_tokens_field"] = self.known.max_tokens_field
        if sorted(self.rejected) != sorted(self.spec.reject):
            fields["reject"] = [*self.rejected]
        if self.known.prefix != self.spec.prefix:
            fields["prefix"] = self.known.prefix
        elif self.spec.prefix != "off" and any(one.name == "prefix" and one.result == "no" for one in probes):
            fields["prefix"] = "off"
        lacking: dict[str, Json] = {
            probe.name: False
            for probe in probes
            if probe.result == "no" and probe.name in ("n", "logprobs", "seed", "structured")
            if probe.name not in self.rejected
        }
        if lacking and any(getattr(self.spec.capabilities, name) is not False for name in lacking):
            fields["capabilities"] = lacking
        return fields


async def _n(session: _Session) -> tuple[Result, str]:
    made = await session.ask(Request(messages=_ASK, max_tokens=_TOKENS), (1, 2))
    if len(made) == 2:
        return "ok", "two completions came in one call"
    return "no", f"{len(made)} of 2 completions came; several will be made by several calls"


async def _logprobs(session: _Session) -> tuple[Result, str]:
    [made] = await session.ask(Request(messages=_ASK, max_tokens=_TOKENS, logprobs=2))
    if not made.logprobs:
        return "no", "none came"
    if not all(math.isfinite(token.logprob) and token.logprob <= 0 for token in made.logprobs):
        return "no", "values above 0 came, which are not log-probabilities"
    alternatives = max(len(token.top) for token in made.logprobs)
    return "ok", f"{len(made.logprobs)} for {made.completion_tokens} tokens, with {alternatives} alternatives"


async def _prefix(session: _Session) -> tuple[Result, str]:
    """An open assistant turn where the endpoint can, else a raw prefix."""
    raw = Request(prefix="1, 2, 3, 4,", max_tokens=_TOKENS, temperature=0)
    open_turn = Request(messages=_COUNT, max_tokens=_TOKENS, temperature=0)
    if session.spec.scheme != "openai":
        return await _continued(session, open_turn, None)
    worst: tuple[Result, str] = ("no", "the endpoint refuses both ways")
    ways: list[tuple[Literal["continue_final_message", "completions"], Request]] = [
        ("continue_final_message", open_turn),
        ("completions", raw),
    ]
    if session.spec.tokenizer is not None:
        ways = [("completions", open_turn)]
    for mode, request in ways:
        spec = session.known.model_copy(update={"prefix": mode})
        try:
            worst = await _continued(session, request, spec)
        except RequestRejectedError:
            continue
        if worst[0] == "ok":
            session.known = spec
            return "ok", f"{worst[1]} (`prefix: {mode}`)"
    return worst


async def _continued(session: _Session, request: Request, spec: ModelSpec | None) -> tuple[Result, str]:
    """Whether it goes on counting, or, of a model that does not count, with half of an answer of its own."""
    what = "an open assistant turn" if request.messages else "a raw prefix"
    goes_on, anew = f"goes on from {what}", f"starts anew instead of going on from {what}"
    start = (await session.ask(request, spec=spec))[0].text.strip()
    if start.startswith("5"):
        return "ok", goes_on
    if start.startswith("1"):
        return "no", anew
    if request.messages:
        whole = (await session.ask(replace(request, messages=_COUNT[:1]), spec=spec))[0].text
        if half := _half(whole):
            rest = whole[len(half) :]
            opened = (*_COUNT[:1], Message("assistant", half))
            said = (await session.ask(replace(request, messages=opened), spec=spec))[0].text
            if said.startswith(rest) != said.startswith(half):
                return ("ok", goes_on) if said.startswith(rest) else ("no", anew)
    return "unknown", f"cannot tell from `{start[:20]}` whether it goes on from {what}"


def _half(text: str) -> str:
    """About the first half, up to the end of a word: templates may trim a turn, and words are tokens."""
    words = re.match(r".*\S(?=\s)", text[: len(text) // 2 + 1], re.DOTALL)
    return words[0] if words else text[: len(text) // 2].rstrip()


async def _seed(session: _Session) -> tuple[Result, str]:
    request = Request(messages=_ASK, max_tokens=_TOKENS, temperature=1.0)
    texts = [(await session.ask(request, (seed,)))[0].text for seed in (11, 11, 12)]
    if texts[0] != texts[1]:
        return "no", "the same seed gave two different texts; results repeat through the bank only"
    if texts[0] == texts[2]:
        return "unknown", "three calls with two seeds gave the same text"
    return "ok", "the same seed gave the same text, another seed another one"


async def _structured(session: _Session) -> tuple[Result, str]:
    ask = (Message("user", "Name a digit."),)
    [made] = await session.ask(Request(messages=ask, max_tokens=4 * _TOKENS, schema=json.dumps(_SCHEMA)))
    try:
        value = json.loads(made.text)
    except json.JSONDecodeError:
        return "no", f"the reply is not JSON: `{made.text[:20]}`"
    if isinstance(value, dict) and set(value) == {"digit"} and type(value["digit"]) is int:
        return "ok", "the reply keeps to the schema"
    return "no", f"the reply does not keep to the schema: `{made.text[:40]}`"


async def _parameters(session: _Session) -> tuple[Result, str]:
    if session.spec.scheme != "openai":
        return "ok", "nothing is sent over a wire"
    if session.undecided:
        name, reason = next(iter(session.undecided.items()))
        return "unknown", f"`{name}` could not be tried: {reason}"
    if session.rejected:
        return "no", f"rejected: {', '.join(session.rejected)}"
    return "ok", f"all of {', '.join(PARAMETERS)} are accepted"


_PROBES: dict[str, Callable[[_Session], Awaitable[tuple[Result, str]]]] = {
    "parameters": _parameters,
    "n": _n,
    "logprobs": _logprobs,
    "prefix": _prefix,
    "seed": _seed,
    "structured": _structured,
}
_CAPABLE = frozenset({"n", "logprobs", "prefix", "seed", "structured"})
