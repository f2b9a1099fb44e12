"""A batch is a function of the seed and the finished batches; Optuna's copy follows our tables."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.search.aim import Aim
from inferloom.search.projection import Projection
from inferloom.search.samplers import SAMPLERS, Asked, Proposer, Told
from inferloom.search.space import Space
from inferloom.store import Store
from tests.search.workload import SPACE

TWO = Aim(("tokens",))


def tell(batch: list[Asked]) -> list[Told]:
    """A made-up result that prefers large n and the large model."""
    return [
        Told(
            trial.values,
            (
                float(trial.values["steps.0.sample.n"]) ** 0.5 + (trial.values["steps.0.sample.model"] == "large"),  # type: ignore[arg-type]  # a number
                10.0 * float(trial.values["steps.0.sample.n"]),  # type: ignore[arg-type]  # a number
            ),
        )
        for trial in batch
    ]


def trials(proposer: Proposer, batches: int, size: int = 6) -> list[Told]:
    told: list[Told] = []
    for _ in range(batches):
        told += tell(proposer.batch(len(told), size, told))
    return told


QUICK = [name for name in SAMPLERS.names() if name not in ("gp", "archon")]


@pytest.mark.parametrize("name", ["gp", "archon"])
def test_slow_samplers_repeat_themselves_and_propose_valid_points(name: str) -> None:
    space = Space.load(SPACE)
    runs = [trials(Proposer(space, name, 1, Aim(("tokens",)), 3), 2, 3) for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(space.is_valid(trial.values) for trial in runs[0])
    assert len({str(sorted(trial.values.items())) for trial in runs[0]}) == len(runs[0])


@pytest.mark.parametrize("name", QUICK)
def test_the_same_seed_gives_the_same_trials_and_another_gives_others(name: str) -> None:
    first, again, other = (Proposer(Space.load(SPACE), name, seed, TWO, 4) for seed in (1, 1, 2))
    reference = trials(first, 4)
    assert trials(again, 4) == reference
    assert trials(other, 4) != reference


@pytest.mark.parametrize("name", QUICK)
def test_every_proposed_point_is_valid_and_new(name: str) -> None:
    space = Space.load(SPACE)
    told = trials(Proposer(space, name, 0, TWO, 4), 6)
    assert all(space.is_valid(trial.values) for trial in told)
    assert len({str(sorted(trial.values.items())) for trial in told}) == len(told)


def test_a_small_space_is_tried_out_and_then_gives_no_more() -> None:
    space = Space.load("models: {m: scripted:echo}\nsteps: [{sample: {model: m, n: {int: [1, 5]}}}, vote]")
    proposer = Proposer(space, "tpe", 0, Aim(), 4)
    told = [Told(trial.values, (0.0,)) for trial in proposer.batch(0, 4, [])]
    last = proposer.batch(4, 4, told)
    assert {trial.values["steps.0.sample.n"] for trial in last} | {
        trial.values["steps.0.sample.n"] for trial in told
    } == {1, 2, 3, 4, 5}
    assert len(last) == 1
    assert proposer.batch(5, 4, [*told, Told(last[0].values, (0.0,))]) == []


def test_a_space_without_a_valid_point_ends_the_first_batch() -> None:
    space = Space.load(
        "models: {m: scripted:echo}\nsteps: [{sample: {model: m, n: {int: [1, 5]}}}, vote]\n"
        "rules: [steps.0.sample.n > 5]"
    )
    with pytest.raises(SpecError, match="no valid point"):
        Proposer(space, "tpe", 0, Aim(), 4).batch(0, 4, [])


def test_an_unknown_sampler_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        Proposer(Space.load(SPACE), "tpee", 0, Aim(), 4)
    assert raised.value.suggestion == "tpe"


def test_optunas_copy_is_made_again_where_it_disagrees(tmp_path: Path) -> None:
    space = Space.load(SPACE)
    told = trials(Proposer(space, "random", 0, TWO, 4), 2)
    with Store.open(str(tmp_path / "x.db")) as store:
        projection = Projection(store.optuna_url, "copy", space, TWO.directions)
        projection.mirror(told[:5])
        stranger = optuna.load_study(study_name="copy", storage=store.optuna_url)
        stranger.add_trial(optuna.trial.create_trial(values=[9.0, 9.0]))
        stranger._storage.remove_session()
        projection.mirror(told)
        copy = optuna.load_study(study_name="copy", storage=store.optuna_url)
        assert [(trial.params, tuple(trial.values)) for trial in copy.trials] == [
            (dict(trial.values), trial.objectives) for trial in told
        ]
        projection.close()
    # Optuna's tables beside ours are no reason to refuse the database.
    Store.open(str(tmp_path / "x.db")).close()
