"""Both pocket models on real vLLM servers and on engines in this process, each started once for all tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from inferloom.core.types import Json
from inferloom.models.client import Gateway
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.pocket.tasks import Item
from inferloom.models.serve_spec import Serve
from inferloom.models.served import Lease
from inferloom.store import Store
from tests_vllm.support import BLOCKS, CARD, CARD_SHARE, ENVIRONMENT, SIZES, Counts, Models, count_engines, entry


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
    """Both pocket models on engines in this process, as the `models:` of a pipeline."""
    extra: dict[str, Json] = {"enforce_eager": True, "max_num_seqs": 64, "block_size": BLOCKS}
    if CARD:
        extra |= {"gpu_memory_utilization": CARD_SHARE, "dtype": "float32"}
    return {size: {"model": f"vllm:pocket:{size}", "extra": extra} for size in SIZES}


@pytest.fixture(scope="session")
def engine_counts(environment: None) -> Iterator[Mapping[str, Counts]]:
    """What the engines in this process have counted, by the model's name."""
    with pytest.MonkeyPatch.context() as patch:
        yield count_engines(patch)


@pytest.fixture(scope="session")
def engine(engine_counts: Mapping[str, Counts], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose engines are started once for all tests."""
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
