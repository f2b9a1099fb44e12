"""A study as the database has it: the job that it was started with, how far it is, what it found, its scores."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from inferloom.core.errors import SpecError, UnknownNameError, UserError
from inferloom.core.memory import DEFAULT_NAMESPACE
from inferloom.core.types import Json
from inferloom.pipelines.document import content_hash
from inferloom.search.job import SearchJob, stored_data_hash, stored_trials
from inferloom.search.result import StudyResult
from inferloom.search.template import Values
from inferloom.store import EvaluationRow, Store, StudyRow

_COUNTED = 4_000
"""Points of a space that are looked at before it is taken for one that still has new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStanding:
    """How far a study is."""

    done: int
    """Trials of the batches that are finished."""
    trials: int
    """Trials that it was asked for."""
    best: float | None
    """The best mean score of a trial on dev."""


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study's row, read."""

    row: StudyRow
    stored: dict[str, Json]
    """The job as it is stored (`SearchJob.to_stored`)."""
    kept: dict[str, Json]
    """The result of a finished study; what one that goes on keeps: `asked`, `touched` and `before`."""

    @classmethod
    def of(cls, row: StudyRow) -> StudyRecord:
        """The record of a row."""
        return cls(row, json.loads(row.spec), json.loads(row.result) if row.result else {})

    @classmethod
    def find(cls, store: Store, name: str) -> StudyRecord:
        """A study by its name.

        Raises:
            UnknownNameError: There is none.
        """
        row = store.study(name)
        if row is None:
            raise UnknownNameError("study", name, [known.name for known in store.studies()])
        return cls.of(row)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.row.name

    @property
    def trials(self) -> int:
        """How many trials it was asked for."""
        return stored_trials(self.stored)

    @property
    def data_hash(self) -> str | None:
        """What stands for its items and their grading; None where an older version started it."""
        return stored_data_hash(self.stored)

    @property
    def job(self) -> SearchJob:
        """The job that it was started with.

        Raises:
            SpecError, UnknownNameError: It needs what this version does not know.
        """
        return SearchJob.from_stored(self.stored, self.name)

    @property
    def finished(self) -> bool:
        """Whether it has gone through all its stages."""
        return self.row.status == "done" and bool(self.kept)

    @property
    def earlier(self) -> dict[str, Json] | None:
        """The result as JSON; of a study that was given more trials and is not through with them, its last one."""
        return self.kept if self.finished else cast("dict[str, Json] | None", self.kept.get("before"))

    @property
    def result(self) -> StudyResult | None:
        """The result, or the last one (`earlier`)."""
        return None if self.earlier is None else StudyResult.from_json(self.earlier)

    @property
    def touched(self) -> bool:
        """Whether its look at the test split is on record."""
        return self.finished or bool(self.kept.get("touched"))

    @property
    def asked(self) -> list[list[Values]]:
        """The points of each batch that was begun."""
        if not self.finished:
            return cast("list[list[Values]]", self.kept.get("asked", []))
        batches: list[list[Values]] = []
        for trial in cast("list[dict[str, Json]]", self.kept["trials"]):
            if trial["batch"] == len(batches):
                batches.append([])
            batches[-1].append(cast(Values, trial["values"]))
        return batches

    def taken_up_by(self, job: SearchJob, identity: str) -> bool:
        """Check that a job goes on with this study, and say whether it gives it more trials.

        Raises:
            SpecError: It is another job, or asks for fewer trials.
        """
        if self.row.spec_hash != identity:
            raise SpecError(
                f"the study `{self.name}` was started with another job or other data; "
                "give this one another name (what the bank holds is not billed again)",
                where=job.document.name,
            )
        if job.spec.trials < self.trials:
            raise SpecError(
                f"the value is {job.spec.trials}; must be at least {self.trials}, which is what the study "
                f"`{self.name}` was asked for by now",
                where=f"{job.document.where(('trials',))}: trials",
            )
        return job.spec.trials > self.trials

    def extended(self, trials: int) -> SearchJob:
        """The job with more trials in all.

        Raises:
            SpecError: They are not more.
            UserError: Every valid point of the space was tried.
        """
        if trials <= self.trials:
            raise SpecError(
                f"the value is {trials}; must be more than {self.trials}, which is what the study `{self.name}` was "
                "asked for by now",
                where=f"study {self.name}: trials",
            )
        job = self.job
        valid = job.space.count(_COUNTED).valid
        if valid is not None:
            tried = {content_hash(job.space.point(values)) for batch in self.asked for values in batch}
            if len(tried) >= valid:
                raise UserError(
                    f"every valid point of the study's space was tried ({valid}), so that more trials would only "
                    "repeat them; search a larger space",
                    where=f"study {self.name}",
                )
        return job.with_trials(trials)

    def standing(self, store: Store) -> StudyStanding:
        """How far it is."""
        if self.finished:
            trials = cast("list[dict[str, Json]]", self.kept["trials"])
            means = [
                float(cast(float, trial["dev"]["mean"]))
                for trial in trials
                if trial["status"] == "done" and isinstance(trial["dev"], dict)
            ]
            return StudyStanding(done=len(trials), trials=self.trials, best=max(means, default=None))
        scores = store.split_scores(self.name)
        # A batch is asked for once the one before it is finished, and the other stages begin after the last one.
        # Of a study that was given more trials those scores may be from before.
        later = "before" not in self.kept and any(score.split != "dev" or score.trial < 0 for score in scores)
        done = sum(map(len, self.asked if later or self.touched else self.asked[:-1]))
        on_dev = [score for score in scores if score.split == "dev" and 0 <= score.trial < done]
        whole = max((score.items for score in on_dev), default=0)
        best = max((score.mean for score in on_dev if score.items == whole), default=None)
        return StudyStanding(done=done, trials=self.trials, best=best)

    def trials_json(self) -> list[Json]:
        """Every trial: as in the result, or the points that were asked for where there is none."""
        if self.finished:
            return cast("list[Json]", self.kept["trials"])
        numbered: list[Json] = []
        for batch, points in enumerate(self.asked):
            for values in points:
                numbered.append({"number": len(numbered), "batch": batch, "values": cast(Json, values)})
        return numbered


def item_json(row: EvaluationRow) -> dict[str, Json]:
    """A score as exports have it; trials below zero are baselines."""
    return {
        "trial": row.trial,
        "split": row.split,
        "item": row.item,
        "score": row.score,
        "answer": row.answer,
        "tokens": row.nominal.tokens,
        "calls": row.nominal.calls,
        "usd": row.nominal.usd,
        "seconds": row.nominal.seconds,
    }


ITEM_COLUMNS = ("trial", "split", "item", "score", "answer", "tokens", "calls", "usd", "seconds")
"""The columns of an export."""


def study_json(record: StudyRecord, rows: Sequence[EvaluationRow]) -> dict[str, Json]:
    """All that the database has of a study; costs are nominal."""
    aside = ("trials", "job")
    result = None if record.earlier is None else {k: v for k, v in record.earlier.items() if k not in aside}
    return {
        "study": record.name,
        "status": record.row.status,
        "created": record.row.created,
        "updated": record.row.updated,
        "job": record.job.to_data(),
        "result": result,
        "trials": record.trials_json(),
        "items": [{**item_json(row), "pipeline": row.pipeline, "stopped": row.stopped} for row in rows],
    }


def delete_study(store: Store, name: str) -> int:
    """Delete a study, its scores, its memories and its copy in Optuna's storage; count the scores.

    The completions stay in the bank, the ledger stays whole, and looks at a test split stay counted. The study's own
    row goes last, so that what was interrupted can be done again.

    Raises:
        UnknownNameError: There is none.
        StorageError: The database takes no writes.
    """
    from inferloom.memory.book import book_of
    from inferloom.search.projection import remove_projection

    StudyRecord.find(store, name)
    remove_projection(store.optuna_url, name)
    # What a study learned online is its own: a new study of this name must not read it.
    forks = re.compile(re.escape(f"{DEFAULT_NAMESPACE}:{name}/") + r"-?\d+/(dev|confirm|test)")
    book = book_of(store)
    for row in store.memories.all():
        if forks.fullmatch(row.namespace):
            book.remove(book.opened(row))
    return store.delete_study(name)
