"""A study is given more trials, goes on without its job's file, and is deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.search.job import MaxBilled, SearchJob, load_job
from inferloom.search.record import StudyRecord, delete_study
from inferloom.search.result import StudyResult, TrialSummary
from inferloom.search.study import run_study
from inferloom.store import Store, StudyRow
from tests.search import workload
from tests.search.test_study import scores, served


def points(result: StudyResult) -> list[TrialSummary]:
    """The trials, whatever the front has become."""
    return [replace(trial, on_front=False) for trial in result.trials]


def billed_at_most(job: SearchJob, calls: int) -> SearchJob:
    return replace(job, spec=job.spec.model_copy(update={"max_billed": MaxBilled(calls=calls)}))


async def test_more_trials_are_those_of_a_longer_study(tmp_path: Path, store: Store, job: SearchJob) -> None:
    first = await run_study(job, store)
    more = await run_study(job.with_trials(36), store)
    assert points(more)[:8] == points(first)
    assert (first.test_touches, more.test_touches) == (1, 2)
    assert more.created == first.created
    with Store.open(str(tmp_path / "fresh.db")) as fresh:
        whole = await run_study(job.with_trials(36), fresh)
        # Baselines that were matched to the first winner gave way; what only the first finalists scored stays.
        assert set(scores(fresh, "adding")) <= set(scores(store, "adding"))
    assert more.trials == whole.trials and more.comparisons == whole.comparisons
    assert replace(more.winner, wall_seconds=0) == replace(whole.winner, wall_seconds=0)
    # A second time it is finished.
    assert await run_study(job.with_trials(36), store) == more
    copy = optuna.load_study(study_name="adding", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(copy.trials) == 36


async def test_a_last_short_batch_stays_short(store: Store, job: SearchJob) -> None:
    await run_study(job.with_trials(6), store)
    more = await run_study(job.with_trials(13), store)
    assert [trial.batch for trial in more.trials] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]


async def test_fewer_trials_are_refused(store: Store, job: SearchJob) -> None:
    await run_study(job, store)
    with pytest.raises(SpecError, match=r"trials: the value is 7; must be at least 8, .* study `adding`"):
        await run_study(job.with_trials(7), store)
    with pytest.raises(SpecError, match="the value is 8; must be more than 8"):
        StudyRecord.find(store, "adding").extended(8)
    with pytest.raises(UnknownNameError, match="did you mean `adding`"):
        StudyRecord.find(store, "ading")


async def test_an_extension_that_breaks_off_keeps_the_result_and_goes_on(store: Store, job: SearchJob) -> None:
    first = await run_study(job, store)
    longer = StudyRecord.find(store, "adding").extended(16)
    for more in (4, 8):
        assert (await run_study(billed_at_most(longer, first.billed.calls + more), store, name="adding")).stopped
        record = StudyRecord.find(store, "adding")
        assert not record.finished and record.result == first
        standing = record.standing(store)
        assert 8 <= standing.done <= 16 and standing.trials == 16
    again = billed_at_most(StudyRecord.find(store, "adding").job, 10_000)
    done = await run_study(again, store, name="adding")
    assert len(done.trials) == 16 and done.test_touches == 2
    assert StudyRecord.find(store, "adding").finished


async def test_a_stored_job_is_the_job_with_its_paths(tmp_path: Path, store: Store) -> None:
    workload.write_items(tmp_path)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "space.yaml").write_text(workload.SPACE)
    (tmp_path / "job.yaml").write_text(
        "space: spaces/space.yaml\ndata: {file: sums.jsonl, grader: numeric}\ntrials: 4\nbatch: 2\n"
        "split: {dev: 6, confirm: 3, test: 6}\n"
    )
    job = load_job(tmp_path / "job.yaml")
    result = await run_study(job, store, name="s")
    (tmp_path / "job.yaml").unlink()
    (tmp_path / "spaces" / "space.yaml").unlink()
    again = StudyRecord.find(store, "s").job
    assert again.identity("x") == job.identity("x") and again.base == tmp_path
    assert again.space.document.path == tmp_path / "spaces" / "space.yaml"
    assert again.to_yaml() == job.to_yaml()
    calls = served()
    assert await run_study(again, store, name="s") == result
    assert served() == calls


async def test_a_study_that_goes_on_says_how_far_it_is(store: Store, job: SearchJob) -> None:
    assert (await run_study(billed_at_most(job, 50), store)).stopped
    record = StudyRecord.find(store, "adding")
    standing = record.standing(store)
    assert (standing.trials, standing.done) == (8, 4) and len(record.asked) == 2
    assert record.result is None and len(record.trials_json()) == sum(map(len, record.asked))
    result = await run_study(billed_at_most(job, 10_000), store)
    standing = StudyRecord.find(store, "adding").standing(store)
    best = max(trial.dev.mean for trial in result.trials if trial.dev)
    assert (standing.done, standing.best) == (8, best)
    [kept] = [row for row in store.split_scores("adding") if (row.trial, row.split) == (result.winner.trial, "test")]
    assert result.winner.test is not None
    assert (kept.items, kept.mean) == (12, pytest.approx(result.winner.test.mean))


async def test_deleting_leaves_bank_accounts_and_looks(tmp_path: Path, store: Store, job: SearchJob) -> None:
    first = await run_study(job, store)
    await run_study(job, store, name="other")
    banked = sum(size.completions for size in store.bank_size())
    rows = len(store.evaluations("adding"))
    assert delete_study(store, "adding") == rows
    assert store.study("adding") is None and store.evaluations("adding") == []
    assert sum(size.completions for size in store.bank_size()) == banked
    assert len(store.evaluations("other")) == rows and store.touches(str(job.spec.data.file)) == 2
    url = f"sqlite:///{tmp_path / 'study.db'}"
    assert [each.study_name for each in optuna.get_all_study_summaries(url)] == ["other"]
    # What the old one was billed is not the new one's, and its runs are still there.
    assert store.study_usage("adding").billed.calls == 0
    assert len(store.runs(limit=10_000)) > len(store.runs(limit=10_000, study="other"))
    anew = await run_study(job, store)
    assert anew.trials == first.trials and anew.billed.calls == 0 and anew.test_touches == 3
    with pytest.raises(UnknownNameError, match="unknown study `nothing`"):
        delete_study(store, "nothing")


async def test_deleting_takes_what_was_learned_online(store: Store, job: SearchJob) -> None:
    await run_study(job, store, name="a")
    await run_study(job, store, name="a/b")
    for namespace in ("default", "default:a/0/dev", "default:a/-1/test", "default:a/b/0/dev", "default:a/mine"):
        store.memories.create(namespace, "sums")
    delete_study(store, "a")
    assert [row.namespace for row in store.memories.all()] == ["default", "default:a/b/0/dev", "default:a/mine"]


async def test_no_copy_in_optuna_is_no_mistake(store: Store, job: SearchJob) -> None:
    spec = json.dumps(job.to_data())
    await store.write(StudyRow(name="bare", spec=spec, spec_hash="x", status="running", created=1.0, updated=1.0))
    assert StudyRecord.find(store, "bare").data_hash is None
    assert delete_study(store, "bare") == 0 and store.studies() == []
