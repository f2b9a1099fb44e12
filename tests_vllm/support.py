"""What the tests and the benchmark of the prefix cache share: servers, pipelines, questions, and what engines count."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from inferloom.core.types import Json
from inferloom.models.client import Gateway
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.served import servers
from inferloom.models.vllm import _prepare
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec

T = TypeVar("T")
Models = Mapping[str, dict[str, Json]]
Examples = tuple[tuple[str, str], ...]

CARD = shutil.which("nvidia-smi") is not None
SIZES = ("small", "large")

# The CPU's prefix cache keeps blocks of 32 tokens at least; a card is shared by up to six engines.
BLOCKS = 16 if CARD else 32
CARD_SHARE = 0.15
ARGUMENTS: dict[str, Json] = {"dtype": "float32", "enforce-eager": True, "max-num-seqs": 64, "block-size": BLOCKS}
# Half a prompt with a seed ends the CPU's engine.
OF_PLACE: dict[str, Json] = {"gpu-memory-utilization": CARD_SHARE} if CARD else {"no-enable-chunked-prefill": True}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Several engines share the cores, and their models are too small for two threads.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}

_PLAIN = ("sum", "multiply", "count", "sort", "reverse", "target", "story")
"""The tasks that explain themselves, without notes."""
_SAMPLE = re.compile(r"(vllm:\w+)(?:\{.*\})? (\S+)")
_COUNTERS = (
    "vllm:request_success_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
)


def entry(size: str, log: Path, **serve: Json) -> dict[str, Json]:
    """A model's YAML with a server of its own."""
    return {
        "model": f"openai:{size}",
        "prefix": "completions",
        "tokenizer": f"pocket:{size}",
        "concurrency": 32,
        "serve": {
            "model": f"pocket:{size}",
            "args": {**ARGUMENTS, **OF_PLACE},
            "env": {**ENVIRONMENT},
            "log": str(log),
            **serve,
        },
    }


def pipeline(gateway: Gateway, models: Mapping[str, Json], *steps: Json) -> Pipeline:
    """A pipeline of some steps on some models, as its YAML says it."""
    spec = PipelineSpec.from_data({"models": dict(models), "prompts": "pocket", "steps": list(steps)}, "test")
    return Pipeline(spec, gateway)


def solved(count: int, seed: int = 1) -> Examples:
    """Solved examples to show before a question, of one kind of task after the other."""
    made = pocket_items(_PLAIN, None, count, seed, purpose="examples") if count else []
    return tuple((item.question, item.solution) for item in made)


@dataclass(frozen=True, slots=True)
class Counts:
    """What an engine counted: whole completions, and tokens."""

    completions: int = 0
    prompt: int = 0
    """Of the prompt, once for each completion of a request."""
    generated: int = 0
    looked_up: int = 0
    """Looked for in the prefix cache."""
    found: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(one - two for one, two in zip(astuple(self), astuple(other), strict=True)))


def count_servers() -> dict[str, Counts]:
    """What the servers of this process counted since they started, by the model's name."""
    return {server.name: _scraped(server.url) for server in servers()}


def ask_server(url: str, method: str, path: str) -> str:
    """What a server answers beside its API."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    assert reply.status == 200, f"{path}: {reply.status} {text}"
    return text


def _scraped(url: str) -> Counts:
    sums: dict[str, float] = defaultdict(float)
    for line in ask_server(url, "GET", "/metrics").splitlines():
        if sample := _SAMPLE.fullmatch(line):
            sums[sample[1]] += float(sample[2])
    return Counts(*(int(sums[name]) for name in _COUNTERS))


def count_engines(patch: pytest.MonkeyPatch) -> dict[str, Counts]:
    """What the engines of this process that start from now on will have counted, by the model's name."""
    _prepare()  # what vLLM is told stands in the environment before it is imported
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    counts: dict[str, Counts] = defaultdict(Counts)

    class Watch(StatLoggerBase):  # type: ignore[misc]  # vLLM has no types here
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self.name = Path(vllm_config.model_config.model).name

        def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, **more: Any) -> None:
            if iteration_stats is not None:
                done = len(iteration_stats.finished_requests)
                made = iteration_stats.num_generation_tokens
                counts[self.name] += Counts(done, iteration_stats.num_prompt_tokens, made)
            if scheduler_stats is not None:
                cache = scheduler_stats.prefix_cache_stats
                counts[self.name] += Counts(looked_up=cache.queries, found=cache.hits)

        def log_engine_initialized(self) -> None:
            pass

    started = AsyncLLM.from_engine_args
    watched = staticmethod(lambda arguments: started(arguments, stat_loggers=[Watch]))
    patch.setattr(AsyncLLM, "from_engine_args", watched)
    return counts


async def settled(count: Callable[[], Mapping[str, Counts]]) -> dict[str, Counts]:
    """What is counted once nothing more comes: an engine counts a reply just after it has sent it."""
    now = dict(count())
    while True:
        before = now
        await asyncio.sleep(0.5)
        now = dict(count())
        if now == before:
            return now


async def counted(work: Callable[[], Any], count: Callable[[], Mapping[str, Counts]]) -> tuple[Any, dict[str, Counts]]:
    """What some work gives, and what the engines counted meanwhile."""
    before = await settled(count)
    done = await work()
    after = await settled(count)
    return done, {name: after[name] - before.get(name, Counts()) for name in after}
