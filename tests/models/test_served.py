"""Servers that are started for a model: when they start, who shares them, how they end, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inferloom.core.errors import ConnectionCutError, ServerFaultError, SetupError
from inferloom.core.types import Json, Message, Request
from inferloom.models import served
from inferloom.models.client import Gateway
from inferloom.models.openai import OpenAIBackend, open_openai
from inferloom.models.served import telling_line
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support import stub_server

STUB = stub_server.__file__
ASK = Request(messages=(Message("user", "who?"),))
FATAL = Request(messages=(Message("user", "die"),))
ROOT = Path(__file__).parents[2]
Entry = Callable[..., dict[str, Json]]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """Makes a model's YAML with the stub as its server."""
    (tmp_path / "config.json").write_text("{}")

    def make(mode: str = "good", *more: str, **serve: Json) -> dict[str, Json]:
        command: list[Json] = [sys.executable, STUB, "--mode", mode, *more]
        given: dict[str, Json] = {"model": str(tmp_path), "command": command, "log": str(tmp_path / "s.log"), **serve}
        return {"model": "openai:stub", "serve": given}

    return make


def opened(fields: dict[str, Json], **more: Json) -> OpenAIBackend:
    spec = ModelSpec.parse({**fields, **more})
    return open_openai(spec.rest, spec)


def starts(log: Path) -> int:
    return log.read_text().count("started ") if log.exists() else 0


def has_started(log: Path) -> None:
    until = time.monotonic() + 20
    while not starts(log) and time.monotonic() < until:
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process ends soon."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        if not state.strip() or state.startswith("Z"):
            return True
        time.sleep(0.02)
    return False


async def pid_of(backend: OpenAIBackend) -> int:
    [made] = await backend.generate(ASK, [1])
    return int(made.text.removeprefix("A: "))


async def test_a_server_starts_with_the_first_request_and_is_shared(entry: Entry, tmp_path: Path) -> None:
    args: Json = {"dtype": "float32", "max_model_len": 99, "eager": True, "off": False, "l": [1, 2]}
    fields = entry(args=args, env={"STUB": 4})
    one, other = opened(fields), opened(fields, model="openai:another-name")
    await one.fingerprint()
    assert starts(tmp_path / "s.log") == 0
    pids = await asyncio.gather(*(pid_of(backend) for backend in (one, other, one)))
    assert len(set(pids)) == 1
    log = (tmp_path / "s.log").read_text()
    assert log.count("started ") == 1
    assert (
        f"for {tmp_path} with ['--dtype', 'float32', '--max-model-len', '99', '--eager', '--l', '1', '2'] and 4" in log
    )
    await one.aclose()
    assert await pid_of(other) == pids[0]
    await other.aclose()
    assert gone(pids[0])
    assert served.servers() == []
    # What was closed can be used again.
    assert await pid_of(one) != pids[0]
    await one.aclose()


async def test_a_death_is_one_line_and_final(entry: Entry, tmp_path: Path) -> None:
    backend = opened(entry())
    await backend.generate(ASK, [1])
    said = f"the server ended with exit code 7, saying `MemoryError: it was too much`; its log: {tmp_path}/s.log"
    with pytest.raises(ServerFaultError) as caught:
        await backend.generate(FATAL, [1])
    assert (caught.value.retryable, caught.value.outcome) == (False, "unknown")
    assert caught.value.sentence == f"stub (served from {tmp_path}): {said}"
    with pytest.raises(ServerFaultError) as later:
        await backend.generate(ASK, [1])
    assert (later.value.retryable, later.value.outcome) == (False, "failed")
    assert later.value.sentence == caught.value.sentence
    await backend.aclose()
    assert starts(tmp_path / "s.log") == 1


async def test_a_killed_server_names_the_signal(entry: Entry) -> None:
    backend = opened(entry())
    os.kill(await pid_of(backend), signal.SIGKILL)
    with pytest.raises(ServerFaultError, match=r"the server was killed by SIGKILL; its log: "):
        await backend.generate(ASK, [1])
    await backend.aclose()


async def test_a_server_may_be_started_again(entry: Entry, tmp_path: Path) -> None:
    backend = opened(entry(restart=True))
    before = await pid_of(backend)
    with pytest.raises(ConnectionCutError, match=r"exit code 7.*; it is started again") as caught:
        await backend.generate(FATAL, [1])
    assert caught.value.retryable
    assert await pid_of(backend) != before
    await backend.aclose()
    assert starts(tmp_path / "s.log") == 2


async def test_a_run_goes_on_after_a_restart(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferloom.models.retry.FIRST_WAIT", 0.0)
    store = Store.open(str(tmp_path / "runs.db"))
    gateway = Gateway(store)
    models: Json = {"m": entry("good", "--once", str(tmp_path / "died"), restart=True)}
    spec = PipelineSpec.from_data({"models": models, "steps": [{"sample": {"model": "m", "n": 1}}]}, "p")
    result = await Pipeline(spec, gateway).ainvoke("die once")
    calls = store.calls(result.run_id)
    await gateway.aclose()
    store.close()
    assert [(call.attempt, call.outcome) for call in calls] == [(1, "unknown"), (2, "ok")]
    assert "exit code 7" in (calls[0].error or "")
    assert (result.billed.calls, result.bound.calls) == (1, 1)


@pytest.mark.parametrize(
    ("mode", "serve", "said"),
    [
        (
            "crash",
            {},
            "ended with exit code 3 while it started, saying `ValueError: there is no such model`; its log: ",
        ),
        ("mute", {"wait": 0.5}, "did not answer /health within 0.5 s"),
        ("good", {"command": ["/no/such"]}, "exit code 1 while it started, saying `error: /no/such: No such file"),
        ("good", {"log": "/proc/none/s.log"}, "the log /proc/none/s.log cannot be written"),
        ("good", {"model": "/no/such"}, "`/no/such` is not the folder of a model (it has no config.json)"),
    ],
)
async def test_a_server_that_does_not_come_up_is_one_line(
    entry: Entry, tmp_path: Path, mode: str, serve: dict[str, Json], said: str
) -> None:
    backend = opened(entry(mode, restart=True, **serve))
    for _ in range(2):
        with pytest.raises(SetupError) as caught:
            await backend.generate(ASK, [1])
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    await backend.aclose()
    # One that never came up is not tried again.
    assert starts(tmp_path / "s.log") <= 1


async def test_a_proxy_is_not_asked_for_a_server_of_our_own(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    backend = opened(entry())
    assert await pid_of(backend)
    await backend.aclose()


async def test_waiting_for_a_start_can_be_given_up(entry: Entry) -> None:
    backend = opened(entry())
    first = asyncio.ensure_future(backend.generate(ASK, [1]))
    second = asyncio.ensure_future(backend.generate(ASK, [1]))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second)[0].text
    assert first.cancelled()
    await backend.aclose()


async def test_a_server_that_is_closed_while_it_starts_is_gone(entry: Entry, tmp_path: Path) -> None:
    backend = opened(entry("mute"))
    waiting = asyncio.ensure_future(backend.generate(ASK, [1]))
    await asyncio.to_thread(has_started, tmp_path / "s.log")
    await backend.aclose()
    with pytest.raises(ServerFaultError, match="closed"):
        await waiting
    assert gone(int((tmp_path / "s.log").read_text().split()[1]))


@linux
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "sys.exit()"])
def test_a_server_ends_with_the_process_that_started_it(entry: Entry, tmp_path: Path, how: str) -> None:
    program = f"""
        import asyncio, os, sys
        from inferloom.models.serve_spec import Serve
        from inferloom.models.served import Lease
        lease = Lease(Serve.model_validate({entry()["serve"]!r}), "stub")
        asyncio.run(lease.up())
        {how}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, timeout=60)
    assert gone(int((tmp_path / "s.log").read_text().split()[1]))


@pytest.mark.parametrize(("how", "ends"), [("os.kill(os.getpid(), 9)", True), ("guard.dismiss()", False)])
def test_an_engines_processes_end_with_ours_but_not_after_it_was_shut_down(how: str, ends: bool) -> None:
    program = f"""
        import os
        from inferloom.models.vllm import _Guard
        guard = _Guard([PID])
        {how}
    """
    with subprocess.Popen(["sleep", "60"]) as engine:
        code = textwrap.dedent(program).replace("PID", str(engine.pid))
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
        if ends:
            assert engine.wait(10) == -signal.SIGKILL
        else:
            assert engine.poll() is None
        engine.kill()


async def test_the_fingerprint_is_that_of_files_and_telling_arguments(entry: Entry) -> None:
    def of(**args: Json) -> OpenAIBackend:
        return opened(entry(args=args))

    same = [of(), of(enforce_eager=True), of(**{"block-size": 32}), opened(entry(log="elsewhere", restart=True))]
    prints = {await backend.fingerprint() for backend in same}
    assert len(prints) == 1
    assert await of(dtype="float32").fingerprint() not in prints


def test_the_telling_line_of_a_log() -> None:
    assert telling_line("") == ""
    assert telling_line("INFO 11-25 04:00:00 [a.py:1] hello\n\n") == "hello"
    assert telling_line("api_server.py: error: unrecognized arguments: --x\nusage") == (
        "api_server.py: error: unrecognized arguments: --x"
    )
    log = (
        "\x1b[36m(EngineCore pid=7)\x1b[0;0m ERROR 11-25 04:00:00 [core.py:946] torch.OutOfMemoryError: no room\n"
        "(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause above.\n"
        "/usr/lib/resource_tracker.py: UserWarning: resource_tracker: leaked\n"
    )
    assert telling_line(log) == "torch.OutOfMemoryError: no room"
    assert len(telling_line("ValueError: " + "x" * 999)) == 300
