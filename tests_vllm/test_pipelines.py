"""Whole pipelines on real vLLM, by servers and in this process: answers, accounts, and what is in the bank."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from inferloom.core.types import Json, Usage, total
from inferloom.models.client import Gateway
from inferloom.models.pocket.asking import is_right
from inferloom.models.pocket.tasks import Item
from inferloom.pipelines.run import Pipeline, RunResult
from tests_vllm.support import Models, pipeline

VOTE: tuple[Json, ...] = (
    {"sample": {"model": "small", "n": 6, "max_tokens": 160}},
    {"score": {"model": "judge", "name": "judge", "expected": True}},
    {"vote": {"weight": "judge"}},
)
BEAMS: tuple[Json, ...] = ({"beam_search": {"model": "small", "judge": "judge", "n": 4, "width": 2, "max_steps": 6}},)


@pytest.fixture(params=["served", "in_process"])
def place(request: pytest.FixtureRequest) -> tuple[Gateway, Mapping[str, Json]]:
    """Gateway and models: the small one answers and the large one judges."""
    models: Models = request.getfixturevalue(request.param)
    gateway: Gateway = request.getfixturevalue("gateway" if request.param == "served" else "engine")
    return gateway, {"small": models["small"], "judge": models["large"]}


def counted(usage: Usage) -> Usage:
    """What is whole numbers: seconds are added in the order of arrival, which moves their last digit."""
    return replace(usage, seconds=0.0)


async def run_all(whole: Pipeline, items: list[Item], stream: str) -> list[RunResult]:
    return await asyncio.gather(
        *(whole.ainvoke(item.question, notes=item.notes, stream=f"{stream}/{i}") for i, item in enumerate(items))
    )


@pytest.mark.parametrize("steps", [VOTE, BEAMS], ids=["vote", "beams"])
async def test_a_pipeline_answers_and_its_ledger_is_its_usage(
    place: tuple[Gateway, Mapping[str, Json]], steps: tuple[Json, ...], items: list[Item]
) -> None:
    gateway, models = place
    whole = pipeline(gateway, models, *steps)
    stream = f"{steps is VOTE}"
    results = await run_all(whole, items, stream)
    assert sum(is_right(item, result.text) for item, result in zip(items, results, strict=True)) > 0
    for result in results:
        report = gateway.store.usage(result.run_id)
        calls = gateway.store.calls(result.run_id)
        assert counted(report.nominal) == counted(result.usage)
        assert report.nominal.seconds == pytest.approx(result.usage.seconds)
        assert report.billed.tokens == result.billed.tokens > 0
        assert {call.outcome for call in calls} == {"ok"}
        assert total(call.billed for call in calls).completion_tokens == result.billed.completion_tokens
    again = await run_all(whole, items, stream)
    assert [result.text for result in again] == [result.text for result in results]
    assert total(result.billed for result in again).calls == 0
    # What a run costs in production does not depend on what the bank holds.
    assert [counted(result.usage) for result in again] == [counted(result.usage) for result in results]
    assert [result.usage.seconds for result in again] == pytest.approx([result.usage.seconds for result in results])
