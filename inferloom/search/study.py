"""A study: search on dev, choose on confirm, report on test, and never repeat what is in the database.

1. Batches of trials on the dev split; a batch's points are written down before its first call.
2. The best few again on the confirm split, with fresh draws, so that luck on dev does not decide.
3. Winner, front and baselines once on the test split; the touch is recorded.

What a kill leaves is taken up again: the asked points stand in the study's row, every finished item has its row, and
every committed completion is in the bank.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import cast

from inferloom.core.errors import (
    BudgetExceededError,
    InferloomError,
    RequestRejectedError,
    UserError,
)
from inferloom.core.types import Json
from inferloom.evaluation.data import DataSet, load_items
from inferloom.evaluation.evaluate import Evaluation, ItemResult
from inferloom.evaluation.splits import SplitName, Splits, split_items
from inferloom.models.client import Gateway
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.search.ablation import without_steps
from inferloom.search.aim import cost
from inferloom.search.baselines import Baseline, Baselines, matched_n
from inferloom.search.conclude import against_baselines, break_even, thinned, verdict, without_each
from inferloom.search.crew import Crew
from inferloom.search.importance import importance
from inferloom.search.job import SearchJob
from inferloom.search.progress import Event, EventKind, Progress, Silent, State, Stood, expected_items
from inferloom.search.projection import Projection
from inferloom.search.racing import beaten_by, estimate, looks
from inferloom.search.record import StudyRecord
from inferloom.search.result import Kind, MeanUsage, StudyResult
from inferloom.search.runner import Runner, data_hash
from inferloom.search.samplers import Proposer, Told
from inferloom.search.template import Values
from inferloom.search.trial import Tested, Trial, entry, label, reached, summaries
from inferloom.search.warm import first_points
from inferloom.search.worker import Workers
from inferloom.store import Store, StudyRow, TouchRow

PROBED = 16
"""Dev items on which a baseline's cost is measured while its n is matched to the winner."""
_ABLATION = -1000
"""The number of the winner without its first step in the table of evaluations; the others stand below it."""
_COUNTED = 4_000
"""Points of a space that are looked at for the report; a larger space is not counted there."""


async def run_study(
    job: SearchJob,
    store: Store,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    gateway: Gateway | None = None,
    command: str | None = None,
    workers: Workers | None = None,
) -> StudyResult:
    """Run a search, or go on with it, or give its result again if it is finished.

    Args:
        job: What to search.
        store: The database that holds everything.
        name: The study's name; None: the job's own.
        progress: Who watches.
        gateway: The models to use; None: new ones, closed at the end.
        command: The command that starts this study, for the report.
        workers: Who answers the items beside this process; None: it answers them all. The trials do not depend on it.

    Raises:
        SpecError: The space has no valid point, or a study of this name was started with another job or has more
            trials by now. With more trials than it has, it goes on: its batches stay, and it is tested anew. Or its
            items cannot be split among workers.
        UserError: `max_billed` was reached before one trial was finished.
        DataError, ModelError, StorageError: As running does; what was paid is kept, and the next call goes on.
    """
    own = gateway or Gateway(store)
    if workers is not None:
        workers.check(job, store.url)
    study = _Study(job, store, name or job.name, progress or Silent(), own, command, workers)
    try:
        return await study.run()
    finally:
        await study.close()
        if gateway is None:
            await own.aclose()


@dataclass(slots=True)
class _Book:
    """What the study's row keeps while it is running."""

    asked: list[list[Values]] = field(default_factory=list)
    """The points of each batch."""
    touched: bool = False
    """Whether the touch of the test split is on record."""
    before: dict[str, Json] | None = None
    """The result that the study had before it was given more trials."""


class _Study:
    """One call of a search."""

    def __init__(
        self,
        job: SearchJob,
        store: Store,
        name: str,
        progress: Progress,
        gateway: Gateway,
        command: str | None,
        workers: Workers | None,
    ) -> None:
        self.workers = workers
        self.job, self.store, self.name, self.progress, self.gateway = job, store, name, progress, gateway
        self.command = command or f"inferloom study resume {shlex.quote(name)}"
        self.state = State(study=name, trials=job.spec.trials)
        self.trials: list[Trial] = []
        self.seen: list[Trial] = []
        """Those that have ended, in the order in which they did."""
        self.book = _Book()
        self.created = time.time()
        self.stopped: str | None = None
        self.projection = Projection(store.optuna_url, name, job.space, job.aim.directions)
        self.row: StudyRow
        self._mirroring: asyncio.Task[None] | None = None
        self._ending = AsyncExitStack()
        self.runner: Runner
        self.data: DataSet
        self.splits: Splits

    async def run(self) -> StudyResult:
        """Every stage, as far as the money goes."""
        finished = self._open()
        if finished is not None:
            self._tell("finished", text=f"study `{self.name}` is finished already; this is its result")
            return finished
        await self._save("running")
        tested: list[Tested] = []
        winner: Trial | None = None
        baselines: list[Baseline] = []
        try:
            await self._search()
            winner = await self._choose()
            baselines, tested = await self._line_up(winner)
            await self._test(tested)
            if self._mirroring is not None:
                await self._mirroring
        except BudgetExceededError as error:
            self.stopped = error.limit
            self._tell("stopped", text=f"stopped: {error.sentence}; what was paid is kept")
        except InferloomError:
            await self._save_quietly("failed")
            raise
        result = self._result(winner, tested, baselines)
        await self._save("stopped" if self.stopped else "done", result)
        self._stage("done")
        self._tell("finished", text=result.verdict)
        return result

    async def close(self) -> None:
        """End the workers, wait for the copy that is being written, and let go of Optuna's storage."""
        await self._ending.aclose()
        if self._mirroring is not None:
            await asyncio.wait({self._mirroring})
            if not self._mirroring.cancelled():
                # Its error, if it has one, was raised where the next batch waited for it, or ends with the study.
                self._mirroring.exception()
        self.projection.close()

    # Opening

    def _open(self) -> StudyResult | None:
        """Load the data, check the study's row and take up its book; the result where all is done already."""
        job = self.job
        self.data = load_items(job.spec.data, base=job.base)
        self.splits = split_items(self.data.items, job.spec.split, name=self.data.name)
        identity = job.identity(data_hash(self.data))
        row = self.store.study(self.name)
        if row is not None:
            record = StudyRecord.of(row)
            extends = record.taken_up_by(job, identity)
            self.created = row.created
            if row.status == "done" and record.result is not None and not extends:
                return record.result
            # More trials may have another winner: its test is another look.
            self.book = _Book(record.asked, record.touched and not extends, record.earlier)
        self.row = StudyRow(
            name=self.name,
            spec=job.to_stored(data_hash(self.data)),
            spec_hash=identity,
            status="running",
            created=self.created,
            updated=self.created,
        )
        self.runner = Runner(
            self.store,
            self.gateway,
            study=self.name,
            data=self.data,
            splits=self.splits,
            seed=job.spec.seed,
            concurrency=job.spec.concurrency,
            budget=job.spec.max_billed.budget(),
            on_item=self._on_item,
            memory=job.spec.memory,
            began=self.created,
            crew=None if self.workers is None else self._crew,
        )
        self._ending.push_async_callback(self.runner.aclose)
        return None

    def _crew(self, runner: Runner) -> Crew:
        assert self.workers is not None
        return self.workers.crew(runner, self.job, url=self.store.url, study=self.name, identity=self.row.spec_hash)

    async def _save(self, status: str, result: StudyResult | None = None) -> None:
        """Write the study's row."""
        await self.store.write(self._row(status, result))

    def _row(self, status: str, result: StudyResult | None = None) -> StudyRow:
        """The study's row. Its `result` is the result once it is done, and the book until then."""
        book: dict[str, Json] = {"asked": cast(Json, self.book.asked), "touched": self.book.touched}
        if self.book.before is not None:
            book["before"] = self.book.before
        kept = result.to_json() if result is not None and status == "done" else book
        text = json.dumps(kept, ensure_ascii=False)
        return replace(self.row, status=status, updated=time.time(), result=text)

    async def _save_quietly(self, status: str) -> None:
        """The same where an error is on its way, which must not be hidden by another."""
        try:
            await self._save(status)
        except InferloomError:
            return

    # Searching

    async def _search(self) -> None:
        spec = self.job.spec
        proposer = Proposer(self.job.space, spec.sampler, spec.seed, self.job.aim, self.job.startup)
        self.state.items = expected_items(self.job, self.splits.sizes())
        self._tell("started", text=self._opening_line())
        batch = 0
        while len(self.trials) < spec.trials:
            if batch == len(self.book.asked):
                size = min(spec.batch, spec.trials - len(self.trials))
                asked = proposer.batch(len(self.trials), size, self._told(), self._planned(batch, size))
                if not asked:
                    self._tell(
                        "stage", text=f"every valid point of the space was tried after {len(self.trials)} trials"
                    )
                    break
                self.book.asked.append([trial.values for trial in asked])
                await self._save("running")
            await self._run_batch(batch, self.book.asked[batch])
            if self._mirroring is not None:
                await self._mirroring
            self._mirroring = asyncio.create_task(asyncio.to_thread(self.projection.mirror, self._told()))
            batch += 1

    def _planned(self, batch: int, size: int) -> list[Values]:
        """The first points, where earlier studies give some."""
        earlier = self.job.spec.warm_start
        return [] if batch else first_points(self.store, earlier, self.job.space, self.job.aim, size)

    async def _run_batch(self, batch: int, points: Sequence[Values]) -> None:
        """The trials of a batch side by side; duplicates take over what the first of them reached."""
        started = [
            Trial(number=len(self.trials) + position, batch=batch, values=dict(values))
            for position, values in enumerate(points)
        ]
        first = {trial.spec.hash: trial for trial in self.trials if trial.spec and trial.duplicate_of is None}
        fresh: list[Trial] = []
        for trial in started:
            data = self.job.space.point(trial.values)
            trial.spec = PipelineSpec(self.job.space.point_document(data))
            twin = first.setdefault(trial.spec.hash, trial)
            if twin is trial:
                fresh.append(trial)
            else:
                trial.duplicate_of = twin.number
        await self._race(fresh)
        for trial in started:
            if trial.duplicate_of is not None:
                twin = first[trial.checked.hash]
                trial.dev, trial.error, trial.estimate = twin.dev, twin.error, twin.estimate
                self.state.items -= len(self.splits.dev)
        self.trials.extend(started)
        self.state.trials_done = len(self.trials)
        if all(trial.error for trial in self.trials):
            raise UserError(f"no trial of the first batch could be run; trial 0: {self.trials[0].error}")

    async def _race(self, fresh: Sequence[Trial]) -> None:
        """The trials of a batch from look to look, side by side; those that are beaten stop."""
        whole = len(self.splits.dev)
        stages = looks(whole) if self.job.spec.racing else [whole]
        running = list(fresh)
        for trial in running:
            self._tell("trial_started", trial=trial.number)
        for look in stages:
            outcomes = await asyncio.gather(*(self._run_to(trial, look) for trial in running), return_exceptions=True)
            _raise_first(outcomes)
            if look < whole:
                self._stop_beaten([trial for trial in running if not trial.error], len(stages) - 1)
            for trial in running:
                if look == whole or trial.error or trial.estimate is not None:
                    self.state.items -= whole - look
                    self._finished(trial)
            running = [trial for trial in running if not trial.error and trial.estimate is None]

    async def _run_to(self, trial: Trial, items: int) -> None:
        try:
            trial.dev = await self.runner.evaluate(trial.checked, "dev", trial.number, items=items)
        except (UserError, RequestRejectedError) as error:
            # A composition that cannot be run (a prompt too long for the model, say) is a result, not the search's end.
            trial.dev, trial.error = None, error.sentence

    def _stop_beaten(self, running: Sequence[Trial], stages: int) -> None:
        """Give those that are beaten their estimates."""
        complete = self._complete()
        standings = {trial.number: self.job.aim.standing(trial) for trial in (*running, *complete)}
        found: dict[int, float] = {}
        for trial in running:
            rivals = [standings[other.number] for other in (*complete, *running) if other is not trial]
            own = standings[trial.number]
            place = beaten_by(own, rivals, stages)
            if place is not None:
                found[trial.number] = estimate(own, rivals[place], [self.job.aim.value(other) for other in complete])
        # All are judged by the same field; only then some leave it.
        for trial in running:
            trial.estimate = found.get(trial.number)

    def _finished(self, trial: Trial) -> None:
        self.state.trials_done += 1
        self._note_best(trial)
        said = f"failed: {trial.error}" if trial.error else reached(trial)
        self._tell("trial_finished", trial=trial.number, text=f"trial {trial.number}: {said}: {shape(trial.checked)}")

    def _told(self, *, distinct: bool = False) -> list[Told]:
        """The finished trials as the sampler sees them; those that could not be run are left out.

        `distinct` leaves out those that repeat another as well.
        """
        aim = self.job.aim
        return [
            Told(trial.values, aim.objectives(trial), aim.excess(trial))
            for trial in self.trials
            if trial.dev is not None and not (distinct and trial.duplicate_of is not None)
        ]

    # Choosing

    def _complete(self) -> list[Trial]:
        """The different trials that answered every item."""
        distinct = [trial for trial in self.trials if trial.dev is not None and trial.duplicate_of is None]
        return [trial for trial in distinct if trial.estimate is None]

    async def _choose(self) -> Trial:
        """The winner: the best few on dev meet again on the confirm split."""
        finalists = self._ranked()[: self.job.spec.finalists]
        if not self.splits.confirm or len(finalists) == 1:
            return finalists[0]
        self._stage("confirm")
        outcomes = await asyncio.gather(*(self._confirm(trial) for trial in finalists), return_exceptions=True)
        _raise_first(outcomes)
        return min(finalists, key=self.job.aim.rank_afresh)

    async def _confirm(self, trial: Trial) -> None:
        trial.confirm = await self.runner.evaluate(trial.checked, "confirm", trial.number)

    def _ranked(self) -> list[Trial]:
        """The trials that answered every item and keep the limits, the best first.

        Raises:
            UserError: None keeps them.
        """
        aim, complete = self.job.aim, self._complete()
        kept = sorted(filter(aim.holds, complete), key=aim.rank)
        if complete and not kept:
            nearest = min(complete, key=lambda trial: max(aim.excess(trial)))
            took = ", ".join(f"{cost(nearest.nominal, measure):,.6g} {measure}" for measure in aim.limits)
            said = ", ".join(f"{measure}: {limit:,.6g}" for measure, limit in aim.limits.items())
            raise UserError(
                f"no trial keeps `constraints: {{{said}}}`; the nearest, trial {nearest.number}, takes {took} an item; "
                "raise the limits or search cheaper points; what was paid is kept",
                where=f"study {self.name}",
            )
        return kept

    def _front(self) -> list[Trial]:
        return self.job.aim.front(self._complete())

    # Reporting

    def _searched(self, winner: Trial) -> list[Tested]:
        """The winner, and the front without it."""
        front = [trial for trial in thinned(self._front()) if trial is not winner]
        kinds: list[tuple[Kind, Trial]] = [("winner", winner), *(("front", trial) for trial in front)]
        return [Tested(label(trial), kind, trial.checked, trial.number, trial, trial.dev) for kind, trial in kinds]

    async def _line_up(self, winner: Trial) -> tuple[list[Baseline], list[Tested]]:
        """All that goes to the test split: winner, front, baselines."""
        entries = self._searched(winner)
        if self.job.spec.baselines == "none":
            return [], entries
        self._stage("baselines")
        made = Baselines(winner.checked)
        singles = [made.single(model) for model in made.models]
        on_dev = await self._evaluate_all(singles, "dev")
        best = max(range(len(singles)), key=lambda position: (on_dev[position].mean.mean, position))
        strongest = singles[best].model

        async def consistency_tokens(n: int) -> float:
            probed = await self.runner.probe(made.self_consistency(strongest, n).spec, PROBED)
            return MeanUsage.of(probed.nominal).tokens

        async def best_tokens(n: int) -> float:
            probed = await self.runner.probe(made.best_of_n(strongest, n).spec, PROBED)
            return MeanUsage.of(probed.nominal).tokens

        target = winner.nominal.tokens
        matched = [
            made.greedy(strongest),
            made.self_consistency(strongest, await matched_n(consistency_tokens, target)),
            made.best_of_n(strongest, await matched_n(best_tokens, target)),
        ]
        baselines = [*singles, *matched]
        for position, baseline in enumerate(baselines):
            dev = on_dev[position] if position < len(singles) else None
            entries.append(Tested(baseline.label, "baseline", baseline.spec, -1 - position, dev=dev))
        entries += [
            Tested(label, "ablation", spec, _ABLATION - place)
            for place, (label, spec) in enumerate(without_steps(winner.checked))
        ]
        return baselines, entries

    async def _evaluate_all(self, baselines: Sequence[Baseline], split: SplitName) -> list[Evaluation]:
        outcomes = await asyncio.gather(
            *(self.runner.evaluate(baseline.spec, split, -1 - position) for position, baseline in enumerate(baselines)),
            return_exceptions=True,
        )
        _raise_first(outcomes)
        return [outcome for outcome in outcomes if isinstance(outcome, Evaluation)]

    async def _test(self, tested: Sequence[Tested]) -> None:
        """Everything once on the test split; the look is on record before it is taken."""
        if not self.book.touched:
            self.book.touched = True
            touch = TouchRow(dataset=self.data.name, split="test", study=self.name, created=time.time())
            # Both or none: a kill in between would count one look twice.
            await self.store.write(touch, self._row("running"))
        self._stage("test")
        self.state.items = self.state.items_done + len(tested) * len(self.splits.test)

        async def one(entry: Tested) -> None:
            entry.test = await self.runner.evaluate(entry.spec, "test", entry.number)

        outcomes = await asyncio.gather(*(one(entry) for entry in tested), return_exceptions=True)
        _raise_first(outcomes)

    def _result(self, winner: Trial | None, tested: Sequence[Tested], baselines: Sequence[Baseline]) -> StudyResult:
        if winner is None:
            ranked = self._ranked()
            if not ranked:
                raise UserError(
                    f"{self.stopped} was reached before one trial was finished; what was paid is kept: raise it and "
                    "run the same command again"
                )
            winner = ranked[0]
        # Where the money ended on the test split, some were lined up and measured nowhere.
        tested = [one for one in tested if one.test or one.dev] or self._searched(winner)
        entries = [entry(one) for one in tested]
        baselines_tested = [entry for entry in entries if entry.kind == "baseline"]
        front = [entry for entry in entries if entry.kind in ("winner", "front")]
        front.sort(key=lambda entry: cost(entry.nominal, self.job.aim.measure))
        comparisons = against_baselines(tested, seed=self.job.spec.seed)
        usage = self.store.study_usage(self.name)
        sentence = verdict(comparisons, baselines)
        if self.stopped:
            sentence = f"The search was stopped by {self.stopped} and is not finished. {sentence}"
        return StudyResult(
            study=self.name,
            job=self.job.to_yaml(),
            objectives=list(self.job.spec.objectives),
            winner=entries[0],
            front=front,
            baselines=baselines_tested,
            trials=summaries(self.trials, self._front()),
            comparisons=comparisons,
            verdict=sentence,
            ablation=without_each(tested, seed=self.job.spec.seed),
            importance=importance(self.job.space, self._told(distinct=True)),
            break_even=break_even(entries[0], baselines_tested, usage.billed),
            billed=usage.billed,
            nominal=usage.nominal,
            test_touches=self.store.touches(self.data.name),
            sizes=self.splits.sizes(),
            points=self.job.space.count(_COUNTED).valid,
            stopped=self.stopped,
            seconds=self.state.elapsed,
            created=self.created,
            command=self.command,
        )

    # Telling

    def _on_item(self, trial: int, split: SplitName, result: ItemResult) -> None:
        self.state.items_done += 1
        self.state.items_resumed += result.resumed
        self.state.billed = self.state.billed + result.billed
        self._tell("item")

    def _tell(self, kind: EventKind, *, trial: int | None = None, text: str = "") -> None:
        self.progress.on_event(Event(kind=kind, trial=trial, text=text), self.state)

    def _stage(self, stage: str) -> None:
        self.state.stage = stage
        self._tell(
            "stage",
            text={"confirm": "comparing the best trials on the confirm split", "test": "testing"}.get(stage, ""),
        )

    def _note_best(self, trial: Trial) -> None:
        # Those of its own batch as well, which are not among the study's trials yet.
        self.seen.append(trial)
        aim = self.job.aim
        known = [other for other in self.seen if other.dev is not None and other.estimate is None]
        if min(known, key=aim.rank, default=None) is trial:
            self.state.best = f"trial {trial.number}, {reached(trial)}"
        self.state.measure = aim.measure
        self.state.front = [
            Stood(f"trial {other.number}", other.dev.mean.mean, cost(other.nominal, aim.measure))
            for other in aim.front(known)
            if other.dev is not None
        ]

    def _opening_line(self) -> str:
        sizes = ", ".join(f"{size} {split}" for split, size in self.splits.sizes().items())
        going_on = f"; going on after {len(self.book.asked)} batches" if self.book.asked else ""
        return f"study `{self.name}`: {self.job.spec.trials} trials on {self.data.name} ({sizes} items){going_on}"


def _raise_first(outcomes: Sequence[object]) -> None:
    """Raise what went wrong: an error that is not the budget's first, since it says more."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    errors.sort(key=lambda error: isinstance(error, BudgetExceededError))
    if errors:
        raise errors[0]
