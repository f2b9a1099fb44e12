"""The server under load, beside the ideal and beside other toolkits' servers: `make bench-serve`.

32 clients, each with requests that arrive at random (a Poisson process: exponential pauses between an answer and the
next question), ask for eight samples and their vote. The model behind the server takes half a second a call and honours
`n`, so the ideal critical path is half a second. The same load goes straight to the model first: what the clients and
the machine themselves add. Every question is new, so nothing comes from a bank or a cache.

CPU is that of the server's process alone, over the whole load. Memory is resident memory: the mean over the last sixth
of the time against the mean over the second sixth. The model, the clients and the server share the machine.

The others stand in virtual environments of their own (`scripts/rivals-venv.sh`), with the settings that they come with
but for the number of samples; one that could not be installed is named with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import IO

import httpx
from card import DOCS, command_of, show
from serve_model import SECONDS as IDEAL

ROOT = Path(__file__).parents[1]
RIVALS = ROOT / ".venv-rivals"
CLIENTS, PAUSE, BAR = 32, 1.5, 1.3
SAMPLES = 8
PIPELINE = """\
models:
  m: {model: 'openai:m', base_url: 'URL', concurrency: 64}
prompts: general
steps:
  - sample: {model: m, n: 8}
  - vote
"""


@dataclass
class Load:
    """What a server did under the load."""

    name: str
    pid: int | None
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    cpu: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds from the start, MiB)."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(command: Sequence[str | Path], port: int, path: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process that answers at a path; its id."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=log, stderr=log, text=True)
        try:
            await_answer(process, f"http://127.0.0.1:{port}{path}", log)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_answer(process: subprocess.Popen[str], url: str, log: IO[str]) -> None:
    """Wait until a server answers; a RuntimeError says what it said instead."""
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2).status_code < 500:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"it does not answer: {log.read()[-800:]}")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def put_under_load(load: Load, url: str, body: dict[str, object], seconds: float) -> Load:
    """32 clients at once for some seconds, after a few requests that warm everything up."""
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=60, limits=limits) as http:

        async def ask(question: str, count: bool) -> None:
            started = time.perf_counter()
            try:
                reply = await http.post(url, json={**body, "messages": [{"role": "user", "content": question}]})
                if reply.status_code != 200 or '"choices"' not in reply.text:
                    load.errors.append(f"{reply.status_code}: {reply.text[:200]}")
            except httpx.HTTPError as error:
                load.errors.append(f"{type(error).__name__}: {error}")
            if count:
                load.seconds.append(time.perf_counter() - started)

        await asyncio.gather(*(ask(f"warm up {number}", False) for number in range(8)))
        begun, before = time.perf_counter(), cpu_of(load.pid) if load.pid else 0.0

        async def client(number: int) -> None:
            chance = Random(number)
            turn = 0
            while True:
                await asyncio.sleep(chance.expovariate(1 / PAUSE))
                if time.perf_counter() - begun > seconds:
                    return
                turn += 1
                await ask(f"question {number}-{turn} of {load.name}", True)

        async def watch(pid: int) -> None:
            while True:
                load.memory.append((time.perf_counter() - begun, memory_of(pid)))
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch(load.pid)) if load.pid else None
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        if watching is not None:
            watching.cancel()
        load.cpu = (cpu_of(load.pid) - before) if load.pid else 0.0
    return load


def measure_own(model: str, seconds: float) -> Load:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vote.yaml"
        file.write_text(PIPELINE.replace("URL", model))
        command = [sys.executable, "-c", "from inferloom.cli import main; main()", "serve", file]
        command += ["--port", str(port), "--db", f"sqlite:///{folder}/s.db"]
        with running(command, port, "/healthz", {"PYTHONPATH": str(ROOT)}) as pid:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            return asyncio.run(put_under_load(Load("inferloom", pid), url, {"model": "vote"}, seconds))


def measure_its_hub(model: str, seconds: float) -> Load:
    port = free_port()
    command = [RIVALS / "its_hub" / "bin" / "its-iaas", "--port", str(port), "--log-level", "ERROR"]
    with running(command, port, "/v1/models") as pid:
        configured = httpx.post(
            f"http://127.0.0.1:{port}/configure",
            json={
                "endpoint": model,
                "api_key": "none",
                "model": "m",
                "alg": "self-consistency",
                "regex_patterns": ["A: (.*)"],
                "budget": SAMPLES,
            },
        )
        configured.raise_for_status()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return asyncio.run(put_under_load(Load("its_hub 1.2.0", pid), url, {"model": "m"}, seconds))


def measure_optillm(model: str, seconds: float) -> Load:
    port = free_port()
    command = [RIVALS / "optillm" / "bin" / "optillm", "--port", str(port), "--base-url", model, "--log", "error"]
    with running(command, port, "/v1/models", {"OPENAI_API_KEY": "none"}) as pid:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        body = {"model": "majority_voting-m", "k": SAMPLES}
        return asyncio.run(put_under_load(Load("optillm 0.4.0", pid), url, body, seconds))


def median_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95% interval by order statistics."""
    ordered = sorted(values)
    reach = 0.98 * math.sqrt(len(ordered))
    low, high = (round(len(ordered) / 2 + sign * reach) for sign in (-1, 1))
    return statistics.median(ordered), ordered[max(0, low)], ordered[min(len(ordered) - 1, high)]


def mean_between(load: Load, start: float, end: float, seconds: float) -> float:
    """Mean memory in a part of the time."""
    found = [size for at, size in load.memory if start * seconds <= at <= end * seconds]
    return statistics.fmean(found) if found else math.nan


def line(load: Load, seconds: float) -> str:
    median, low, high = median_with_interval(load.seconds)
    tail = sorted(load.seconds)[int(0.95 * len(load.seconds))]
    cells = [
        load.name,
        f"{len(load.seconds):,}",
        str(len(load.errors)),
        f"{median * 1e3:.0f} ({low * 1e3:.0f} to {high * 1e3:.0f})",
        f"{median / IDEAL:.2f}",
        f"{tail * 1e3:.0f}",
    ]
    if load.pid is None:
        cells += ["-", "-", "-"]
    else:
        early, late = mean_between(load, 1 / 6, 2 / 6, seconds), mean_between(load, 5 / 6, 1, seconds)
        cells += [f"{load.cpu / len(load.seconds) * 1e3:.1f}", f"{early:.0f}", f"{late:.0f}"]
    return "| " + " | ".join(cells) + " |"


def verdict(own: Load, seconds: float) -> list[str]:
    """What was promised, and whether it held."""
    median, _, high = median_with_interval(own.seconds)
    early, late = mean_between(own, 1 / 6, 2 / 6, seconds), mean_between(own, 5 / 6, 1, seconds)

    def said(held: bool) -> str:
        return "held" if held else "MISSED"

    return [
        f"- zero errors: {said(not own.errors)} ({len(own.errors)} of {len(own.seconds):,})",
        f"- the median within {BAR} times the ideal: {said(high / IDEAL <= BAR)} ({median / IDEAL:.2f} times; the upper"
        f" end of the interval is {high / IDEAL:.2f})",
        f"- memory flat, within 5%: {said(late <= early * 1.05)} ({(late / early - 1) * 100:+.1f}%)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long each server is under load")
    parser.add_argument("--card", type=Path, nargs="?", const=DOCS / "serving.md", help="write the table into the page")
    arguments = parser.parse_args()
    port = free_port()
    loads: list[Load] = []
    left_out: list[str] = []
    with running([sys.executable, ROOT / "benchmarks" / "serve_model.py", str(port)], port, "/v1/models"):
        base = f"http://127.0.0.1:{port}/v1"
        direct = put_under_load(
            Load("the model itself", None), f"{base}/chat/completions", {"model": "m", "n": 8}, arguments.seconds
        )
        loads.append(asyncio.run(direct))
        sys.stderr.write(line(loads[-1], arguments.seconds) + "\n")
        for measure, name in ((measure_own, None), (measure_its_hub, "its_hub"), (measure_optillm, "optillm")):
            if name is not None and not (RIVALS / name / "bin").is_dir():
                reason = RIVALS / f"{name}.txt"
                told = reason.read_text().strip() if reason.exists() else "run scripts/rivals-venv.sh"
                left_out.append(f"{name} was not measured: {told}")
                continue
            try:
                loads.append(measure(base, arguments.seconds))
            except (RuntimeError, httpx.HTTPError) as error:
                left_out.append(f"{name or 'inferloom'} was not measured: {' '.join(str(error).split())[:300]}")
                continue
            sys.stderr.write(line(loads[-1], arguments.seconds) + "\n")
            for told in dict.fromkeys(loads[-1].errors[:3]):
                sys.stderr.write(f"  {json.dumps(told)}\n")
    cores = os.cpu_count()
    head = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command_of('bench-serve')}`: {CLIENTS} clients for"
        f" {arguments.seconds:g} seconds each, pauses of {PAUSE:g} seconds on average, {SAMPLES} samples and a vote, a"
        f" model of {IDEAL * 1e3:.0f} ms; {cores} cores shared by model, clients and server. In brackets 95%"
        " intervals.\n\n"
        "| server | requests | errors | median, ms | times the ideal | 95th percentile, ms | CPU ms per request |"
        " MiB early | MiB late |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    own = next((load for load in loads if load.name == "inferloom"), None)
    promises = verdict(own, arguments.seconds) if own else []
    rows = [line(load, arguments.seconds) for load in loads]
    text = head + "\n".join(rows) + "\n\n" + "\n".join([*promises, *(f"- {told}" for told in left_out)]) + "\n"
    show(text, arguments.card, __file__)


if __name__ == "__main__":
    main()
