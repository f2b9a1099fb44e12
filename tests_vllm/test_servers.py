"""Servers that die, that are started again, and that never come up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from inferloom.core.errors import InferloomError, ServerFaultError, SetupError
from inferloom.core.types import Json, Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.client import Gateway
from inferloom.models.pocket.tasks import Item
from inferloom.models.served import servers
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.run import Pipeline, RunResult
from inferloom.store import Store
from tests_vllm.support import Models, entry, pipeline

SAMPLES = 32
STEPS: Json = {"sample": {"model": "m", "n": SAMPLES, "max_tokens": 160}}


def few_at_once(log: Path, **serve: Json) -> dict[str, Json]:
    """A model that is asked little at a time, so that much is still to come when the first answer is there."""
    return {**entry("small", log, **serve), "concurrency": 4}


async def killed_in_mid_run(whole: Pipeline, items: list[Item], log: Path) -> list[RunResult | BaseException]:
    """Ask everything, and kill the server's process group once the first answer is there."""
    asks = [
        asyncio.ensure_future(whole.ainvoke(item.question, notes=item.notes, stream=f"kill/{i}"))
        for i, item in enumerate(items)
    ]
    await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
    [group] = [server.group for server in servers() if server.log == log]
    assert group is not None
    os.killpg(group, signal.SIGKILL)
    return await asyncio.gather(*asks, return_exceptions=True)


def received(store: Store) -> int:
    """How many completions came from the model in all, over all runs."""
    return sum(call.completions for run in store.runs(1000) for call in store.calls(run.id))


async def test_a_killed_server_is_one_line_and_nothing_received_is_asked_again(
    items: list[Item], tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    store = Store.open(str(tmp_path / "runs.db"))
    models = {"m": few_at_once(log)}
    gateway = Gateway(store)
    whole = pipeline(gateway, models, STEPS, "vote")
    done = await killed_in_mid_run(whole, items, log)
    errors = [one for one in done if isinstance(one, BaseException)]
    assert 0 < len(errors) < len(items)
    for error in errors:
        assert isinstance(error, ServerFaultError)
        assert not error.retryable
        assert "was killed by SIGKILL" in str(error)
        assert str(log) in str(error)
        assert "\n" not in str(error)
    begun = time.monotonic()
    with pytest.raises(ServerFaultError, match="SIGKILL"):
        await whole.ainvoke(items[0].question, stream="another")
    assert time.monotonic() - begun < 5
    before = received(store)
    await gateway.aclose()
    # A new gateway starts a new server; the runs that were answered are served from the bank.
    gateway = Gateway(store)
    whole = pipeline(gateway, models, STEPS, "vote")
    results = [await whole.ainvoke(item.question, notes=item.notes, stream=f"kill/{i}") for i, item in enumerate(items)]
    await gateway.aclose()
    for one, result in zip(done, results, strict=True):
        if isinstance(one, RunResult):
            assert result.billed.calls == 0
            assert result.text == one.text
    assert 0 < before < received(store) == SAMPLES * len(items)
    store.close()


async def test_a_killed_server_is_started_again(items: list[Item], tmp_path: Path, gateway: Gateway) -> None:
    log = tmp_path / "server.log"
    whole = pipeline(gateway, {"m": few_at_once(log, restart=True)}, STEPS, "vote")
    done = await killed_in_mid_run(whole, items, log)
    assert [one for one in done if isinstance(one, BaseException)] == []
    store = gateway.store
    lost = [call for run in store.runs(1000) for call in store.calls(run.id) if call.outcome != "ok"]
    assert lost
    assert all("SIGKILL" in (call.error or "") for call in lost)
    assert received(store) == SAMPLES * len(items)


def test_an_engine_in_a_killed_process_is_gone_too(in_process: Models) -> None:
    program = f"""
        import asyncio, multiprocessing, os, subprocess
        from inferloom.core.types import Message, Request
        from inferloom.models.backends import open_backend
        from inferloom.models.spec import ModelSpec
        backend = open_backend(ModelSpec.parse({in_process["small"]!r}))
        asyncio.run(backend.generate(Request(messages=(Message("user", "1"),), max_tokens=2), [1]))
        for process in multiprocessing.active_children():
            own = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], stdout=subprocess.PIPE, text=True)
            print(process.pid, own.stdout, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    numbers = [int(number) for number in done.stdout.split()]
    assert numbers
    until = time.monotonic() + 10
    while (left := [number for number in numbers if Path(f"/proc/{number}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


async def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    log = tmp_path / "server.log"
    fields = entry("small", log, model=str(tmp_path))
    backend = open_backend(ModelSpec.parse(fields))
    lines = set()
    for _ in range(2):
        with pytest.raises(InferloomError) as caught:
            await backend.generate(Request(messages=(Message("user", "1"),)), [1])
        assert isinstance(caught.value, SetupError)
        lines.add(str(caught.value))
    await backend.aclose()
    [line] = lines
    assert "while it started, saying `" in line
    assert str(log) in line
    assert "\n" not in line
