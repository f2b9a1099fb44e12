"""Every registered node in a real run: client, bank, ledger and budget on a database file, a scripted model behind."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from inferloom.core.types import Candidate, Json, Request
from inferloom.models import embedding
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.nodes import reward_model
from inferloom.nodes.base import NODES
from inferloom.nodes.describe import describe
from inferloom.pipelines.rules import predict
from inferloom.pipelines.run import Pipeline, RunResult
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.node_cases import FILES, FakeRewarder


def reply(request: Request, seed: int) -> str:
    """Lines that depend on all that was asked: a digit, letters and an answer, so that every parser finds something."""
    said = "|".join(message.content for message in request.messages)
    number = hashlib.blake2b(f"{said}|{request.prefix}|{seed}".encode(), digest_size=4).digest()
    return f"{number[0] % 10}\nB A\nstep {number.hex()}\nA: {number[1] % 3}"


MODEL = register_backend("every-node", ScriptedBackend(reply, name="every-node"))
BEFORE: list[Json] = [
    {"safety": {"rules": "Be kind."}},
    {"sample": {"model": "small", "n": 3, "logprobs": True}},
    {"score": {"model": "large", "name": "judge"}},
    {"critique": {"model": "large"}},
]


@embedding.register_embedder("letters")
def letters(texts: Sequence[str]) -> list[list[float]]:
    return [[0.01 + text.count(letter) for letter in string.ascii_lowercase] for text in texts]


def oracle(candidate: Candidate) -> float:
    return float(candidate.answer == "1")


def spec_of(name: str) -> PipelineSpec:
    step: Json = {name: NODES.get(name).example()}
    models: Json = {"small": "scripted:every-node", "large": "scripted:every-node"}
    return PipelineSpec.from_data({"models": models, "steps": [*BEFORE, step]}, name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERLOOM_EMBEDDER", "letters")
    monkeypatch.setattr(reward_model, "rewarder", lambda *named: FakeRewarder())
    embedding.default_embedder.cache_clear()
    for path, rows in FILES.items():
        (tmp_path / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Store.open(f"{tmp_path}/live.db") as opened:
        yield opened
    embedding.default_embedder.cache_clear()


async def answer(
    store: Store, spec: PipelineSpec, stream: str | None = None, budget: Budget | None = None
) -> RunResult:
    flow = Pipeline(spec, Gateway(store))
    return await flow.ainvoke("What is 2 + 3?", stream=stream, budget=budget, oracle=oracle)


@pytest.mark.parametrize("name", NODES.names())
async def test_usage_is_the_ledger_and_calls_are_as_predicted(store: Store, name: str) -> None:
    spec = spec_of(name)
    result = await answer(store, spec)
    report = store.usage(result.run_id)
    for field in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens"):
        assert getattr(report.nominal, field) == getattr(result.usage, field)
        assert getattr(report.billed, field) == getattr(result.billed, field)
    made = {step.path: 0 for step in spec.steps}
    for call in store.calls(result.run_id):
        made[call.step] += call.nominal.calls
    for path, forecast in predict(spec).items():
        assert forecast.calls[0] <= made[path] <= forecast.calls[1], path


@pytest.mark.parametrize("name", NODES.names())
async def test_the_same_stream_says_the_same_and_bills_nothing(store: Store, name: str) -> None:
    first, second = [await answer(store, spec_of(name), stream="s") for _ in range(2)]
    assert second.candidates == first.candidates and second.usage == first.usage
    assert second.billed.calls == 0


@pytest.mark.parametrize("name", NODES.names())
async def test_a_budget_that_ends_midway_leaves_the_best_so_far(store: Store, name: str) -> None:
    spec = spec_of(name)
    whole = await answer(store, spec, stream="s")
    for calls in range(1, whole.usage.calls):
        result = await answer(store, spec, stream="s", budget=Budget(calls=calls))
        assert result.stopped == "budget"
        assert result.usage.calls <= calls
        assert result.candidates and result.answer is not None


@pytest.mark.parametrize("name", NODES.names())
async def test_the_pipeline_that_shows_a_node_runs(store: Store, name: str) -> None:
    described = describe(name)
    spec = PipelineSpec.parse(described["pipeline"], name)
    assert name in [step.node.name for step in spec.steps]
    if described["pocket"]:
        assert (await answer(store, spec)).candidates
