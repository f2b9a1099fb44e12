"""Both pocket models on real vLLM servers, started once for all tests, and what the tests ask them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from inferloom.core.types import Json
from inferloom.models.client import Gateway
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.pocket.tasks import Item
from inferloom.models.serve_spec import Serve
from inferloom.models.served import Lease
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

CARD = shutil.which("nvidia-smi") is not None
SIZES = ("small", "large")
Models = Mapping[str, dict[str, Json]]

# The CPU's prefix cache keeps blocks of 32 tokens at least; a card is shared by three engines.
BLOCKS = 16 if CARD else 32
ARGUMENTS: dict[str, Json] = {"dtype": "float32", "enforce-eager": True, "max-num-seqs": 64, "block-size": BLOCKS}
ON_CARD: dict[str, Json] = {"gpu-memory-utilization": 0.2} if CARD else {}
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}


def entry(size: str, log: Path, **serve: Json) -> dict[str, Json]:
    """A model's YAML with a server of its own."""
    return {
        "model": f"openai:{size}",
        "prefix": "completions",
        "tokenizer": f"pocket:{size}",
        "concurrency": 32,
        "serve": {
            "model": f"pocket:{size}",
            "args": {**ARGUMENTS, **ON_CARD},
            "env": {**ENVIRONMENT},
            "log": str(log),
            **serve,
        },
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # What vLLM and its libraries warn of is theirs.
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """What the engine in this process reads; the servers have it from their entries."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith(("INFERLOOM_", "OPENAI_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Both pocket models with their servers, as the `models:` of a pipeline; the servers run until the last test."""
    logs = tmp_path_factory.mktemp("servers")
    models = {size: entry(size, logs / f"{size}.log") for size in SIZES}
    # Held for the session: a gateway that is closed gives its servers back.
    leases = [Lease(Serve.model_validate(models[size]["serve"]), size) for size in SIZES]

    async def up() -> None:
        await asyncio.gather(*(lease.up() for lease in leases))

    async def down() -> None:
        await asyncio.gather(*(lease.release() for lease in leases))

    asyncio.run(up())
    yield models
    asyncio.run(down())


@pytest.fixture(scope="session")
def in_process() -> Models:
    """A pocket model on an engine in this process, as the `models:` of a pipeline."""
    extra: dict[str, Json] = {"enforce_eager": True, "max_num_seqs": 64, "block_size": BLOCKS}
    if CARD:
        extra |= {"gpu_memory_utilization": 0.2, "dtype": "float32"}
    return {"small": {"model": "vllm:pocket:small", "extra": extra}}


@pytest.fixture(scope="session")
def engine(in_process: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose engine is started once for all tests."""
    store = Store.open(str(tmp_path_factory.mktemp("engine") / "runs.db"))
    gateway = Gateway(store)
    yield gateway
    asyncio.run(gateway.aclose())
    store.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway on a fresh database."""
    store = Store.open(str(tmp_path / "runs.db"))
    gateway = Gateway(store)
    yield gateway
    await gateway.aclose()
    store.close()


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """A few questions of every family."""
    return pocket_items("pocket", None, 18, 5)


def pipeline(gateway: Gateway, models: Mapping[str, Json], *steps: Json) -> Pipeline:
    """A pipeline of some steps on some models, as its YAML says it."""
    spec = PipelineSpec.from_data({"models": dict(models), "prompts": "pocket", "steps": list(steps)}, "test")
    return Pipeline(spec, gateway)
