"""The scheme `openai`: any endpoint that speaks OpenAI's HTTP interface, through the official SDK.

Retries are the client's business, so the SDK makes none. A key comes from the environment only; it never stands in an
error, a repr or the database. What a server may do differently is a field of the model's spec (`reject`, `prefix`,
`max_tokens_field`, `capabilities`, `extra`), and `inferloom models check` finds it out.

With several completions in one call the server tells one total of generated tokens; each completion's share is counted
from its log-probabilities where they are there, else shared out by length. The sum is always the server's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, JsonValue, ValidationError

from inferloom.core.errors import (
    BadResponseError,
    ConnectionCutError,
    ModelTimeoutError,
    ServerFaultError,
    SetupError,
    UnreachableError,
)
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.types import Completion, Request
from inferloom.models.fleet import Fleet
from inferloom.models.openai_wire import (
    ChatReply,
    Reply,
    StreamedReply,
    TextReply,
    VectorReply,
    failure,
    wire_message,
    wire_tools,
)
from inferloom.models.spec import ModelSpec

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from inferloom.models._sources import LazyPrompter
    from inferloom.models.served import Lease

OFFICIAL = "https://api.openai.com/v1"
_SEED_BITS = 0x7FFF_FFFF
"""Seeds are sent with 31 bits, which every server takes."""
_CONNECT_SECONDS = 10.0
Wire = TypeVar("Wire", bound=BaseModel)


class OpenAIBackend:
    """One model behind one base URL."""

    def __init__(self, model: str, spec: ModelSpec) -> None:
        """Raises SetupError when the key's environment variable is not set."""
        self._model = self._served_name = model
        self._spec = spec
        self._url = "" if spec.serve is not None else spec.base_url or OFFICIAL
        self._official = "api.openai.com" in self._url
        self._key_name = spec.key or ("OPENAI_API_KEY" if self._official else None)
        self._key = _key_from_environment(self._key_name)
        self._capabilities = _capabilities(spec)
        # Connections belong to the event loop that opened them.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[str, AsyncOpenAI]] = WeakKeyDictionary()
        self._lease = _lease(model, spec)
        self._prompter = _prompter(spec, self.where)

    def __repr__(self) -> str:
        return f"OpenAIBackend({self._model!r}, base_url={self._url!r})"

    @property
    def capabilities(self) -> Capabilities:
        """OpenAI's own, less what the spec rejects, as the spec's `capabilities` correct it."""
        return self._capabilities

    @property
    def where(self) -> str:
        """The model and the base URL, as errors name them."""
        if self._spec.serve is not None:
            return f"{self._model} (served from {self._spec.serve.model})"
        return f"{self._model} at {self._url}"

    async def fingerprint(self) -> str:
        """The hash of base URL, served name, revision and the fields that change what is generated.

        Of a server that is started for the model, its files and arguments count instead of URL and name.
        """
        parts: list[object] = [self._url, self._model, self._spec.revision]
        if self._spec.extra or self._spec.reject:
            parts += [self._spec.extra, sorted(self._spec.reject)]
        if self._spec.serve is not None or self._spec.tokenizer is not None:
            parts = await asyncio.to_thread(_hashed_files, self._spec, self.where, parts)
        text = json.dumps(parts, sort_keys=True)
        return "openai-" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """One call for one completion per seed; fewer come back where the server made fewer.

        The server sees only the first seed: it has no seed per completion. Results repeat through the bank.

        Raises:
            ModelError: The kind says what happened and whether asking again may help.
        """
        path, body = await self._asked(request, seeds)
        reply_type: type[ChatReply] | type[TextReply] = TextReply if path == "/completions" else ChatReply
        async with self._boundary():
            body.setdefault("model", self._served_name)
            if on_token is None:
                reply: Reply = _read(reply_type, await self._client().post(path, cast_to=object, body=body), self.where)
            else:
                reply = await self._stream(path, body, on_token)
            return reply.completions(request, len(seeds), self.where)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, from the endpoint's `/embeddings`.

        Raises:
            ModelError: The kind says what happened and whether asking again may help.
        """
        body: dict[str, JsonValue] = {"input": list(texts), "encoding_format": "float", **self._spec.extra}
        async with self._boundary():
            body.setdefault("model", self._served_name)
            data = await self._client().post("/embeddings", cast_to=object, body=body)
            return _read(VectorReply, data, self.where).vectors(len(texts), self.where)

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and let go of a server that was started for the model."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client[1].close()
        if self._lease is not None:
            await self._lease.release()

    def _client(self) -> AsyncOpenAI:
        loop = asyncio.get_running_loop()
        url, client = self._clients.get(loop, ("", None))
        # A server that is started again has another port; what is left of the old connections is broken.
        if client is None or url != self._url:
            import httpx2
            from openai import AsyncOpenAI, DefaultAsyncHttpx2Client

            connect = min(_CONNECT_SECONDS, self._spec.timeout / 2)
            client = AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self._url,
                max_retries=0,
                timeout=httpx2.Timeout(self._spec.timeout, connect=connect),
                # A server that we started is on this machine; a proxy from the environment is not the way to it.
                http_client=None if self._lease is None else DefaultAsyncHttpx2Client(trust_env=False),
            )
            self._clients[loop] = (self._url, client)
            if not self._official:
                # Read from the environment by the SDK; the account's organisation is nobody else's business.
                client.organization = client.project = None
        return client

    @asynccontextmanager
    async def _boundary(self) -> AsyncIterator[None]:
        """See that a server is there, and turn whatever goes wrong into an error of ours."""
        if self._lease is None:
            async with self._translated():
                yield
            return
        server = await self._lease.up()
        self._url, self._served_name = server.url, server.name
        try:
            async with self._translated():
                yield
        except (ConnectionCutError, UnreachableError, ServerFaultError) as error:
            raise await server.explained(error) from None

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Turn the SDK's errors into ours. The SDK's is dropped: it holds the request's headers."""
        from openai import OpenAIError

        try:
            async with asyncio.timeout(self._spec.timeout):
                yield
        except TimeoutError:
            raise ModelTimeoutError(f"no answer within {self._spec.timeout:g} s", where=self.where) from None
        except OpenAIError as error:
            raise failure(error, self.where, self._key, self._key_name) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
            raise BadResponseError(f"the reply is not JSON: {reason}", where=self.where) from None

    async def _stream(self, path: str, body: dict[str, JsonValue], on_token: TokenSink) -> Reply:
        from openai import AsyncStream

        whole = StreamedReply(path == "/chat/completions", on_token)
        events = await self._client().post(
            path,
            cast_to=object,
            body={**body, "stream": True, "stream_options": {"include_usage": True}},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        async for event in events:
            whole.add(event, self.where)
        if not whole.finished:
            raise ConnectionCutError("the stream ended before the completion did", where=self.where)
        return whole

    def _sampling(self, request: Request, seeds: Sequence[int]) -> dict[str, JsonValue]:
        """The fields that both interfaces share; those that the endpoint rejects are left out."""
        body: dict[str, JsonValue] = {"temperature": request.temperature}
        if request.top_p != 1.0:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        if len(seeds) > 1:
            body["n"] = len(seeds)
        if self._capabilities.seed:
            body["seed"] = seeds[0] & _SEED_BITS
        if request.schema is not None:
            schema = json.loads(request.schema)
            named: JsonValue = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        for name in self._spec.reject:
            body.pop(name, None)
        return {**body, **self._spec.extra}

    async def _asked(self, request: Request, seeds: Sequence[int]) -> tuple[str, dict[str, JsonValue]]:
        """Path and body of a request, without the model's name.

        With a tokenizer, what is to be continued goes out as token ids: no start token is put before a prompt that
        has one, and no special token in a message's text is taken for control.
        """
        if self._prompter is not None and request.continues:
            ids = (await self._prompter.get()).encode(request)
            return "/completions", self._text_body(request, seeds, list[JsonValue](ids))
        if request.prefix is not None:
            return "/completions", self._text_body(request, seeds, request.prefix)
        return "/chat/completions", self._chat_body(request, seeds)

    def _chat_body(self, request: Request, seeds: Sequence[int]) -> dict[str, JsonValue]:
        body = self._sampling(request, seeds)
        body["messages"] = [wire_message(message) for message in request.messages]
        if request.tools is not None:
            body |= wire_tools(request.tools)
        name = self._spec.max_tokens_field or ("max_completion_tokens" if self._official else "max_tokens")
        body[name] = request.max_tokens
        if request.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = request.logprobs
        if request.continues:
            if self._spec.prefix != "continue_final_message":
                lacking = "" if self._spec.prefix == "off" else " alone"
                raise SetupError(
                    f"the spec's `prefix: {self._spec.prefix}`{lacking} cannot go on from an open assistant turn; set "
                    "`prefix: completions` and `tokenizer` to whose chat template renders the turn, or `prefix: "
                    "continue_final_message` if the endpoint is a vLLM server",
                    where=self.where,
                )
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
        return body

    def _text_body(self, request: Request, seeds: Sequence[int], prompt: JsonValue) -> dict[str, JsonValue]:
        if self._spec.prefix == "off":
            raise SetupError(
                "a raw prefix needs the spec's `prefix: completions` and an endpoint with /v1/completions",
                where=self.where,
            )
        body = self._sampling(request, seeds)
        body["prompt"] = prompt
        body["max_tokens"] = request.max_tokens
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs
        return body


def open_openai(rest: str, spec: ModelSpec) -> OpenAIBackend | Fleet:
    """The backend of `openai:rest`. Makes no request.

    Raises:
        SetupError: The key's environment variable is not set.
    """
    first = OpenAIBackend(rest, spec)
    if not spec.replicas:
        return first
    others = (spec.model_copy(update={"base_url": url, "replicas": ()}) for url in spec.replicas)
    return Fleet([first, *(OpenAIBackend(rest, other) for other in others)])


def _lease(model: str, spec: ModelSpec) -> Lease | None:
    if spec.serve is None:
        return None
    from inferloom.models.served import Lease

    return Lease(spec.serve, model)


def _prompter(spec: ModelSpec, where: str) -> LazyPrompter | None:
    if spec.tokenizer is None or spec.prefix != "completions":
        return None
    from inferloom.models._sources import LazyPrompter, local_folder, need_transformers

    need_transformers(where)
    local_folder(spec.tokenizer, where, "tokenizer_config.json")
    return LazyPrompter(spec.tokenizer, spec.revision, where)


def _hashed_files(spec: ModelSpec, where: str, parts: list[object]) -> list[object]:
    """The parts of a fingerprint with what files of ours say: the served model's in place of its address."""
    from inferloom.models._sources import model_digest, tokenizer_digest

    if spec.serve is not None:
        parts = [model_digest(spec.serve.model, where), spec.serve.telling(), *parts[2:]]
    if spec.tokenizer is not None:
        parts = [*parts, {"tokenizer": tokenizer_digest(spec.tokenizer, where)}]
    return parts


def _capabilities(spec: ModelSpec) -> Capabilities:
    able = Capabilities(n=True, logprobs=True, seed=True, structured=True, tools=True, prefix=spec.prefix != "off")
    refused: dict[str, bool] = {name: False for name in ("n", "logprobs", "seed") if name in spec.reject}
    stated: dict[str, bool] = spec.capabilities.model_dump(exclude_none=True)
    return replace(able, **(refused | stated))


def _key_from_environment(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise SetupError(f"the environment variable {name} is not set; it must hold the key of the endpoint")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SetupError(f"the environment variable {name} holds characters that no key has")
    return key


def _read(reply_type: type[Wire], data: object, where: str) -> Wire:
    if not isinstance(data, Mapping):
        # The SDK hands over text as it is where the content type is not JSON.
        try:
            data = json.loads(data) if isinstance(data, str) else data
        except json.JSONDecodeError as error:
            raise BadResponseError(f"the reply is not JSON: {error.msg}", where=where) from None
    try:
        return reply_type.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the reply"
        raise BadResponseError(f"the reply cannot be read: `{field}`: {first['msg']}", where=where) from None
