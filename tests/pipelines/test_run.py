"""Running a pipeline: the answer, its accounts, streaming, budgets, failures, and every way of calling it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.core.errors import CapabilityError, RequestRejectedError, SpecError
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Message, Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline, StreamEvent
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store


def solver(request: Request, seed: int) -> str:
    """Solves, judges and reviews in words that the general prompt pack asks for."""
    said = request.messages[-1].content
    if "single digit from 0" in said:
        return str(seed % 10)
    if "<solution>" in said:
        return "step 1 looks fine"
    return f"thinking {seed}\nA: {seed % 3}"


WRITER = register_backend("run-writer", ScriptedBackend(solver, name="run-writer"))
register_backend("run-slow", ScriptedBackend(solver, name="run-slow", latency=0.1))
BLIND = register_backend(
    "run-blind", ScriptedBackend(solver, name="run-blind", capabilities=Capabilities(n=True, seed=True))
)

VOTE = """
models: {m: scripted:run-writer}
steps:
  - sample: {model: m, n: 5}
  - critique: {model: m}
  - score: {model: m}
  - fuse: {model: m, n: 2, keep: true}
  - vote
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/run.db") as opened:
        yield opened


def pipeline(store: Store, text: str = VOTE) -> Pipeline:
    return Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))


async def test_usage_is_the_sum_of_the_ledger_and_the_run_is_on_record(store: Store) -> None:
    flow = pipeline(store)
    result = await flow.ainvoke("how much?", tag="mine")
    assert result.answer in {"0", "1", "2"}
    report = store.usage(result.run_id)
    assert report.nominal.calls == result.usage.calls == 5 + 5 + 5 + 2
    for field in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert getattr(report.nominal, field) == getattr(result.usage, field)
        assert getattr(report.billed, field) == getattr(result.billed, field)
    assert result.usage_by_model.keys() == {"m"}
    run = store.run(result.run_id)
    assert (run.status, run.answer, run.tag, run.question) == ("done", result.answer, "mine", "how much?")
    assert [step.path for step in store.steps(result.run_id)] == [f"steps/{i}" for i in range(5)]
    assert PipelineSpec.parse(store.pipeline(run.pipeline), "stored").hash == flow.spec.hash


async def test_the_same_stream_bills_nothing_and_none_is_fresh(store: Store) -> None:
    flow = pipeline(store)
    first, second = await flow.ainvoke("q", stream="s"), await flow.ainvoke("q", stream="s")
    assert second.candidates == first.candidates
    assert second.usage == first.usage
    assert second.billed.calls == second.billed.tokens == 0
    fresh = [(await flow.ainvoke("q")).candidates for _ in range(2)]
    assert fresh[0] != fresh[1]


async def test_parallel_branches_of_equal_nodes_draw_apart_and_join_in_declared_order(store: Store) -> None:
    text = """
models: {m: scripted:run-writer}
nodes:
  left: {sample: {model: m, n: 3}}
  right: {sample: {model: m, n: 3}}
  end: vote
edges:
  - [left, end]
  - [right, end]
"""
    results = [await pipeline(store, text).ainvoke("q", stream="s") for _ in range(3)]
    assert results[0].candidates == results[1].candidates == results[2].candidates
    steps = {step.path: step for step in store.steps(results[0].run_id)}
    assert steps["end"].candidates_in == 6
    texts = [row.candidate.text for row in store.candidates(results[0].run_id) if row.path in ("left", "right")]
    ids = {row.candidate.origin.get("completion") for row in store.candidates(results[0].run_id)}
    assert len(texts) == 6
    assert len({i for i in ids if i}) == 6


def test_invoke_from_plain_code(store: Store) -> None:
    assert pipeline(store).invoke("q").answer is not None


async def test_invoke_inside_a_running_loop(store: Store) -> None:
    assert pipeline(store).invoke("q").answer is not None


async def test_abatch_keeps_the_order_and_gives_equal_questions_draws_of_their_own(store: Store) -> None:
    flow = pipeline(store, "models: {m: scripted:run-writer}\nsteps:\n  - sample: {model: m}\n")
    results = await flow.abatch(["a", "b", *["same"] * 6], stream="s", concurrency=3)
    assert [store.run(result.run_id).question for result in results] == ["a", "b", *["same"] * 6]
    assert len({result.text for result in results[2:]}) > 1
    again = await flow.abatch(["a", "b", *["same"] * 6], stream="s")
    assert [result.text for result in again] == [result.text for result in results]


async def test_astream_tells_tokens_nodes_and_last_the_result(store: Store) -> None:
    events: list[StreamEvent] = [event async for event in pipeline(store).astream("q", stream="s")]
    tokens = [event for event in events if event.kind == "token" and event.path == "steps/0"]
    written: dict[object, str] = {}
    for event in tokens:
        written[event.data["index"]] = written.get(event.data["index"], "") + str(event.data["text"])
    assert [event.path for event in events if event.kind == "node"] == [f"steps/{i}" for i in range(5)]
    result = events[-1].result
    assert result is not None and events[-1].kind == "result"
    first = [row.candidate.text for row in store.candidates(result.run_id) if row.path == "steps/0"]
    assert [written[i] for i in range(5)] == first


@pytest.mark.parametrize(
    ("steps", "pieces"), [("[{sample: {model: m}}]", 4), ("[{sample: {model: m, n: 3}}, vote]", 1)]
)
async def test_the_answers_text_is_told_as_it_comes_or_when_it_is_chosen(store: Store, steps: str, pieces: int) -> None:
    flow = pipeline(store, f"models: {{m: scripted:run-writer}}\nsteps: {steps}\n")
    events = [event async for event in flow.astream("q")]
    told = [str(event.data["text"]) for event in events if event.kind == "answer"]
    assert len(told) == pieces
    assert events[-1].result is not None and "".join(told) == events[-1].result.content


async def test_stream_and_batch_from_plain_code(store: Store) -> None:
    """On a thread without a loop and inside a running one; leaving early cancels the run."""
    flow = pipeline(store)
    for events in (list(flow.stream("q")), await asyncio.to_thread(lambda: list(flow.stream("q")))):
        assert events[-1].result is not None and events[-1].result.scores["vote_share"] > 0
    assert len(flow.batch(["a", "b", "c"])) == 3
    for _ in pipeline(store, VOTE.replace("run-writer", "run-slow")).stream("q"):
        break
    store.flush()
    assert store.runs(1)[0].status == "failed"


async def test_leaving_a_stream_early_cancels_the_run_and_records_it(store: Store) -> None:
    stream = pipeline(store).astream("q")
    await anext(stream)
    await stream.aclose()
    for _ in range(200):
        store.flush()
        if store.runs(1)[0].status == "failed":
            break
        await asyncio.sleep(0.01)
    assert store.runs(1)[0].status == "failed"


async def test_a_budget_ends_the_run_with_the_best_so_far(store: Store) -> None:
    limited = VOTE + "budget: {calls: 8}\n"
    result = await pipeline(store, limited).ainvoke("q")
    assert result.stopped == "budget"
    assert result.answer is not None
    assert result.usage.calls <= 8
    assert store.run(result.run_id).stopped == "budget"
    nothing = await pipeline(store, VOTE + "budget: {tokens: 1}\n").ainvoke("q")
    assert (nothing.stopped, nothing.answer, nothing.usage.calls) == ("budget", None, 0)


async def test_a_run_that_the_budget_stops_prefers_finished_answers_to_cut_ones(store: Store) -> None:
    def writes(request: Request, seed: int) -> str:
        if "single digit from 0" in request.messages[-1].content:
            return "5"
        writes.count += 1  # type: ignore[attr-defined]  # a counter on the function
        return "Let me think about this at length" if writes.count <= 3 else "A: 7"  # type: ignore[attr-defined]  # same

    writes.count = 0  # type: ignore[attr-defined]  # same
    register_backend("run-cut", ScriptedBackend(writes, name="run-cut"))
    text = (
        "models: {m: scripted:run-cut}\nbudget: {calls: 5}\nsteps:\n"
        "  - sample: {model: m, n: 5, max_tokens: 3}\n  - score: {model: m}\n  - best: judge\n"
    )
    result = await pipeline(store, text).ainvoke("q")
    assert result.stopped == "budget" and len(result.candidates) == 5
    assert sum(candidate.finished for candidate in result.candidates) == 2
    assert result.answer == "7"


async def test_a_failed_run_is_recorded_with_its_reason(store: Store) -> None:
    def refuse(request: Request, seed: int) -> str:
        raise RequestRejectedError("the model said no")

    register_backend("run-refuser", ScriptedBackend(refuse, name="run-refuser"))
    flow = pipeline(store, "models: {m: scripted:run-refuser}\nsteps:\n  - sample: {model: m}\n")
    with pytest.raises(RequestRejectedError):
        await flow.ainvoke("q")
    store.flush()
    run = store.runs(1)[0]
    assert run.status == "failed" and run.error is not None and "the model said no" in run.error
    assert [row.outcome for row in store.calls(run.id)] == ["failed"]


async def test_a_conversation_keeps_its_earlier_turns(store: Store) -> None:
    turns = [Message("user", "my name is Ann"), Message("assistant", "hello Ann"), Message("user", "who am I?")]
    before = len(WRITER.served)
    await pipeline(store, "models: {m: scripted:run-writer}\nsteps:\n  - sample: {model: m}\n").ainvoke(turns)
    asked = WRITER.served[before].request.messages
    assert [message for message in asked if message.role != "system"] == turns


def test_a_missing_capability_is_refused_when_the_pipeline_is_made(store: Store) -> None:
    text = "models: {m: scripted:run-blind}\nsteps:\n  - sample: {model: m, logprobs: true}\n"
    with pytest.raises(CapabilityError, match="logprobs"):
        pipeline(store, text)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean `self_consistency`"):
        Pipeline.load("self_consistancy", store=f"{tmp_path}/x.db")
    assert not (tmp_path / "x.db").exists()
