"""Outcomes from a real database: runs of real pipelines, evaluated, and imports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.cli.main import run
from inferloom.core.errors import DataError, UnknownNameError
from inferloom.routing.history import arm_id, keep_imported, outcomes_of
from inferloom.routing.synthetic import made_world
from inferloom.store import Store

ONE = 'models: {m: "scripted:replies.yaml"}\nsteps: [{sample: {model: m, n: 1}}, vote]\n'
FOUR = ONE.replace("n: 1", "n: 4")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Two pipelines, evaluated on thirty questions by the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "replies.yaml").write_text("- {say: ['A: 1', 'A: 2', 'A: 3']}\n")
    rows = [{"question": f"what is {number} times 7?", "answer": "1"} for number in range(30)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("one", ONE), ("four", FOUR)):
        (tmp_path / f"{name}.yaml").write_text(text)
        assert run(["eval", f"{name}.yaml", "--data", "data.jsonl", "--db", "sqlite:///x.db", "--json"]) == 0
    with Store.open("sqlite:///x.db") as opened:
        yield opened


def test_evaluated_runs_are_outcomes_by_pipeline_and_models(store: Store) -> None:
    made = outcomes_of(store)
    assert sorted(arm.label for arm in made.arms) == ["sample m x1 > vote", "sample m x4 > vote"]
    assert len(made) == 30
    assert made.observed.all()
    by_label = {arm.label: place for place, arm in enumerate(made.arms)}
    one, four = by_label["sample m x1 > vote"], by_label["sample m x4 > vote"]
    assert made.cost[:, four].mean() > made.cost[:, one].mean()
    assert outcomes_of(store, unit="calls").cost[:, four].tolist() == [4] * 30
    # The id is that of the pipeline with the fingerprints of the models that it called.
    evaluated = store.scored.runs()[0]
    models = store.scored.fingerprints()[evaluated.run]
    assert arm_id(evaluated.pipeline, models) in {arm.id for arm in made.arms}
    assert all(arm.yaml and "sample" in arm.yaml for arm in made.arms)
    assert made.arms[four].features["most_calls"] == 4


def test_evaluating_again_replaces_only_its_own_stream(store: Store) -> None:
    assert run(["eval", "one.yaml", "--data", "data.jsonl", "--db", "sqlite:///x.db", "--json"]) == 0
    made = outcomes_of(store)
    assert sorted(made.count.sum(axis=0).tolist()) == [30, 60]


def test_an_import_stands_beside_them_and_has_a_name_once(store: Store) -> None:
    world = made_world(50, 0)[0]
    keep_imported(store, world, "outside")
    made = outcomes_of(store, study="import outside")
    assert made.texts == world.texts
    assert made.tags == world.tags
    assert made.quality.tolist() == world.quality.tolist()
    assert made.cost.tolist() == world.cost.tolist()
    assert [arm.id for arm in made.arms] == [arm.id for arm in world.arms]
    assert len(outcomes_of(store).arms) == 5
    with pytest.raises(DataError, match="`outside` is there already"):
        keep_imported(store, world, "outside")


def test_nothing_to_learn_from_and_wrong_names_are_one_error(store: Store) -> None:
    with Store.open("sqlite://") as empty, pytest.raises(DataError, match="no scored runs to learn from"):
        outcomes_of(empty)
    with pytest.raises(UnknownNameError, match="unknown study"):
        outcomes_of(store, study="nothing")
    with pytest.raises(UnknownNameError, match="did you mean `calls`"):
        outcomes_of(store, unit="cals")
    with pytest.raises(DataError, match="no run has a cost in usd"):
        outcomes_of(store, unit="usd")
