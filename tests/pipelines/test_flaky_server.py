"""A pipeline against a real HTTP server that fails: every item answered, the ledger agrees with the server's log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from inferloom.core.types import total
from inferloom.models import retry
from inferloom.models.client import Gateway
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.flaky_server import UNKNOWN, FlakyServer

FAULTS = {"rate_limit": 0.1, "server_error": 0.1, "timeout": 0.1, "cut": 0.1, "truncated": 0.1}
ITEMS = 40


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        return None

    monkeypatch.setattr(retry, "sleep", at_once)


async def test_every_item_is_answered_and_the_ledger_agrees_with_the_server(tmp_path: Path) -> None:
    with FlakyServer(seed=11, faults=FAULTS) as server, Store.open(f"{tmp_path}/flaky.db") as store:
        source = f"""
models:
  m: {{model: "openai:test", base_url: "{server.base_url}", timeout: 3, retries: 12}}
steps:
  - sample: {{model: m, n: 4, max_tokens: 30}}
  - vote
"""
        path = tmp_path / "flaky.yaml"
        path.write_text(source)
        gateway = Gateway(store)
        pipeline = Pipeline(PipelineSpec.load(path), gateway)
        results = await pipeline.abatch([f"question {i}" for i in range(ITEMS)], stream="s", concurrency=8)
        await gateway.aclose()
        log = server.log
        seen = Counter(entry.fault for entry in log)
        assert set(FAULTS) <= set(seen), "the seed must show every fault"

        assert all(result.answer is not None and result.stopped is None for result in results)
        rows = [row for result in results for row in store.calls(result.run_id)]
        outcomes = Counter(row.outcome for row in rows)
        assert outcomes["ok"] == seen[None]
        assert outcomes["unknown"] == sum(seen[fault] for fault in UNKNOWN)
        assert outcomes["failed"] == seen["rate_limit"] + seen["server_error"]
        whole = [entry for entry in log if entry.fault is None]
        billed = total(result.billed for result in results)
        assert billed.completion_tokens == sum(entry.completion_tokens for entry in whole)
        assert billed.prompt_tokens == sum(entry.prompt_tokens for entry in whole)
        assert sum(row.completions for row in rows) == sum(entry.completions for entry in whole) == 4 * ITEMS
        unknown_tokens = sum(entry.completion_tokens for entry in log if entry.fault in UNKNOWN)
        assert total(result.bound for result in results).completion_tokens >= unknown_tokens > 0

        # Nothing that came whole is asked for again: the same stream once more sends nothing.
        before = len(server.log)
        again = Pipeline(PipelineSpec.load(path), Gateway(store))
        repeated = await again.abatch([f"question {i}" for i in range(ITEMS)], stream="s", concurrency=8)
        assert len(server.log) == before
        assert [r.answer for r in repeated] == [r.answer for r in results]
        assert [r.usage for r in repeated] == [r.usage for r in results]
        assert total(r.billed for r in repeated).calls == 0
