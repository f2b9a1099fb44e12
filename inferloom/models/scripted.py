"""The scheme `scripted`: replies from a function or a file, for tests and examples. Deterministic in (request, seed).

    scripted:echo               the last user message
    scripted:constant           `A: 1`;  `scripted:constant:TEXT` says TEXT
    scripted:NAME               a reply registered with `@script("NAME")`
    scripted:replies.yaml       a list of rules, the first that matches speaks:
                                - {when: '\\d \\+ \\d', say: 'A: 3'}
                                - {say: ['A: 1', 'A: 2']}     # chosen by the seed

A token here is a word with the white space before it, so counts are word counts. Log-probabilities are made up but
consistent: the same token at the same place of the same completion always has the same one, and the alternatives never
sum to more than 1.
A schema is shown to the reply function in `request.schema`, tools in `request.tools`; holding to them is the function's
business: it calls a tool by giving a `Completion` with `tool_calls`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from inferloom.core.errors import RequestRejectedError, SpecError
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.registry import Registry
from inferloom.core.types import Completion, Request, TokenLogprob
from inferloom.models.spec import ModelSpec

Reply: TypeAlias = Callable[[Request, int], "str | Completion"]
"""(request, seed) -> text, which is then cut at stop strings and `max_tokens`; or a finished completion, kept as it is.

May raise any ModelError, as a server would fail.
"""

ALL = Capabilities(n=True, logprobs=True, prefix=True, seed=True, structured=True, tools=True)
_WORD = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class Served:
    """A request that a scripted backend was asked, with the seeds of its completions."""

    request: Request
    seeds: tuple[int, ...]


class ScriptedBackend:
    """A model that says what a function tells it to.

    Args:
        reply: What to say for (request, seed). At temperature 0 the seed is always 0.
        name: Identifies the script in the fingerprint.
        capabilities: What to declare; without `n`, more than one seed is refused like a server would.
        latency: Seconds that every call takes.
    """

    def __init__(self, reply: Reply, *, name: str = "", capabilities: Capabilities = ALL, latency: float = 0.0) -> None:
        self._reply = reply
        self._name = name or f"{reply.__module__}.{getattr(reply, '__qualname__', type(reply).__qualname__)}"
        self._capabilities = capabilities
        self._latency = latency
        self.served: list[Served] = []
        """Every request so far, failed ones included, oldest first."""

    @property
    def capabilities(self) -> Capabilities:
        """As declared."""
        return self._capabilities

    async def fingerprint(self) -> str:
        """The hash of the script's name, or of its file's content."""
        return "scripted-" + hashlib.blake2b(self._name.encode(), digest_size=12).hexdigest()

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """One completion per seed; the prompt's tokens stand on the first.

        Raises:
            RequestRejectedError: The request needs a capability that is not declared.
            ModelError: Whatever the reply function raises.
        """
        self.served.append(Served(request, tuple(seeds)))
        self._refuse_the_unable(request, len(seeds))
        if self._latency:
            await asyncio.sleep(self._latency)
        completions = []
        for index, seed in enumerate(seeds):
            said = self._reply(request, 0 if request.temperature == 0 else seed)
            completion = finish(said, request, seed) if isinstance(said, str) else said
            if index == 0 and not completion.prompt_tokens:
                completion = replace(completion, prompt_tokens=count_prompt(request))
            if on_token is not None:
                for token in tokens(completion.text):
                    on_token(index, token)
            completions.append(completion)
        return completions

    async def aclose(self) -> None:
        """Nothing to close."""

    def _refuse_the_unable(self, request: Request, n: int) -> None:
        asked = {
            "n": n > 1,
            "logprobs": request.logprobs is not None,
            "prefix": request.continues,
            "structured": request.schema is not None,
            "tools": request.tools is not None,
        }
        for name, wanted in asked.items():
            if wanted and name not in self._capabilities.names():
                raise RequestRejectedError(f"this scripted model does not support `{name}`")


def tokens(text: str) -> list[str]:
    """The words of a text, each with the white space before it; joined they are the text again."""
    return _WORD.findall(text)


def count_prompt(request: Request) -> int:
    """The prompt's tokens: the words of all messages, or of the raw prefix."""
    if request.prefix is not None:
        return len(tokens(request.prefix))
    return sum(len(tokens(message.content)) for message in request.messages)


def last_user(request: Request) -> str:
    """The text of the last user message; of a raw prefix, all of it."""
    if request.prefix is not None:
        return request.prefix
    return next((message.content for message in reversed(request.messages) if message.role == "user"), "")


def finish(text: str, request: Request, seed: int) -> Completion:
    """A text as a completion: cut before the first stop string, then at `max_tokens`."""
    found = min(((text.find(stop), stop) for stop in request.stop if stop and stop in text), default=None)
    stopped = text if found is None else text[: found[0]]
    words = tokens(stopped)
    cut = len(words) > request.max_tokens
    words = words[: request.max_tokens]
    return Completion(
        text="".join(words),
        finish_reason="length" if cut else "stop",
        stop_reason=found[1] if found is not None and not cut else None,
        completion_tokens=len(words),
        logprobs=None if request.logprobs is None else _logprobs(words, request.logprobs, seed),
    )


def _logprobs(words: Sequence[str], alternatives: int, seed: int) -> tuple[TokenLogprob, ...]:
    """Each token gets 0.5 to 1 of the probability; the alternatives halve what is left, one after another."""
    result = []
    for position, word in enumerate(words):
        digest = hashlib.blake2b(f"{seed}|{position}|{word}".encode(), digest_size=4).digest()
        own = 0.5 + 0.499 * int.from_bytes(digest, "big") / 2**32
        top = [(word, math.log(own))][:alternatives]
        left = 1.0 - own
        for rank in range(1, alternatives):
            left /= 2
            top.append((f"{word}~{rank}", math.log(left)))
        result.append(TokenLogprob(word, math.log(own), tuple(top)))
    return tuple(result)


SCRIPTS: Registry[Reply | ScriptedBackend] = Registry("script")


def script(name: str) -> Callable[[Reply], Reply]:
    """Register a reply function as `scripted:NAME`."""

    def add(reply: Reply) -> Reply:
        SCRIPTS.register(name)(reply)
        return reply

    return add


def register_backend(name: str, backend: ScriptedBackend) -> ScriptedBackend:
    """Make `scripted:NAME` this very backend, so that a test can read what it served."""
    SCRIPTS.register(name)(backend)
    return backend


@script("echo")
def _echo(request: Request, seed: int) -> str:
    return last_user(request)


@script("constant")
def _constant(request: Request, seed: int) -> str:
    return "A: 1"


def open_scripted(rest: str, spec: ModelSpec) -> ScriptedBackend:
    """The backend of `scripted:rest`.

    Raises:
        UnknownNameError: No script has this name.
        SpecError: The file of rules is missing or wrong; `where` is `file:line`.
    """
    stated = spec.capabilities.model_dump(exclude_none=True)
    capabilities = replace(ALL, **stated)
    if rest.endswith((".yaml", ".yml")):
        rules = load_rules(rest)
        digest = hashlib.blake2b(Path(rest).read_bytes(), digest_size=12).hexdigest()
        return ScriptedBackend(_by_rules(rules, rest), name=f"rules:{digest}", capabilities=capabilities)
    name, colon, text = rest.partition(":")
    if name == "constant" and colon:
        return ScriptedBackend(lambda request, seed: text, name=rest, capabilities=capabilities)
    found = SCRIPTS.get(rest)
    if isinstance(found, ScriptedBackend):
        return found
    return ScriptedBackend(found, name=f"{rest}:{spec.revision or ''}", capabilities=capabilities)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a script file: what to say when the last user message matches."""

    when: re.Pattern[str]
    say: tuple[str, ...]


def load_rules(path: str | Path) -> list[Rule]:
    """The rules of a script file.

    Raises:
        SpecError: The file cannot be read or a rule is wrong; `where` is `file:line`.
    """
    try:
        document = YAML(typ="rt").load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the script: {error.strerror}", where=str(path)) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"not YAML: {error.problem}", where=f"{path}:{line}") from None
    except (YAMLError, UnicodeDecodeError):
        raise SpecError("not a YAML text file", where=str(path)) from None
    if not isinstance(document, CommentedSeq) or not document:
        raise SpecError("a script must be a list of rules {when: regex, say: text}", where=f"{path}:1")
    return [_rule(value, f"{path}:{document.lc.item(index)[0] + 1}") for index, value in enumerate(document)]


def _rule(value: object, where: str) -> Rule:
    if not isinstance(value, Mapping) or "say" not in value or set(value) - {"when", "say"}:
        raise SpecError("a rule must be {when: regex, say: text or list of texts}", where=where)
    say = value["say"]
    texts = [say] if isinstance(say, str) else say
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
        raise SpecError("`say` must be a text or a list of texts", where=where)
    when = value.get("when", "")
    if not isinstance(when, str):
        raise SpecError("`when` must be a regular expression", where=where)
    try:
        pattern = re.compile(when, re.DOTALL)
    except re.error as error:
        raise SpecError(f"`when` is not a regular expression: {error}", where=where) from None
    return Rule(pattern, tuple(str(text) for text in texts))


def _by_rules(rules: Sequence[Rule], path: str) -> Reply:
    def reply(request: Request, seed: int) -> str:
        asked = last_user(request)
        for rule in rules:
            if rule.when.search(asked):
                return rule.say[seed % len(rule.say)]
        raise RequestRejectedError(f"no rule of {path} matches `{asked[:60]}`; add a rule without `when` at the end")

    return reply
