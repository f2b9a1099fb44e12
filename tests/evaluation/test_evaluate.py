"""An evaluation is recorded item by item, goes on where it stopped, and outlives a model that fails now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Unpack

import pytest

from inferloom.core.errors import (
    DataError,
    ModelError,
    ServerFaultError,
    StorageError,
    UnreachableError,
    UnsupportedCodeError,
)
from inferloom.core.types import Candidate, Usage
from inferloom.evaluation import Evaluation, Item, ItemResult, evaluate, make_grader
from inferloom.evaluation.graders import CallableGrader
from inferloom.pipelines.run import Pipeline, RunOptions, RunResult
from inferloom.store import Store

GRADER = make_grader("exact")
ITEMS = [Item(id=f"i{n}", question=f"q{n}", answer=str(n % 2)) for n in range(10)]


class Fake:
    """A pipeline that answers "0" to everything, except where `fail` raises."""

    def __init__(self, fail: Callable[[str], Exception | None] = lambda question: None, hash: str = "p1") -> None:
        self.spec = SimpleNamespace(hash=hash, uses_oracle=False)
        self.fail = fail
        self.asked: list[tuple[str, str | None]] = []
        self.most_at_once = self.at_once = 0

    async def ainvoke(self, question: str, **options: Unpack[RunOptions]) -> RunResult:
        stream = options.get("stream")
        self.asked.append((question, stream))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        error = self.fail(question)
        if error is not None:
            raise error
        cost = Usage(calls=1, prompt_tokens=3, completion_tokens=2)
        return RunResult(
            answer="0",
            candidates=(Candidate(id="c", text="A: 0", answer="0"),),
            usage=cost,
            billed=cost,
            bound=Usage(),
            usage_by_model={},
            stopped=None,
            run_id=f"run-{question}",
            stream=stream or "",
            wall_seconds=0.0,
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "test.db")) as opened:
        yield opened


async def test_every_item_is_graded_recorded_and_told(store: Store) -> None:
    pipeline, told = Fake(), list[ItemResult]()
    result = await evaluate(
        pipeline,
        ITEMS,
        grader=GRADER,
        store=store,
        stream="s/dev",
        split="dev",
        study="s",
        trial=3,
        on_item=told.append,
    )
    assert result.scores == (1.0, 0.0) * 5
    assert result.mean.mean == 0.5
    assert result.usage == result.billed == Usage(calls=10, prompt_tokens=30, completion_tokens=20)
    assert pipeline.asked[4] == ("q4", "s/dev/i4")
    assert {one.item for one in told} == {item.id for item in ITEMS}
    rows = {row.item: row for row in store.evaluations("s", split="dev", trial=3)}
    assert (rows["i4"].score, rows["i4"].run, rows["i4"].pipeline, rows["i4"].answer) == (1.0, "run-q4", "p1", "0")
    assert rows["i4"].nominal == Usage(calls=1, prompt_tokens=3, completion_tokens=2)


async def test_without_a_study_nothing_is_recorded(store: Store) -> None:
    result = await evaluate(Fake(), ITEMS, grader=GRADER, store=store, stream="s", split="dev")
    assert result.mean.n == 10
    assert store.evaluations("s") == []


async def test_items_that_are_there_are_not_run_again(store: Store) -> None:
    async def run(pipeline: Fake, items: Sequence[Item]) -> tuple[float, ...]:
        result = await evaluate(
            pipeline, items, grader=GRADER, store=store, stream="s", split="dev", study="s", trial=0
        )
        return result.scores

    await run(Fake(), ITEMS[:6])
    second = Fake()
    assert await run(second, ITEMS) == (1.0, 0.0) * 5
    assert [question for question, _ in second.asked] == ["q6", "q7", "q8", "q9"]
    other = Fake(hash="p2")
    await run(other, ITEMS)
    assert len(other.asked) == 10


async def test_a_failed_item_scores_zero_and_is_tried_again_next_time(store: Store) -> None:
    def fail(question: str) -> ModelError | None:
        return ServerFaultError("boom", where="model `m`") if question == "q2" else None

    async def run(pipeline: Fake) -> tuple[float, ...]:
        result = await evaluate(
            pipeline, ITEMS, grader=GRADER, store=store, stream="s", split="dev", study="s", trial=0
        )
        assert [one.item for one in result.failures] == (["i2"] if result.scores[2] == 0 else [])
        return result.scores

    assert (await run(Fake(fail)))[2] == 0.0
    (row,) = [row for row in store.evaluations("s") if row.item == "i2"]
    assert (row.score, row.answer, row.stopped) == (0.0, None, "error: model `m`: boom")
    mended = Fake()
    assert (await run(mended))[2] == 1.0
    assert [question for question, _ in mended.asked] == ["q2"]


async def test_too_many_failures_end_the_evaluation_with_the_model_s_own_error(store: Store) -> None:
    pipeline = Fake(lambda question: ServerFaultError("boom") if question >= "q3" else None)
    with pytest.raises(ServerFaultError, match="boom"):
        await evaluate(pipeline, ITEMS, grader=GRADER, store=store, stream="s", split="dev", concurrency=1)
    assert len(pipeline.asked) == 6


async def test_items_that_cannot_be_graded_are_told_apart_and_graded_next_time(store: Store) -> None:
    class Half(CallableGrader):
        """Cannot grade the items that are named."""

        lacking = frozenset({f"i{n}" for n in range(8)})

        async def agrade(self, item: Item, answer: str | None, text: str) -> float:
            if item.id in self.lacking:
                raise UnsupportedCodeError("no numpy")
            return self.grade(item, answer, text)

    async def run(pipeline: Fake) -> Evaluation:
        return await evaluate(
            pipeline, ITEMS, grader=grader, store=store, stream="s", split="dev", study="s", trial=0, most_failed=0.0
        )

    grader = Half(lambda item, answer, text: True)
    first = await run(Fake())
    assert [one.item for one in first.ungraded] == [f"i{n}" for n in range(8)] and first.failures == ()
    assert first.scores == (0.0,) * 8 + (1.0,) * 2 and first.mean.mean == 0.2
    assert {one.stopped for one in first.ungraded} == {"ungraded: no numpy"} and first.ungraded[0].answer == "0"
    grader.lacking = frozenset({"i3"})
    again = Fake()
    second = await run(again)
    assert [one.item for one in second.ungraded] == ["i3"] and sum(second.scores) == 9
    assert sorted(question for question, _ in again.asked) == [f"q{n}" for n in range(8)]


async def test_an_endpoint_that_is_not_there_ends_it_at_once(store: Store) -> None:
    pipeline = Fake(lambda question: UnreachableError("no connection"))
    with pytest.raises(UnreachableError):
        await evaluate(pipeline, ITEMS, grader=GRADER, store=store, stream="s", split="dev", concurrency=1)
    assert len(pipeline.asked) == 1


async def test_other_errors_are_not_counted_as_failed_items(store: Store) -> None:
    with pytest.raises(StorageError, match="full"):
        await evaluate(
            Fake(lambda question: StorageError("disk full")), ITEMS, grader=GRADER, store=store, stream="s", split="dev"
        )
    with pytest.raises(DataError, match="no items"):
        await evaluate(Fake(), [], grader=GRADER, store=store, stream="s", split="dev")


async def test_concurrency_is_a_limit(store: Store) -> None:
    pipeline = Fake()
    await evaluate(pipeline, ITEMS, grader=GRADER, store=store, stream="s", split="dev", concurrency=3)
    assert pipeline.most_at_once == 3


async def test_a_real_pipeline_costs_what_its_ledger_says_and_nothing_the_second_time(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text("models: {m: 'scripted:echo'}\nsteps:\n  - sample: {model: m, n: 3}\n  - vote\n", encoding="utf-8")
    pipeline = Pipeline.load(file, store=store)
    items = [Item(id=f"i{n}", question=f"A: {n}", answer=str(n if n else 7)) for n in range(5)]

    async def run(study: str) -> Evaluation:
        return await evaluate(
            pipeline, items, grader=GRADER, store=store, stream="dev", split="dev", study=study, trial=0
        )

    first, second = await run("one"), await run("two")
    assert first.scores == second.scores == (0.0, 1.0, 1.0, 1.0, 1.0)
    assert first.usage == second.usage == store.study_usage("one").nominal
    assert first.usage.tokens > 0
    assert first.billed == store.study_usage("one").billed
    assert first.billed.calls > 0
    assert second.billed == Usage()
    assert [row.run for row in store.evaluations("one")] == [result.run for result in first.results]
