"""What a study looks for: fronts over several costs, limits that a winner keeps, one utility of quality and cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.core.errors import SpecError, UserError
from inferloom.evaluation.stats import Interval
from inferloom.search.aim import Aim, pareto
from inferloom.search.job import SearchJob
from inferloom.search.result import StudyResult
from inferloom.search.study import run_study
from inferloom.store import Store
from tests.search import workload


def job(folder: Path, extra: str) -> SearchJob:
    text = workload.job_text(workload.write_items(folder), trials=12, extra=f"baselines: none\n{extra}")
    text = text.replace("objectives: [quality, tokens]\n", "", 1)
    return SearchJob.load(text.replace("finalists: 3", "finalists: 1"))


def mean(interval: Interval | None) -> float:
    assert interval is not None
    return interval.mean


def test_the_front_holds_what_nothing_beats() -> None:
    pairs = [("a", 0.5, 10.0), ("b", 0.5, 9.0), ("c", 0.9, 50.0), ("d", 0.8, 60.0), ("e", 0.2, 9.0), ("f", 0.9, 50.0)]
    assert pareto([(name, quality, (cost,)) for name, quality, cost in pairs]) == ["b", "c"]
    assert pareto([]) == []
    # The third is dearer in the one cost than the first, and cheaper in the other.
    assert pareto([("x", 0.5, (1.0, 5.0)), ("y", 0.4, (2.0, 6.0)), ("z", 0.4, (2.0, 4.0))]) == ["x", "z"]


async def test_three_objectives_have_a_front_that_nothing_beats(store: Store, tmp_path: Path) -> None:
    result = await run_study(job(tmp_path, "objectives: [quality, tokens, seconds]"), store)
    front = [trial for trial in result.trials if trial.on_front]
    points = [(mean(one.dev), one.nominal.tokens, one.nominal.seconds) for one in front if one.nominal is not None]
    assert len(points) > 1
    for one in points:
        assert not any(
            other != one and other[0] >= one[0] and other[1] <= one[1] and other[2] <= one[2] for other in points
        )


async def test_a_winner_keeps_the_limits_and_what_cannot_keep_them_is_never_tried(store: Store, tmp_path: Path) -> None:
    free = await run_study(job(tmp_path, ""), store, name="free")
    held = await run_study(job(tmp_path, "constraints: {calls: 3, tokens: 60}"), store, name="held")
    assert free.winner.nominal.calls > 3, "without the limit a dearer one wins"
    assert held.winner.nominal.calls <= 3 and held.winner.nominal.tokens <= 60
    # As many calls as samples, at least: 4 and 8 of them never fit.
    assert {trial.values["steps.0.sample.n"] for trial in held.trials} <= {1, 2}
    assert {trial.values["steps.0.sample.n"] for trial in free.trials} & {4, 8}


async def test_limits_that_no_trial_keeps_are_told_with_the_nearest(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trial keeps `constraints: \{tokens: 3\}`; the nearest, trial \d+, takes"):
        await run_study(job(tmp_path, "constraints: {tokens: 3}"), store)


async def test_a_utility_trades_quality_for_cost(store: Store, tmp_path: Path) -> None:
    def worth(result: StudyResult, price: float) -> list[float]:
        return [
            mean(trial.dev) - price * trial.nominal.tokens
            for trial in result.trials
            if trial.status == "done" and trial.dev is not None and trial.nominal is not None
        ]

    rich = await run_study(job(tmp_path, "utility: {tokens: 0.00001}"), store, name="rich")
    poor = await run_study(job(tmp_path, "utility: {tokens: 0.05}"), store, name="poor")
    assert poor.winner.nominal.tokens < rich.winner.nominal.tokens
    for result, price in ((rich, 0.00001), (poor, 0.05)):
        won = mean(result.winner.dev) - price * next(
            trial.nominal.tokens for trial in result.trials if trial.number == result.winner.trial and trial.nominal
        )
        assert won == pytest.approx(max(worth(result, price)))


@pytest.mark.parametrize(("extra", "said"), [
    ("utility: {tokens: 0.1}\nobjectives: [quality, tokens]", "leave `objectives` out"),
    ("constraints: {tokens: 0}", "`tokens` is 0; must be a number above 0"),
    ("constraints: {token: 5}", "token"),
    ("objectives: [quality, tokens, calls, usd]", "at most two costs"),
])  # fmt: skip
def test_an_aim_that_cannot_be_is_refused_with_its_place(extra: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said) as raised:
        job(tmp_path, extra)
    assert raised.value.where


def test_a_job_without_limits_is_the_one_that_it_was_before_there_were_any(tmp_path: Path) -> None:
    plain = job(tmp_path, "")
    assert plain.aim == Aim()
    assert plain.identity("x") == job(tmp_path, "constraints: {}").identity("x")
    assert plain.identity("x") != job(tmp_path, "constraints: {tokens: 60}").identity("x")


async def test_a_study_begins_with_the_best_points_of_earlier_ones(store: Store, tmp_path: Path) -> None:
    first = await run_study(job(tmp_path, ""), store, name="first")
    done = sorted(
        (trial for trial in first.trials if trial.status == "done"), key=lambda one: (-mean(one.dev), one.number)
    )
    # The new space has one option less, so points with it are left out.
    text = workload.job_text(workload.write_items(tmp_path), extra="warm_start: [first]\nbaselines: none")
    text = text.replace("trials: 8", "trials: 4").replace("[1, 2, 4, 8]", "[1, 2, 8]").replace("seed: 3", "seed: 4")
    second = await run_study(SearchJob.load(text), store, name="second")
    kept = [trial.values for trial in done if trial.values["steps.0.sample.n"] != 4]
    assert [trial.values for trial in second.trials[: min(4, len(kept))]] == kept[:4]
    with pytest.raises(SpecError, match="none of the study's points"):
        other = text.replace("model: {choice: [small, large]}", "model: {choice: [small], name: writer}")
        await run_study(SearchJob.load(other), store, name="third")


def test_a_jobs_space_may_be_one_that_comes_along(tmp_path: Path) -> None:
    text = "data: {procedural: pocket, count: 12}\nsplit: {dev: 6, confirm: 2, test: 4}\nspace: %s\n"
    assert SearchJob.load(text % "archon").space.document.name == "archon (built in)"
    with pytest.raises(SpecError, match="there is no file `arhcon`; did you mean `archon`"):
        SearchJob.load(text % "arhcon")
