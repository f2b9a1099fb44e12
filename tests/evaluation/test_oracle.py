"""Nodes that look at the right answer: they get it in an evaluation, which says so, and nowhere else."""

from pathlib import Path

import pytest

from inferloom.core.errors import SetupError, UserError
from inferloom.core.types import Request
from inferloom.evaluation.evaluate import evaluate
from inferloom.evaluation.graders.base import make_grader
from inferloom.evaluation.item import Item
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

MODEL = register_backend("guesses", ScriptedBackend(lambda request, seed: f"A: {seed % 4}", name="guesses"))
DRAW = "models: {m: scripted:guesses}\nsteps:\n  - sample: {model: m, n: 24}\n"
ITEMS = [Item(id=f"i{answer}", question=f"q{answer}", answer=str(answer)) for answer in range(4)]


async def test_the_oracle_is_the_bound_of_the_same_draws_and_is_marked(tmp_path: Path) -> None:
    with Store.open(f"{tmp_path}/oracle.db") as store:
        gateway, means = Gateway(store), {}
        for last in ("  - oracle\n", ""):
            flow = Pipeline(PipelineSpec.parse(DRAW + last, "test.yaml"), gateway)
            done = await evaluate(flow, ITEMS, grader=make_grader("exact"), store=store, stream="s", split="dev")
            assert done.oracle == bool(last)
            means[last] = done.mean.mean
        assert means["  - oracle\n"] == 1.0 > means[""]


async def test_a_candidate_that_cannot_be_graded_does_not_hide_a_right_one(tmp_path: Path) -> None:
    def write(request: Request, seed: int) -> str:
        return "```python\nimport numpy\n```" if seed % 2 else "```python\ndef f():\n    return 1\n```"

    register_backend("numpy-or-not", ScriptedBackend(write, name="numpy-or-not"))
    text = "models: {m: scripted:numpy-or-not}\nsteps:\n  - sample: {model: m, n: 12}\n  - oracle\n"
    item = Item(id="i", question="q", answer="assert f() == 1")
    with Store.open(f"{tmp_path}/oracle.db") as store:
        flow = Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))
        done = await evaluate(flow, [item], grader=make_grader("code"), store=store, stream="s", split="dev")
        assert done.scores == (1.0,) and done.ungraded == ()


async def test_a_grader_that_asks_a_model_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    judge = make_grader({"judge": {"model": "scripted:constant:A: correct"}})
    with Store.open(f"{tmp_path}/oracle.db") as store:
        gateway = Gateway(store)
        flow = Pipeline(PipelineSpec.parse(DRAW + "  - oracle\n", "test.yaml"), gateway)
        with pytest.raises(SetupError, match="`judge` asks a model"):
            await evaluate(
                flow,
                ITEMS,
                grader=judge,
                store=store,
                stream="s",
                split="dev",
                judges=lambda spec: Pipeline(spec, gateway),
            )
        assert store.runs(10) == []


async def test_outside_an_evaluation_there_is_no_oracle(tmp_path: Path) -> None:
    with Store.open(f"{tmp_path}/oracle.db") as store:
        flow = Pipeline(PipelineSpec.parse(DRAW + "  - oracle\n", "test.yaml"), Gateway(store))
        with pytest.raises(UserError, match="evaluation"):
            await flow.ainvoke("q1")
