"""Learned cascades: where they stop, what they cost, and that the pipeline does what the replay says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inferloom.core.errors import DataError
from inferloom.core.types import Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.routing.cascade import Cascade, Drawn, Stage, learn, looks_of, vote_weights
from inferloom.store import Store

LADDER = (Stage("small", 2), Stage("small", 4), Stage("large", 1))
LOOKS = ("agreement", "lead")


def world(count: int, seed: int = 0, small_cost: float = 1.0, large_cost: float = 10.0) -> dict[str, Drawn]:
    """Three in five questions are easy; on the others the small model nearly always errs, each time in another way."""
    rng = np.random.default_rng(seed)
    easy = rng.random((count, 1)) < 0.6

    def draws(n: int, hard: float, cost: float) -> Drawn:
        right = rng.random((count, n)) < np.where(easy, 0.97, hard)
        answer = np.where(right, 0, rng.integers(1, 30, (count, n)))
        return Drawn(answer=answer, right=right.astype(float), cost=np.full((count, n), cost))

    return {"small": draws(4, 0.05, small_cost), "large": draws(1, 0.9, large_cost)}


def replayed(cascade: Cascade, drawn: dict[str, Drawn]):  # type: ignore[no-untyped-def] # the replay is read at once
    return cascade.replay(looks_of(drawn, cascade.stages, cascade.features, cascade.votes))


def test_it_escalates_where_the_cheap_model_errs_and_beats_each_arm_at_its_cost() -> None:
    train, test = world(600), world(2000, seed=1)
    done = replayed(learn(train, LADDER, price=0.01, features=LOOKS), test)
    small = test["small"].right[:, 0].mean()
    large = test["large"].right[:, 0].mean()
    assert small == pytest.approx(0.6, abs=0.04) and large > 0.9
    assert done.right.mean() > large - 0.03, "nearly as good as always asking the large model"
    assert done.cost.mean() < 0.85 * 10, "for less"
    easy = test["small"].right.mean(axis=1) > 0.7
    assert (done.stage[easy] == 2).mean() < 0.15 and (done.stage[~easy] == 2).mean() > 0.85


def test_the_price_decides_how_far_it_goes() -> None:
    train, test = world(600), world(1000, seed=1)
    costs = [
        float(replayed(learn(train, LADDER, price=price, features=LOOKS), test).cost.mean())
        for price in (0.0, 0.01, 1.0)
    ]
    assert costs[0] >= costs[1] > costs[2] == 2.0, "at a high price only the first stage is drawn"


def test_the_cost_is_that_of_every_stage_that_was_reached() -> None:
    drawn = world(300)
    cascade = learn(drawn, LADDER, price=0.01, features=LOOKS)
    looks = looks_of(drawn, LADDER, LOOKS, cascade.votes)
    done = cascade.replay(looks)
    assert done.cost.tolist() == [[2.0, 4.0, 14.0][stage] for stage in done.stage]
    escalated = cascade.reached(looks).mean(axis=1)
    assert done.cost.mean() == pytest.approx(2 + escalated[1] * 2 + escalated[2] * 10), "c1 + P(escalate) c2"


def test_the_chance_with_which_it_answers_is_true() -> None:
    train, test = world(1500), world(3000, seed=1)
    done = replayed(learn(train, LADDER, price=0.01, features=LOOKS), test)
    parts = np.array_split(np.argsort(done.sure), 5)
    error = np.mean([abs(done.sure[part].mean() - done.right[part].mean()) for part in parts])
    assert error < 0.03


def test_labels_without_meaning_teach_nothing() -> None:
    drawn = world(1500)
    rng = np.random.default_rng(5)
    noise = {
        name: Drawn(
            answer=rng.integers(0, 3, part.answer.shape),
            right=(rng.random(part.right.shape) < 0.5).astype(float),
            cost=part.cost,
        )
        for name, part in drawn.items()
    }
    done = replayed(learn(noise, LADDER, price=0.05, features=LOOKS), noise)
    assert done.cost.mean() < 3.0, "nothing is gained by going on, so nothing is spent on it"


@pytest.mark.parametrize(
    ("ladder", "features", "told"),
    [
        ((), LOOKS, "at least one stage"),
        ((Stage("medium", 1),), LOOKS, "there are no draws"),
        ((Stage("small", 9),), LOOKS, "at most 4"),
        ((Stage("small", 2), Stage("small", 2)), LOOKS, "more than 2"),
        ((Stage("small", 2),), ("mood",), "a look has no `mood`"),
        ((Stage("small", 2),), ("logprob",), "have no `logprob`"),
    ],
)
def test_a_ladder_that_does_not_fit_is_refused(ladder: tuple[Stage, ...], features: tuple[str, ...], told: str) -> None:
    with pytest.raises(DataError, match=told):
        learn(world(100), ladder, price=0.1, features=features)
    with pytest.raises(DataError, match="too few"):
        learn(world(20), LADDER, price=0.1, features=LOOKS)


def _say(model: str):  # type: ignore[no-untyped-def] # a reply of the scripted backend
    def say(request: Request, seed: int) -> str:
        number = int(request.messages[-1].content)
        if model == "large":
            return f"A: {number}"
        return f"A: {number}" if number % 2 else f"A: {seed % 5}"

    return say


for _model in ("small", "large"):
    register_backend(f"cascade-{_model}", ScriptedBackend(_say(_model), name=f"cascade-{_model}"))


async def test_the_pipeline_does_what_the_replay_says(tmp_path: Path) -> None:
    cascade = learn(world(600), LADDER, price=0.01, features=LOOKS)
    models = {"small": "scripted:cascade-small", "large": "scripted:cascade-large"}
    spec = PipelineSpec.from_data({"models": dict(models), "steps": cascade.to_steps()})
    assert PipelineSpec.parse(spec.to_yaml()).hash == spec.hash
    stages = set()
    with Store.open(str(tmp_path / "c.db")) as store:
        pipeline = Pipeline(spec, Gateway(store))
        for number in range(24):
            result = await pipeline.ainvoke(str(number), stream=str(number))
            # Every answer once, in the order in which it was drawn.
            rows = store.candidates(result.run_id)
            drawn = {row.candidate.id: row.candidate.answer for row in rows if node_at(spec, row.path) == "sample"}
            done = replayed(cascade, _drawn_of(list(drawn.values()), number))
            stage = int(done.stage[0])
            stages.add(stage)
            assert result.usage.calls == len(drawn) == (2, 4, 5)[stage]
            assert (result.answer == str(number)) == bool(done.right[0])
    assert len(stages) > 1 and 2 in stages


def node_at(spec: PipelineSpec, path: str) -> str:
    """The name of the node at a path."""
    return spec.step(path).node.name


def _drawn_of(answers: list[str | None], number: int) -> dict[str, Drawn]:
    """The answers of one run as recorded draws; what was not drawn is never looked at."""
    names: dict[str, int] = {}
    codes = [names.setdefault(str(answer), len(names)) for answer in answers] + [0] * (5 - len(answers))
    right = [float(str(answer) == str(number)) for answer in answers] + [0.0] * (5 - len(answers))
    return {
        "small": Drawn(answer=np.array([codes[:4]]), right=np.array([right[:4]]), cost=np.ones((1, 4))),
        "large": Drawn(answer=np.array([codes[4:5]]), right=np.array([right[4:5]]), cost=np.full((1, 1), 10.0)),
    }


def test_a_vote_counts_more_the_better_its_model() -> None:
    weights = vote_weights(world(2000))
    assert weights["small"] == 1.0 and weights["large"] > 3
