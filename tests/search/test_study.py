"""A study ends with a winner, honest baselines and exact accounts, and costs nothing the second time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inferloom.core.errors import SpecError, UserError
from inferloom.evaluation.stats import Interval
from inferloom.search.conclude import compare, thinned
from inferloom.search.job import SearchJob
from inferloom.search.progress import Event, State
from inferloom.search.result import StudyResult
from inferloom.search.study import run_study
from inferloom.store import Store
from tests.search import workload
from tests.search.workload import LARGE, SMALL


def served() -> int:
    return len(SMALL.served) + len(LARGE.served)


def scores(store: Store, study: str) -> list[tuple[int, str, str, float]]:
    return [(row.trial, row.split, row.item, row.score) for row in store.evaluations(study)]


class Watch:
    """Keeps every event, and can end the search by raising."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.fail_at = fail_at
        self.state: State | None = None

    def on_event(self, event: Event, state: State) -> None:
        self.events.append(event)
        self.state = state
        if self.fail_at is not None and sum(e.kind == "item" for e in self.events) >= self.fail_at:
            raise KeyError("somebody pulled the plug")


async def test_a_study_says_what_it_found_and_what_it_cost(store: Store, job: SearchJob) -> None:
    watch = Watch()
    calls = served()
    result = await run_study(job, store, progress=watch)

    assert [trial.number for trial in result.trials] == list(range(8))
    assert result.sizes == {"dev": 8, "confirm": 4, "test": 12}
    assert result.points == 104
    assert result.winner.test is not None and result.winner.test.n == 12
    assert result.winner.pipeline_hash in {entry.pipeline_hash for entry in result.front}
    families = [entry.label.split(",")[0] for entry in result.baselines]
    assert families == ["small", "large", "large", "self-consistency", "best-of-n"]
    assert all(entry.test is not None and entry.test.n == 12 for entry in result.baselines)
    assert [comparison.name for comparison in result.comparisons] == [entry.label for entry in result.baselines]
    # The ledger, the models' own logs and the report agree.
    assert result.billed.calls == store.study_usage("adding").billed.calls == served() - calls
    assert result.test_touches == store.touches(job.base.joinpath(str(job.spec.data.file)).as_posix()) == 1
    assert StudyResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    # The watcher saw all of it.
    assert watch.state is not None and watch.state.items_done == watch.state.items == len(store.evaluations("adding"))
    assert sum(event.kind == "trial_finished" for event in watch.events) == 8


async def test_the_same_search_under_a_new_name_bills_nothing_and_says_the_same(store: Store, job: SearchJob) -> None:
    first = await run_study(job, store, name="first")
    calls = served()
    second = await run_study(job, store, name="second")
    assert served() == calls
    assert second.billed.calls == 0 and second.billed.tokens == 0
    assert [entry.nominal for entry in [second.winner, *second.front, *second.baselines]] == [
        entry.nominal for entry in [first.winner, *first.front, *first.baselines]
    ]
    same = replace(second.winner, wall_seconds=first.winner.wall_seconds)
    assert same == first.winner
    assert second.trials == first.trials and second.comparisons == first.comparisons
    assert (first.test_touches, second.test_touches) == (1, 2)


async def test_trials_do_not_depend_on_how_much_goes_on_at_once(tmp_path: Path, job: SearchJob) -> None:
    results = []
    for concurrency in (1, 500):
        narrow = replace(job, spec=job.spec.model_copy(update={"concurrency": concurrency}))
        with Store.open(str(tmp_path / f"{concurrency}.db")) as store:
            results.append((await run_study(narrow, store), scores(store, "adding")))
    assert results[0][0].trials == results[1][0].trials
    assert results[0][1] == results[1][1]


async def test_a_finished_study_gives_its_result_again(store: Store, job: SearchJob) -> None:
    first = await run_study(job, store)
    calls = served()
    assert await run_study(job, store) == first
    assert served() == calls and store.touches(str(job.spec.data.file)) == 1


async def test_a_study_goes_on_where_it_broke_off(tmp_path: Path, job: SearchJob) -> None:
    with Store.open(str(tmp_path / "whole.db")) as store:
        whole = await run_study(job, store)
        rows = scores(store, "adding")
    with Store.open(str(tmp_path / "broken.db")) as store:
        for fail_at in (5, 50, 30):
            with pytest.raises(KeyError):
                await run_study(job, store, progress=Watch(fail_at))
        result = await run_study(job, store)
        assert scores(store, "adding") == rows
    assert result.trials == whole.trials and result.comparisons == whole.comparisons
    assert result.test_touches == 1


async def test_another_job_under_the_same_name_is_refused(store: Store, job: SearchJob) -> None:
    await run_study(job, store)
    other = replace(job, spec=job.spec.model_copy(update={"seed": 4}))
    with pytest.raises(SpecError, match="`adding` was started with another job"):
        await run_study(other, store)
    # What does not change the trials may change.
    wider = replace(job, spec=job.spec.model_copy(update={"concurrency": 3}))
    assert (await run_study(wider, store)).study == "adding"


def limited(tmp_path: Path, calls: int) -> SearchJob:
    text = workload.job_text(workload.write_items(tmp_path), extra=f"max_billed: {{calls: {calls}}}")
    return SearchJob.load(text)


async def test_max_billed_stops_cleanly_and_more_money_goes_on(tmp_path: Path, store: Store, job: SearchJob) -> None:
    calls = served()
    stopped = await run_study(limited(tmp_path, 60), store)
    assert stopped.stopped == "max_billed calls"
    assert stopped.verdict.startswith("The search was stopped by max_billed calls")
    assert stopped.winner.test is None and stopped.test_touches == 0
    assert stopped.billed.calls == served() - calls <= 60
    # Nothing that the limit cut short was taken for a result.
    assert all(row.stopped is None for row in store.evaluations("adding"))

    result = await run_study(limited(tmp_path, 10_000), store)
    with Store.open(str(tmp_path / "whole.db")) as fresh:
        whole = await run_study(job, fresh)
    assert result.stopped is None
    assert result.trials == whole.trials and result.winner.test == whole.winner.test
    # All that was paid before the stop was used: every completion was bought once.
    assert result.billed.completion_tokens == whole.billed.completion_tokens


async def test_money_for_less_than_a_trial_is_one_clear_error(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match="max_billed calls was reached before one trial was finished"):
        await run_study(limited(tmp_path, 3), store)
    assert store.study_usage("adding").billed.calls <= 3


async def test_a_composition_that_cannot_run_is_a_failed_trial(tmp_path: Path, store: Store) -> None:
    # Whether the file is there is not known before it is read.
    text = workload.job_text(workload.write_items(tmp_path), trials=12)
    text = text.replace("  rules:", "    - few_shot: {examples: nowhere.jsonl, k: {choice: [0, 2]}}\n  rules:")
    result = await run_study(SearchJob.load(text), store)
    assert {trial.status for trial in result.trials} == {"done", "failed"}
    for trial in result.trials:
        assert (trial.status == "failed") == ("there is no such file" in str(trial.error))
    assert result.winner.trial in {trial.number for trial in result.trials if trial.status == "done"}


def test_a_long_front_is_thinned_between_its_ends() -> None:
    assert thinned(list(range(100)), 8)[0] == 0 and thinned(list(range(100)), 8)[-1] == 99
    assert len(set(thinned(list(range(9)), 8))) == 8


def evaluation(values: list[float]) -> object:
    class Scores:
        scores = tuple(values)

    return Scores()


@pytest.mark.parametrize(
    ("winner", "baseline", "words"),
    [
        ([1.0] * 40, [0.0] * 30 + [1.0] * 10, "The winner beats `x`: +75.0 points"),
        ([0.0] * 30 + [1.0] * 10, [1.0] * 40, "The winner loses to `x`: -75.0 points"),
        ([1.0, 0.0] * 20, [0.0, 1.0] * 20, "The winner does not beat `x`: +0.0 points"),
    ],
)
def test_verdicts_say_plainly_who_won(winner: list[float], baseline: list[float], words: str) -> None:
    made = compare(evaluation(winner), evaluation(baseline), "x", same=False, seed=0)  # type: ignore[arg-type]  # scores are all it reads
    assert made.verdict.startswith(words)
    assert isinstance(made.difference, Interval) and made.difference.n == 40


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.97])
async def test_money_that_ends_at_any_stage_is_a_clean_stop(tmp_path: Path, job: SearchJob, share: float) -> None:
    with Store.open(str(tmp_path / "whole.db")) as fresh:
        whole = await run_study(job, fresh)
    with Store.open(str(tmp_path / "stopped.db")) as store:
        stopped = await run_study(limited(tmp_path, int(share * whole.billed.calls)), store)
        assert stopped.stopped == "max_billed calls" and stopped.winner.dev is not None
        result = await run_study(limited(tmp_path, 10_000), store)
    assert result.trials == whole.trials and result.winner.test == whole.winner.test


async def test_whoever_watches_sees_the_best_and_the_front_of_all_trials_that_ended(
    store: Store, job: SearchJob
) -> None:
    views: list[tuple[str, list[tuple[str, float, float]]]] = []

    class Watching:
        def on_event(self, event: Event, state: State) -> None:
            if event.kind == "trial_finished":
                views.append((state.best, [(one.label, one.quality, one.cost) for one in state.front]))

    result = await run_study(job, store, progress=Watching())
    best, front = views[-1]
    whole = [trial for trial in result.trials if trial.status == "done" and trial.dev is not None]
    ends = [(f"trial {trial.number}", trial.dev.mean, trial.nominal.tokens) for trial in whole if trial.on_front]
    assert sorted(front) == sorted(ends)
    top = max(trial.dev.mean for trial in whole)
    assert f"{100 * top:.1f}%" in best
    # Within a batch too the best never gets worse.
    qualities = [max(quality for _, quality, _ in front) for _, front in views]
    assert qualities == sorted(qualities)
    assert all(f"{100 * quality:.1f}%" in best for (best, _), quality in zip(views, qualities, strict=True))
