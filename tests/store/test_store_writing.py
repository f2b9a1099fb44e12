"""What is written comes back as it was, in any order and from any number of callers, or its caller is told."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from inferloom.core.errors import StorageError, UnknownNameError, UserError
from inferloom.core.types import Usage, total
from inferloom.store import CompletionRow, Store
from tests.store.store_samples import (
    ADDRESS,
    CANDIDATE_ROW,
    COMPLETION,
    EVALUATION,
    PIPELINE,
    REQUEST,
    STEP,
    STUDY,
    TOUCH,
    USAGE,
    address,
    banked,
    call,
    run,
)


async def test_every_kind_of_row_comes_back_as_it_was(store: Store) -> None:
    completion = CompletionRow(address=ADDRESS, index=0, completion=COMPLETION, created=1.0)
    unknown = call("c1", outcome="unknown", error="cut", bound=USAGE, started=0.5)
    await store.write(
        completion, REQUEST, call("c2"), unknown, STEP, CANDIDATE_ROW, run(study="first", item="i", tag="t")
    )
    # The same look written twice, as after a lost answer, is one look.
    await store.write(PIPELINE, EVALUATION, STUDY, TOUCH, TOUCH, replace(TOUCH, created=2.0))
    assert await store.banked(ADDRESS, [0, 1]) == {0: COMPLETION}
    assert store.completion(COMPLETION.id) == COMPLETION
    assert store.prompts() == [REQUEST]
    assert store.calls("run-1") == [unknown, call("c2")]
    assert store.steps("run-1") == [STEP]
    assert store.candidates("run-1") == [CANDIDATE_ROW]
    assert store.runs() == [run(study="first", item="i", tag="t")] == store.runs(study="first")
    assert store.runs(study="second") == []
    assert store.pipeline(PIPELINE.hash) == PIPELINE.yaml
    assert store.evaluations("first") == [EVALUATION] == store.evaluations("first", split="search", trial=3)
    assert store.evaluations("first", split="test") == [] == store.evaluations("first", trial=4)
    assert store.study("first") == STUDY
    assert store.study("second") is None
    assert store.studies() == [STUDY]
    assert (store.touches("sums"), store.touches("products")) == (2, 0)


async def test_the_first_completion_at_a_place_stays_and_later_rows_replace_the_others(store: Store) -> None:
    await store.write(banked(ADDRESS, text="first"), banked(ADDRESS, text="same call"))
    await store.write(banked(ADDRESS, text="later"), banked(ADDRESS, 1, text="other index"))
    found = await store.banked(ADDRESS, [1, 0])
    assert {index: made.text for index, made in found.items()} == {0: "first", 1: "other index"}
    done = run(status="done", answer="15", ended=3.0)
    await store.write(run(), done)
    await store.write(call("c"), replace(STEP, status="running", ended=None))
    await store.write(call("c", outcome="failed"), STEP, EVALUATION, replace(EVALUATION, score=0.0))
    assert store.runs() == [done]
    assert [row.outcome for row in store.calls("run-1")] == ["failed"]
    assert store.steps("run-1") == [STEP]
    assert [row.score for row in store.evaluations("first")] == [0.0]


async def test_usage_is_the_sum_of_the_ledger_to_the_token(store: Store) -> None:
    rows = [
        call(
            f"c{number}",
            run=f"run-{number % 3}",
            model=("small", "large")[number % 2],
            nominal=Usage(calls=1, prompt_tokens=number, cached_tokens=number // 2, completion_tokens=number * 7),
            billed=Usage(calls=1, prompt_tokens=number * 3, usd=0.125 * number),
            bound=Usage(completion_tokens=number % 5, seconds=0.25),
        )
        for number in range(50)
    ]
    await store.write(*rows, run("run-0", study="first"), run("run-1", study="first"), run("run-2", study="other"))
    for kind in ("nominal", "billed", "bound"):
        mine = [row for row in rows if row.run == "run-1"]
        assert getattr(store.usage("run-1"), kind) == total(getattr(row, kind) for row in mine)
        large = [row for row in mine if row.model == "large"]
        assert getattr(store.usage_by_model("run-1")["large"], kind) == total(getattr(row, kind) for row in large)
        of_study = [row for row in rows if row.run != "run-2"]
        assert getattr(store.study_usage("first"), kind) == total(getattr(row, kind) for row in of_study)
    assert store.usage("no such run").nominal == Usage()


async def test_many_callers_in_tasks_threads_and_loops(store: Store) -> None:
    def in_a_thread(number: int) -> None:
        store.write_sync(banked(address(number, "sync")))
        asyncio.run(store.write(banked(address(number, "loop"))))

    threads = [threading.Thread(target=in_a_thread, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()

    async def one(number: int) -> None:
        await store.write(banked(address(number)))
        assert await store.banked(address(number), [0]), "seen by the caller as soon as its write returned"

    await asyncio.gather(*(one(number) for number in range(300)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert store.bank_size()[0].completions == 300 + 8 + 8


async def test_a_bad_row_costs_its_own_caller_only(store: Store) -> None:
    bad = replace(EVALUATION, trial=2**70)
    outcomes = await asyncio.gather(
        store.write(call("c1")), store.write(bad, call("lost")), store.write(call("c2")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), StorageError, type(None)]
    assert "refused a row" in str(outcomes[1])
    assert [row.id for row in store.calls("run-1")] == ["c1", "c2"], "nothing of the refused write is there"
    await store.write(call("c3"))


async def test_text_that_no_database_holds_is_kept_as_near_as_can_be(store: Store) -> None:
    await store.write(banked(ADDRESS, text="a\ud83dz"), run(question="why\ud83d?"))
    assert (await store.banked(ADDRESS, [0]))[0].text == "a\ufffdz"
    assert store.run("run-1").question == "why\ufffd?"


async def test_rows_handed_over_come_before_rows_written_afterwards(store: Store) -> None:
    store.submit(run())
    await store.write(run(status="done"))
    store.submit(call("c1"))
    store.flush()
    assert store.run("run-1").status == "done"
    assert len(store.calls("run-1")) == 1


async def test_a_cancelled_caller_leaves_the_others_served(store: Store) -> None:
    task = asyncio.create_task(store.write(call("c1")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(call("c2"))
    assert [row.id for row in store.calls("run-1")] == ["c1", "c2"], "what was handed over is written"


async def test_close_writes_what_waits_and_refuses_the_rest(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s.db"))
    store.submit(*(call(f"c{number}") for number in range(100)))
    store.close()
    store.close()
    with pytest.raises(StorageError, match="is closed"):
        await store.write(call("late"))
    with Store.open(str(tmp_path / "s.db")) as again:
        assert len(again.calls("run-1")) == 100


async def test_a_refused_row_that_nobody_waited_for_is_not_lost_in_silence(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s.db"))
    store.submit(replace(EVALUATION, trial=2**70))
    with pytest.raises(StorageError, match="stopped taking writes"):
        store.close()


async def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    await store.write(run("abc1"), run("abd2"), run("x%y"))
    assert store.run("abc").id == "abc1"
    assert store.run("abd2").id == "abd2"
    with pytest.raises(UserError, match=r"stands for more than one \(ab"):
        store.run("ab")
    for missing in ("abc2", "", "%", "x_"):
        with pytest.raises(UnknownNameError):
            store.run(missing)
    with pytest.raises(UnknownNameError, match="did you mean `abc1`"):
        store.run("abc9")


def test_no_file_of_the_store_is_imported_for_rows_alone() -> None:
    import subprocess
    import sys

    code = "import sys, inferloom.store.rows, inferloom.store; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
