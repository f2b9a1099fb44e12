"""Evaluations with memories: who reads what. The model answers with the number of solved examples that it was shown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from inferloom.core.types import Json, Request
from inferloom.evaluation import Evaluation, Item, evaluate, make_grader
from inferloom.memory.book import book_of
from inferloom.memory.scope import MemoryScope
from inferloom.models import embedding
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

ITEMS = [Item(id=f"i{n}", question=f"q{n}", answer="0") for n in range(8)]


def count_examples(request: Request, seed: int) -> str:
    return f"A: {sum(turn.role == 'assistant' for turn in request.messages)}"


register_backend("counts-examples", ScriptedBackend(count_examples, name="counts-examples"))
SPEC: Json = {
    "models": {"m": "scripted:counts-examples"},
    "steps": [
        {"recall": {"memory": "m", "mode": "whole", "kinds": ["example"]}},
        {"sample": {"model": "m"}},
        {"curate": {"memory": "m", "mode": "full_history", "limit": None}},
    ],
}


@embedding.register_embedder("protocol-lengths")
def lengths(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setenv("INFERLOOM_EMBEDDER", "protocol-lengths")
    embedding.default_embedder.cache_clear()
    with Store.open(str(tmp_path / "m.db")) as store:
        yield Pipeline(PipelineSpec.from_data(SPEC, "test"), Gateway(store))
    embedding.default_embedder.cache_clear()


async def run(
    pipeline: Pipeline,
    scope: MemoryScope | None = None,
    *,
    items: Sequence[Item] = ITEMS,
    order: int | None = None,
    trial: int | None = None,
    stream: str = "s",
) -> Evaluation:
    return await evaluate(
        pipeline,
        items,
        grader=make_grader("exact"),
        store=pipeline.gateway.store,
        stream=stream,
        split="dev",
        study=None if trial is None else "study",
        trial=trial,
        memory=scope,
        order=order,
    )


def online(fork: str) -> MemoryScope:
    return MemoryScope(protocol="online", fork=fork)


def by_position(done: Evaluation) -> list[str | None]:
    return [one.answer for one in sorted(done.results, key=lambda one: -1 if one.position is None else one.position)]


async def test_a_frozen_evaluation_reads_what_was_there_and_teaches_nothing(pipeline: Pipeline) -> None:
    for n in range(3):
        await pipeline.ainvoke(f"before {n}")
    assert {one.answer for one in (await run(pipeline)).results} == {"3"}
    assert book_of(pipeline.gateway.store).open("m").head() == 3


async def test_what_is_learned_after_the_beginning_is_not_read(pipeline: Pipeline) -> None:
    await pipeline.ainvoke("before")
    scope = MemoryScope(protocol="frozen", moment=time.time())
    await pipeline.ainvoke("after")
    assert {one.answer for one in (await run(pipeline, scope)).results} == {"1"}


async def test_online_each_item_reads_what_those_before_it_taught_and_no_other_trial(pipeline: Pipeline) -> None:
    await pipeline.ainvoke("before")
    expected = [str(1 + position) for position in range(len(ITEMS))]
    orders = []
    for trial, order in ((0, None), (1, 5), (2, 6)):
        done = await run(pipeline, online(f"study/{trial}/dev"), order=order, trial=trial, stream=f"s{order}")
        assert by_position(done) == expected
        orders.append([one.position for one in done.results])
    assert orders[0] == list(range(len(ITEMS))) and orders[1] != orders[2]
    assert book_of(pipeline.gateway.store).open("m").head() == 1


async def test_an_online_evaluation_that_was_cut_off_goes_on_where_it_stopped(pipeline: Pipeline) -> None:
    first = await run(pipeline, online("study/0/dev"), items=ITEMS[:5], trial=0)
    whole = await run(pipeline, online("study/0/dev"), trial=0)
    assert [one.resumed for one in whole.results] == [True] * 5 + [False] * 3
    assert by_position(whole) == [str(position) for position in range(len(ITEMS))]
    assert first.halves is not None
    # Asked all over again, without rows: the same, and nothing is learned twice.
    again = await run(pipeline, online("study/0/dev"))
    assert by_position(again) == by_position(whole)
    assert book_of(pipeline.gateway.store).open("m", "default:study/0/dev").head() == len(ITEMS)


async def test_two_namespaces_know_nothing_of_one_another(pipeline: Pipeline) -> None:
    for namespace in ("ann", "bob", "ann"):
        answered = await pipeline.ainvoke("q", memory=MemoryScope(namespace))
    assert answered.answer == "1"
