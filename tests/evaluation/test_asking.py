"""Graders that ask a model: their calls are in the ledger, apart from the pipeline's, and never by its own model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import JsonValue

from inferloom.core.errors import ModelError, ServerFaultError, SetupError
from inferloom.core.types import Request, Usage, total
from inferloom.evaluation import Evaluation, Item, evaluate, make_grader
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway
from inferloom.models.scripted import script
from inferloom.pipelines.run import Pipeline, run_sync
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

ITEMS = [Item(id=f"i{n}", question=f"What is {n}?", answer=str(n)) for n in range(6)]
ARM = "models: {m: 'scripted:constant:A: 1'}\nsteps: [{sample: {model: m, n: 2}}, vote]\n"
FAILING = ("What is 3?",)


@script("tests-judge-by-text")
def judge(request: Request, seed: int) -> str:
    said = request.messages[-1].content
    reference = said.split("<reference>\n")[1].split("\n")[0]
    proposal = said.split("<proposal>\n")[1].split("\n")[0]
    return f"I compare.\nA: {'correct' if reference == proposal else 'incorrect'}"


@script("tests-failing-judge")
def failing(request: Request, seed: int) -> str:
    if any(question in request.messages[-1].content for question in FAILING):
        raise ServerFaultError("the judge is ill")
    return "A: correct"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.open("sqlite://")
    yield store
    store.close()


def judged(
    store: Store, grader: dict[str, dict[str, JsonValue]], *, arm: str = ARM, gateway: Gateway | None = None
) -> Evaluation:
    used = gateway or Gateway(store)
    return run_sync(
        evaluate(
            Pipeline(PipelineSpec.parse(arm), used),
            ITEMS,
            grader=make_grader(grader),
            store=store,
            stream="s",
            split="dev",
            study="study",
            trial=0,
            judges=lambda spec: Pipeline(spec, used),
        )
    )


def test_the_judges_calls_are_in_the_ledger_and_apart_from_the_pipelines_usage(store: Store) -> None:
    done = judged(store, {"judge": {"model": "scripted:tests-judge-by-text"}})
    assert done.scores == (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    asked = [run for run in store.runs(100, study="study") if run.tag == "grader"]
    assert sorted(run.item or "" for run in asked) == [item.id for item in ITEMS]
    calls = [call for run in asked for call in store.calls(run.id)]
    assert {call.model for call in calls} == {"grader"}
    spent = total(call.nominal for call in calls)
    assert (done.grading.runs, done.grading.unread) == (6, 0)
    assert done.grading.nominal == spent and done.grading.billed.calls == spent.calls == 6
    assert done.usage.calls == 12
    rows = store.evaluations("study", split="dev", trial=0)
    assert sum(row.nominal.calls for row in rows) == 12
    assert store.study_usage("study").billed.calls == 6 + 6  # two completions a call


def test_the_same_answer_gets_its_verdict_from_the_bank(store: Store) -> None:
    judged(store, {"judge": {"model": "scripted:tests-judge-by-text"}})
    other = ARM.replace("n: 2", "n: 3")
    done = judged(store, {"judge": {"model": "scripted:tests-judge-by-text"}}, arm=other)
    assert (done.grading.nominal.calls, done.grading.billed) == (6, Usage())


def test_a_model_does_not_grade_itself_unless_that_is_said(store: Store) -> None:
    with pytest.raises(SetupError, match="which is the model `m` of the pipeline that it grades"):
        judged(store, {"judge": {"model": "scripted:constant:A: 1"}})
    assert store.runs(1) == []
    done = judged(store, {"judge": {"model": "scripted:constant:A: 1", "same_model": True}})
    assert done.grading.unread == 6


def test_a_model_that_the_pipeline_does_not_use_may_grade(store: Store) -> None:
    arm = ARM.replace("{m: ", "{judge: 'scripted:tests-judge-by-text', m: ")
    assert judged(store, {"judge": {"model": "scripted:tests-judge-by-text"}}, arm=arm).grading.runs == 6


async def test_without_a_way_to_a_model_it_says_so(store: Store) -> None:
    pipeline = Pipeline(PipelineSpec.parse(ARM), Gateway(store))
    grader = make_grader({"judge": {"model": "scripted:echo"}})
    with pytest.raises(SetupError, match="needs `judges`"):
        await evaluate(pipeline, ITEMS, grader=grader, store=store, stream="s", split="dev")


def test_an_item_that_the_judge_failed_on_has_failed_and_keeps_its_cost(store: Store) -> None:
    done = judged(store, {"judge": {"model": {"model": "scripted:tests-failing-judge", "retries": 1}}})
    (failure,) = done.failures
    assert (failure.item, failure.score, failure.nominal.calls) == ("i3", 0.0, 2)
    assert "the judge is ill" in str(failure.stopped)
    assert sum(done.scores) == 5


def test_a_limit_on_what_may_be_billed_holds_for_the_judge(store: Store) -> None:
    # The pipeline's six calls leave some of the verdicts unpaid: those items have failed and are not wrong.
    with pytest.raises(ModelError, match=r"the grader `judge` was stopped \(budget\)"):
        judged(
            store,
            {"judge": {"model": "scripted:tests-judge-by-text"}},
            gateway=Gateway(store, max_billed=Budget(calls=8)),
        )
    assert store.study_usage("study").billed.calls <= 8
