"""A real HTTP server on loopback that speaks OpenAI's interface and fails as told.

    with FlakyServer(seed=1, faults={"rate_limit": 0.1, "cut": 0.1}) as server:
        ... base_url=server.base_url ...
    server.log    # one entry per HTTP request, in order of arrival

The answer is a function of (server seed, request's seed or arrival number, choice), the fault a function of (server
seed, arrival number), so a run over it is repeatable. Tokens are words. What the server calls billed (`prompt_tokens`,
`completion_tokens` of an entry) includes replies that never arrived whole; a 429, 500 or 400 bills nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Literal

from inferloom.models.scripted import tokens

Fault = Literal["rate_limit", "server_error", "timeout", "cut", "truncated", "fewer"]
"""429; 500; the reply is held back; the socket is closed in mid-body; half a JSON document; half of the choices."""

UNKNOWN: frozenset[str] = frozenset({"timeout", "cut", "truncated"})
"""Faults after which a client cannot know whether the server made (and billed) its completions."""

Body = dict[str, Any]
Answer = Callable[[Body, int, int], str]
"""(request body, seed of this call, index of the choice) -> text."""


@dataclass
class Entry:
    """One HTTP request as the server saw it."""

    id: int
    path: str
    body: Body
    n: int
    authorization: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name."""
    status: int = 200
    fault: str | None = None
    """The injected fault; None for a proper reply, 400s of `rejects` included."""
    completions: int = 0
    """Completions that were sent whole."""
    made: int = 0
    """Completions that were made and billed, sent whole or not."""
    texts: list[str] = field(default_factory=list)
    """What was made."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def default_answer(body: Body, seed: int, index: int) -> str:
    """Two lines that end in a number."""
    asked = json.dumps(body.get("messages", body.get("prompt", "")), sort_keys=True)
    digest = hashlib.blake2b(f"{asked}|{seed}|{index}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return f"first {number % 97} then {number % 89}\nA: {number % 10}"


class FlakyServer:
    """See the module. Use it as a context manager.

    Args:
        seed: Decides answers and faults.
        faults: Probability of each fault, per request.
        plan: Faults of the first requests, by order of arrival, before chance takes over; None: no fault.
        answer: What to say.
        hold: Longest time in seconds that a `timeout` holds the reply; it ends sooner when the server stops.
        retry_after: The Retry-After header of a 429; None: no header.
        rejects: Fields of the body that get a 400 (`temperature`, `n`, ...).
        ignores: Fields of the body that are quietly ignored.
        key: The only key let in; others get a 401 that repeats what they sent.
        cached: Cached prompt tokens reported, per request at most.
        reject_message: What the 400 of `rejects` says.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        faults: Mapping[str, float] | None = None,
        plan: Sequence[Fault | None] = (),
        answer: Answer = default_answer,
        hold: float = 30.0,
        retry_after: str | None = "0",
        rejects: Sequence[str] = (),
        ignores: Sequence[str] = (),
        key: str | None = None,
        cached: int = 0,
        reject_message: str | None = None,
    ) -> None:
        self.seed = seed
        self.faults = dict(faults or {})
        self.plan = list(plan)
        self.answer = answer
        self.hold = hold
        self.retry_after = retry_after
        self.rejects = set(rejects)
        self.ignores = set(ignores)
        self.key = key
        self.cached = cached
        self.reject_message = reject_message
        self.reply_with: object = None
        """Any JSON to reply with instead of completions."""
        self.log: list[Entry] = []
        self.errors: list[BaseException | None] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http = _HTTPServer(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def base_url(self) -> str:
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    def __enter__(self) -> FlakyServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, drop every connection, let held replies go."""
        self.stopping.set()
        self._http.shutdown()
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        self._http.server_close()
        self._thread.join()
        if self.errors:
            raise RuntimeError("the test server itself failed") from self.errors[0]

    def connected(self, connection: socket.socket, alive: bool) -> None:
        with self._lock:
            if alive:
                self._connections.add(connection)
            else:
                self._connections.discard(connection)

    def arrive(self, path: str, body: Body, headers: Mapping[str, str]) -> Entry:
        """Enter a request into the log and settle its fault."""
        with self._lock:
            number = len(self.log)
            entry = Entry(
                id=number,
                path=path,
                body=body,
                n=1 if "n" in self.ignores else int(body.get("n") or 1),
                authorization=headers.get("authorization"),
                headers=dict(headers),
                fault=self._fault(number),
            )
            self.log.append(entry)
            return entry

    def _fault(self, number: int) -> str | None:
        if number < len(self.plan):
            return self.plan[number]
        point = Random(f"{self.seed}|{number}").random()
        for name, probability in self.faults.items():
            if point < probability:
                return name
            point -= probability
        return None

    def seed_of(self, entry: Entry) -> int:
        """The request's own seed, else one that no other request has; temperature 0 has the same one always."""
        if entry.body.get("temperature") == 0:
            own = "greedy"
        elif "seed" in entry.body and "seed" not in self.ignores:
            own = f"seed {entry.body['seed']}"
        else:
            own = f"number {entry.id}"
        digest = hashlib.blake2b(f"{self.seed}|{own}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def choices(self, entry: Entry) -> list[Body]:
        """The choices of a reply; fills in what the entry says about tokens."""
        body, seed = entry.body, self.seed_of(entry)
        chat = entry.path.endswith("/chat/completions")
        count = max(1, entry.n // 2) if entry.fault == "fewer" else entry.n
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 10_000
        choices = []
        for index in range(count):
            text, reason = self.answer(body, seed, index), "stop"
            if "response_format" in body and "response_format" not in self.ignores:
                text = json.dumps(_instance(body["response_format"]["json_schema"]["schema"]))
            stop = next((stop for stop in body.get("stop") or [] if stop in text), None)
            if stop is not None:
                text = text[: text.find(stop)]
            words = tokens(text)
            if len(words) > limit:
                words, reason = words[:limit], "length"
            choice: Body = {"index": index, "finish_reason": reason}
            if stop is not None and reason == "stop":
                choice["stop_reason"] = stop
            if body.get("logprobs") and "logprobs" not in self.ignores:
                choice["logprobs"] = _chat_logprobs(words, body) if chat else _text_logprobs(words, body)
            if chat:
                choice["message"] = {"role": "assistant", "content": "".join(words)}
            else:
                choice["text"] = "".join(words)
            choices.append(choice)
            entry.texts.append("".join(words))
            entry.completion_tokens += len(words)
        entry.made = count
        entry.prompt_tokens = sum(len(tokens(text)) for text in _prompt_texts(body))
        return choices

    def usage(self, entry: Entry) -> Body:
        return {
            "prompt_tokens": entry.prompt_tokens,
            "completion_tokens": entry.completion_tokens,
            "total_tokens": entry.prompt_tokens + entry.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.cached, entry.prompt_tokens)},
        }


def _vectors(body: Body) -> Body:
    """Counts of a few letters as vectors, last text first: the order is in `index`."""
    data = [
        {"object": "embedding", "index": index, "embedding": [1.0, *(float(text.count(letter)) for letter in "abcde")]}
        for index, text in enumerate(body["input"])
    ]
    return {"object": "list", "model": body.get("model"), "data": data[::-1]}


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = False

    def __init__(self, owner: FlakyServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what this server is for; anything else is a fault of the server itself."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.owner.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer

    def setup(self) -> None:
        super().setup()
        self.server.owner.connected(self.connection, True)

    def finish(self) -> None:
        self.server.owner.connected(self.connection, False)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "flaky", "object": "model"}]})
        else:
            self._send(404, {"error": {"message": f"no such path {self.path}"}})

    def do_POST(self) -> None:
        owner = self.server.owner
        body: Body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        entry = owner.arrive(self.path, body, {name.lower(): value for name, value in self.headers.items()})
        if self.path not in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            self._refuse(entry, 404, f"no such path {self.path}")
        elif owner.key is not None and entry.authorization != f"Bearer {owner.key}":
            self._refuse(entry, 401, f"Incorrect API key provided: {entry.authorization}")
        elif refused := sorted(owner.rejects & set(body)):
            self._refuse(entry, 400, owner.reject_message or f"Unsupported parameter: '{refused[0]}'")
        elif entry.fault == "rate_limit":
            headers = {} if owner.retry_after is None else {"Retry-After": owner.retry_after}
            self._refuse(entry, 429, "too many requests", headers)
        elif entry.fault == "server_error":
            self._refuse(entry, 500, "the server tripped")
        elif owner.reply_with is not None:
            self._send(200, owner.reply_with)
        elif self.path == "/v1/embeddings":
            self._send(200, _vectors(body))
        elif body.get("stream"):
            self._stream(entry)
        else:
            self._reply(entry)

    def _refuse(self, entry: Entry, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        entry.status = status
        self._send(status, {"error": {"message": message, "type": "flaky", "code": None}}, headers)

    def _reply(self, entry: Entry) -> None:
        owner = self.server.owner
        choices = owner.choices(entry)
        reply = {"id": f"r{entry.id}", "object": "reply", "created": 0, "model": entry.body.get("model")}
        data = json.dumps({**reply, "choices": choices, "usage": owner.usage(entry)}).encode()
        if entry.fault == "timeout":
            owner.stopping.wait(owner.hold)
            self.close_connection = True
            return
        if entry.fault == "truncated":
            self._send_bytes(200, data[: len(data) // 2])
            return
        if entry.fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self._cut()
            return
        # Written down before it is sent: whoever has the reply finds it in the log.
        entry.completions = entry.made
        try:
            self._send_bytes(200, data)
        except OSError:
            entry.completions = 0
            raise

    def _stream(self, entry: Entry) -> None:
        """Server-sent events, one word each, the choices in turn; usage last."""
        owner = self.server.owner
        chat = entry.path.endswith("/chat/completions")
        events: list[Body] = []
        for choice in owner.choices(entry):
            text = choice["message"]["content"] if chat else choice["text"]
            for word in tokens(text):
                part = {"delta": {"content": word}} if chat else {"text": word}
                events.append({"index": choice["index"], "finish_reason": None, **part})
            end: Body = {"delta": {}} if chat else {"text": ""}
            end |= {name: choice[name] for name in ("logprobs", "stop_reason") if name in choice}
            events.append({"index": choice["index"], "finish_reason": choice["finish_reason"], **end})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        broken = entry.fault in UNKNOWN
        for event in events[: len(events) // 2] if broken else events:
            self._event({"choices": [event]})
        if entry.fault == "truncated":
            self.wfile.write(b'data: {"choices": [{"ind\n\n')
            return
        if entry.fault == "timeout":
            owner.stopping.wait(owner.hold)
            return
        if entry.fault == "cut":
            self._cut()
            return
        entry.completions = entry.made
        if entry.body.get("stream_options", {}).get("include_usage"):
            self._event({"choices": [], "usage": owner.usage(entry)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, data: Body) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _cut(self) -> None:
        """Close the socket so that the client sees the end in mid-body."""
        self.close_connection = True
        self.wfile.flush()
        _shut(self.connection)

    def _send(self, status: int, data: object, headers: Mapping[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(data).encode(), headers)

    def _send_bytes(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # the client may be faster
        connection.shutdown(socket.SHUT_RDWR)


def _prompt_texts(body: Body) -> list[str]:
    if "prompt" in body:
        # Token ids count one by one.
        return [body["prompt"] if isinstance(body["prompt"], str) else " ".join("x" * len(body["prompt"]))]
    return [message["content"] for message in body.get("messages", [])]


def _logprob(word: str) -> float:
    return math.log(0.5 + 0.4 * (len(word) % 7) / 7)


def _chat_logprobs(words: Sequence[str], body: Body) -> Body:
    count = int(body.get("top_logprobs") or 0)
    return {
        "content": [
            {
                "token": word,
                "logprob": _logprob(word),
                "top_logprobs": [{"token": word, "logprob": _logprob(word)}, {"token": "~", "logprob": -9.0}][:count],
            }
            for word in words
        ]
    }


def _text_logprobs(words: Sequence[str], body: Body) -> Body:
    return {
        "tokens": list(words),
        "token_logprobs": [_logprob(word) for word in words],
        "top_logprobs": [{"~": -9.0, word: _logprob(word)} for word in words],
    }


def _instance(schema: Body) -> object:
    """Some value that the schema allows; enough for flat objects."""
    if "enum" in schema:
        return schema["enum"][0]
    plain: dict[str, object] = {"string": "x", "integer": 1, "number": 0.5, "boolean": True, "array": []}
    if schema.get("type") == "object":
        return {name: _instance(part) for name, part in schema.get("properties", {}).items()}
    return plain.get(str(schema.get("type")))


def wait_for_log(server: FlakyServer, count: int, seconds: float = 5.0) -> None:
    """Wait until the server has logged `count` requests.

    Raises:
        TimeoutError: It has not within `seconds`.
    """
    end = time.monotonic() + seconds
    while len(server.log) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"the server saw {len(server.log)} requests, {count} were expected")
        time.sleep(0.005)
