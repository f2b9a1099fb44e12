"""Model servers that inferloom itself starts: from the first request to the last user's `aclose`, or our own end.

A server is a process group of its own. One thread starts it, waits for its health, and stays to see it die; the
thread's own end would take the server with it on Linux, which is what stops a server whose inferloom was killed.
What becomes of a dead server is said in one line: how it ended, where its log is, and the log's last telling line.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from inferloom.core.errors import (
    ConnectionCutError,
    InferloomError,
    ModelError,
    Outcome,
    ServerFaultError,
    SetupError,
)
from inferloom.models._sources import local_folder
from inferloom.models.serve_spec import Serve

_HOST = "127.0.0.1"
_PORTS = range(12_000, 32_000)
"""Below the ports that outgoing connections take, since a server binds its port long after it was chosen."""
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
"""How long a server may take to end by itself."""
_NOTICE_SECONDS = 2.0
"""How long after a broken connection we look whether the server died of it."""
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_TAIL_BYTES = 200_000
_VLLM = ("-m", "vllm.entrypoints.openai.api_server", "--enable-prompt-tokens-details")
"""The switch makes it say how much of a prompt its cache held, for the ledger."""
_LAUNCHER = """
import ctypes, os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != parent:
        sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"error: {sys.argv[2]}: {error.strerror}")
"""
"""Asks for SIGTERM when the thread that started it ends (PR_SET_PDEATHSIG), then becomes the server."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOG_PREFIX = re.compile(r"^(\([^)]*pid[= ]\d+\)\s*)?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? )?(\[[^\]]*\] ?)?")
_TELLING = re.compile(r"([\w.]*(Error|Exception)\b|(.* )?error): |.*No module named ", re.IGNORECASE)
_CONSEQUENCES = ("Engine core initialization failed", "EngineCore encountered an issue", "resource_tracker")
"""What vLLM says after the line that told the cause."""


class ServerGoneError(ServerFaultError):
    """The server that was started for the model is dead and is not to be started again."""

    retryable = False


class ServerDiedError(ServerGoneError):
    """The server died under a request: what it made of that is not known."""

    outcome: Outcome = "unknown"  # type: ignore[misc]  # declared for classes


class _Life:
    """One process of a server, from its start to its end."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, port: int, patience: float
    ) -> None:
        self.started = _future()
        self.ended = _future()
        self.death = ""
        """One line, once it is dead."""
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._environment = environment
        self._log = log
        self._log_start = 0
        self._port = port
        self._wait = patience
        self._stopping = False
        threading.Thread(target=self._run, name=f"inferloom server on port {port}", daemon=True).start()

    def stop(self) -> None:
        """End it, gently first, and wait until it is gone."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        if not wait([self.ended], _GRACE_SECONDS).done:
            self._signal(signal.SIGKILL)
            wait([self.ended], _GRACE_SECONDS)

    def _run(self) -> None:
        try:
            self._launch()
            failure = self._until_healthy()
        except OSError as error:
            failure = f"cannot be started: {error.strerror}: {error.filename}"
        if failure is None:
            self.started.set_result(None)
        else:
            self._signal(signal.SIGKILL)
        if self.process is not None:
            code = self.process.wait()
            # What it leaves behind (vLLM's engine is a process of its own) must not keep memory or the port.
            self._signal(signal.SIGKILL)
            self.death = failure or self._obituary(code)
        else:
            self.death = failure or "was never started"
        self.ended.set_result(None)
        if failure is not None:
            self.started.set_exception(SetupError(failure))

    def _launch(self) -> None:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def _until_healthy(self) -> str | None:
        """Wait until it answers; why it does not, in one line, where it does not."""
        assert self.process is not None
        until = time.monotonic() + self._wait
        while time.monotonic() < until:
            code = self.process.poll()
            if code is not None:
                self._signal(signal.SIGKILL)
                return "was stopped while it started" if self._stopping else self._obituary(code, "while it started")
            if self._healthy():
                return None
            time.sleep(_POLL_SECONDS)
        return f"did not answer /health within {self._wait:g} s{self._last_words()}; its log: {self._log}"

    def _healthy(self) -> bool:
        connection = HTTPConnection(_HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def _obituary(self, code: int, when: str = "") -> str:
        if code < 0:
            known = {int(one): one.name for one in signal.Signals}
            how = f"was killed by {known.get(-code, f'signal {-code}')}"
        else:
            how = f"ended with exit code {code}"
        # Who is killed has no last words; the log ends with whatever was going on.
        said = self._last_words() if code >= 0 else ""
        return f"the server {how}{' ' + when if when else ''}{said}; its log: {self._log}"

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, log.tell() - _TAIL_BYTES))
                line = telling_line(log.read().decode(errors="replace"))
        except OSError:
            return ""
        return f", saying `{line}`" if line else ""


class Server:
    """A server for one `serve`, started when it is first needed. Shared by every model with an equal `serve`.

    Args:
        serve: How to start it.
        name: What it calls its model.
    """

    def __init__(self, serve: Serve, name: str) -> None:
        self.name = name
        self.url = ""
        self.users = 0
        self.log = (Path(serve.log).expanduser() if serve.log else _temporary_log(name)).absolute()
        self._serve = serve
        self._lock = threading.Lock()
        self._life: _Life | None = None

    async def up(self) -> None:
        """See that it answers, starting it where that is due.

        Raises:
            SetupError: It did not come up.
            ServerGoneError: It died and is not to be started again.
        """
        life = self._current()
        if not life.started.done():
            # Cancelling this one takes the start from nobody else; see `_future`.
            with suppress(SetupError):
                await asyncio.wrap_future(life.started)
        error = life.started.exception()
        if error is not None:
            raise SetupError(str(error), where=self._where)
        if life.death:
            raise ServerGoneError(life.death, where=self._where)

    async def explained(self, error: ModelError) -> ModelError:
        """What a broken connection means, once it is known whether the server died of it."""
        life = self._life
        if life is not None:
            noticed = asyncio.wrap_future(life.ended)
            await asyncio.wait([noticed], timeout=_NOTICE_SECONDS)
            noticed.cancel()
        if life is None or not life.death:
            return error
        if self._serve.restart:
            # Retryable whatever it was; whether the request had been sent is all that differs.
            kind = ConnectionCutError if error.outcome == "unknown" else ServerFaultError
            return kind(f"{life.death}; it is started again", where=self._where)
        return (ServerDiedError if error.outcome == "unknown" else ServerGoneError)(life.death, where=self._where)

    def stop(self) -> None:
        """Stop it; the next request would start it anew."""
        with self._lock:
            life, self._life = self._life, None
        if life is not None:
            life.stop()

    @property
    def group(self) -> int | None:
        """The number of its process group; None while it has none."""
        process = self._life.process if self._life is not None else None
        return process.pid if process is not None else None

    @property
    def _where(self) -> str:
        return f"{self.name} (served from {self._serve.model})"

    def _current(self) -> _Life:
        with self._lock:
            life = self._life
            # One that never came up is not tried again: it would fail the same way, a minute later.
            died = life is not None and life.ended.done() and life.started.exception() is None
            if life is None or (died and self._serve.restart):
                life = self._life = self._begun()
            return life

    def _begun(self) -> _Life:
        serve, port = self._serve, _free_port()
        folder = local_folder(serve.model, self._where)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"the log {self.log} cannot be written: {error.strerror}", where=self._where) from None
        command = [
            *(serve.command or (serve.python or sys.executable, *_VLLM)),
            *("--model", str(folder or serve.model), "--served-model-name", self.name),
            *("--host", _HOST, "--port", str(port)),
            *_arguments(serve),
        ]
        self.url = f"http://{_HOST}:{port}/v1"
        return _Life(command, {**_QUIET, **os.environ, **serve.env}, self.log, port, serve.wait)


class Lease:
    """One model's use of a server.

    Args:
        serve: How to start it.
        name: What to call the model, where this is the first use.
    """

    def __init__(self, serve: Serve, name: str) -> None:
        self._serve = serve
        self._name = name
        self._server: Server | None = None
        self._lock = threading.Lock()

    async def up(self) -> Server:
        """The server, answering.

        Raises:
            SetupError: It did not come up.
            ServerGoneError: It died and is not to be started again.
        """
        with self._lock:
            if self._server is None:
                self._server = _taken(self._serve, self._name)
            server = self._server
        try:
            await server.up()
        except InferloomError:
            if server.users == 0:
                # Everybody gave it back while this request waited.
                raise ServerGoneError("the model was closed", where=self._name) from None
            raise
        return server

    async def release(self) -> None:
        """Give it back; the last to do so stops it."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(_given_back, server)


_servers: dict[str, Server] = {}
_servers_lock = threading.Lock()


def servers() -> list[Server]:
    """The servers that models of this process use now."""
    with _servers_lock:
        return list(_servers.values())


def _taken(serve: Serve, name: str) -> Server:
    key = serve.model_dump_json()
    with _servers_lock:
        if not _servers:
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)
        server = _servers.setdefault(key, Server(serve, name))
        server.users += 1
        return server


def _given_back(server: Server) -> None:
    with _servers_lock:
        server.users -= 1
        if server.users:
            return
        for key in [key for key, one in _servers.items() if one is server]:
            del _servers[key]
    server.stop()


def _stop_all() -> None:
    with _servers_lock:
        servers = list(_servers.values())
        _servers.clear()
    stoppers = [threading.Thread(target=server.stop) for server in servers]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join()


def _future() -> Future[None]:
    """A future that a waiter cannot cancel for the others."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _arguments(serve: Serve) -> list[str]:
    given: list[str] = []
    for name, value in serve.args.items():
        if value is False:
            continue
        given.append(f"--{name.replace('_', '-')}")
        if value is not True:
            given += [str(part) for part in (value if isinstance(value, list) else [value])]
    return given


def _free_port() -> int:
    for port in [*random.Random().sample(_PORTS, 20), 0]:
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SetupError("no port is free for a server on this machine")


def _temporary_log(name: str) -> Path:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name)[-40:]
    return Path(tempfile.gettempdir()) / f"inferloom-{plain}-{os.getpid()}.log"


def telling_line(log: str) -> str:
    """The line of a log that most likely says why a server died, without its prefixes; at most 300 characters."""
    lines = [_LOG_PREFIX.sub("", _ANSI.sub("", line).strip()).strip() for line in log.splitlines()]
    lines = [line for line in lines if line and not any(later in line for later in _CONSEQUENCES)]
    named = [line for line in lines if _TELLING.match(line)]
    line = (named or lines or [""])[-1]
    return line if len(line) <= 300 else line[:297] + "..."
