"""Speculative reasoning with the pocket pair on real vLLM: what is recorded, counted by engines and in their caches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from inferloom.core.types import Candidate, Json
from inferloom.models.client import Gateway
from inferloom.models.pocket.asking import is_right
from inferloom.models.pocket.tasks import Item
from inferloom.pipelines.run import RunResult
from inferloom.store import CallRow, Store
from tests_vllm.support import Counts, Models, count_servers, counted, pipeline, solved

CHAINS = 4
EXAMPLES = 4
"""With as many chains and solved examples `docs/vllm.md` promises the bar below."""
BAR = 0.6


@dataclass(frozen=True)
class Ran:
    """A pipeline's runs, and what the engines counted meanwhile."""

    store: Store
    ahead: bool
    items: list[Item]
    results: list[RunResult]
    counts: dict[str, Counts]

    def calls(self, model: str) -> list[CallRow]:
        """The ledger's rows of a model, over all runs."""
        return [call for one in self.results for call in self.store.calls(one.run_id) if call.model == model]


@pytest.fixture(scope="module", params=["served", "in_process"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Models]]:
    """A gateway with models on servers, or on engines in this process."""
    models: Models = request.getfixturevalue(request.param)
    with ExitStack() as stack:
        if request.param == "in_process":
            gateway: Gateway = request.getfixturevalue("engine")
        else:
            store = stack.enter_context(Store.open(str(tmp_path_factory.mktemp("speculative") / "runs.db")))
            gateway = Gateway(store)
            stack.callback(lambda: asyncio.run(gateway.aclose()))
        yield gateway, models


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "ahead"])
def ran(request: pytest.FixtureRequest, place: tuple[Gateway, Models], items: list[Item]) -> Ran:
    """Chains that the pair writes together and that vote, for every question, behind solved examples."""
    gateway, models = place
    step: dict[str, Json] = {"draft": "small", "model": "large", "n": CHAINS, "expected": True, "threshold": 0.5}
    whole = pipeline(gateway, models, {"spec_reason": {**step, "ahead": request.param, "max_tokens": 240}}, "vote")

    async def work() -> list[RunResult]:
        asks = (whole.ainvoke(item.question, notes=item.notes, examples=solved(EXAMPLES)) for item in items)
        return await asyncio.gather(*asks)

    on_servers = "serve" in models["small"]
    count = count_servers if on_servers else lambda: request.getfixturevalue("engine_counts")
    results, counts = asyncio.run(counted(work, count))
    return Ran(gateway.store, request.param, items, results, counts)


def written(ran: Ran, result: RunResult) -> list[Candidate]:
    """All chains of a run, as its first node handed them on."""
    return [row.candidate for row in ran.store.candidates(result.run_id) if row.candidate.origin.get("steps")][:CHAINS]


def replayed(ran: Ran, chain: Candidate) -> tuple[str, list[str]]:
    """The text of a chain put together from what the bank has of its steps, and what was graded on the way."""
    text, graded = "", []
    for step in chain.origin["steps"]:
        for draft in [step["rejected"]] if "rejected" in step else [step["completion"]]:
            if "grade" in step:
                graded.append((text + ran.store.completion(draft).text).removesuffix("\n"))
        kept = ran.store.completion(step["completion"])
        text += kept.text + (kept.stop_reason or "")
    return text.removesuffix("\n"), graded


def test_every_draft_grade_and_rewritten_step_is_in_the_database(ran: Ran) -> None:
    bodies = {row.hash: json.loads(row.body) for row in ran.store.prompts(1_000_000)}
    assert sum(is_right(item, one.text) for item, one in zip(ran.items, ran.results, strict=True)) > 0
    wasted = rejected = 0
    for result in ran.results:
        chains = written(ran, result)
        assert len(chains) == CHAINS
        steps = [step for chain in chains for step in chain.origin["steps"]]
        told = [replayed(ran, chain) for chain in chains]
        assert [text for text, _ in told] == [chain.text for chain in chains]
        calls = ran.store.calls(result.run_id)
        assert [call.error for call in calls if call.outcome != "ok"] == []
        grades = sum(call.completions for call in calls if bodies[call.request]["max_tokens"] == 1)
        large = sum(call.completions for call in calls if call.model == "large")
        drafts = sum(call.completions for call in calls if call.model == "small")
        # A text is graded once, however many chains have it.
        assert grades == len({text for _, graded in told for text in graded})
        assert large - grades == sum(step["model"] == "large" for step in steps)
        assert drafts >= len(steps)
        wasted += drafts - len(steps)
        rejected += sum("rejected" in step for step in steps)
    assert rejected > 0
    assert (wasted > 0) == ran.ahead


def test_the_engines_counted_what_the_ledger_says(ran: Ran) -> None:
    assert set(ran.counts) == {"small", "large"}
    for model, seen in ran.counts.items():
        calls = ran.calls(model)
        assert seen.completions == sum(call.completions for call in calls) > 0
        assert seen.generated == sum(call.billed.completion_tokens for call in calls)
        # An engine counts a prompt for each of its completions, a bill once for them all.
        assert seen.prompt == sum(call.billed.prompt_tokens * call.completions for call in calls)
        alone = [call.billed for call in calls if call.completions == 1]
        assert 0 < sum(billed.cached_tokens for billed in alone) <= seen.found
    for result in ran.results:
        report = ran.store.usage(result.run_id)
        assert report.nominal.tokens == result.usage.tokens
        assert report.billed.tokens == result.billed.tokens > 0


def test_most_of_the_prompts_are_in_the_prefix_cache(ran: Ran) -> None:
    both = ran.counts["small"] + ran.counts["large"]
    assert both.looked_up == both.prompt
    assert both.found / both.looked_up > BAR
