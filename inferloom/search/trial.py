"""A trial while its study goes on, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inferloom.evaluation.evaluate import Evaluation
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.search.result import Entry, Kind, MeanUsage, TrialStatus, TrialSummary
from inferloom.search.template import Values


@dataclass(slots=True)
class Trial:
    """One trial while the study goes on."""

    number: int
    batch: int
    values: Values
    spec: PipelineSpec | None = None
    dev: Evaluation | None = None
    confirm: Evaluation | None = None
    duplicate_of: int | None = None
    error: str | None = None
    estimate: float | None = None
    """What a trial that was stopped early is taken to be worth: its quality, or its utility."""

    @property
    def nominal(self) -> MeanUsage:
        """Mean nominal usage of a dev item."""
        assert self.dev is not None
        return MeanUsage.of(self.dev.nominal)

    @property
    def checked(self) -> PipelineSpec:
        """The pipeline of a trial that was run."""
        assert self.spec is not None
        return self.spec


@dataclass(slots=True)
class Tested:
    """A pipeline that goes to the test split."""

    label: str
    kind: Kind
    spec: PipelineSpec
    number: int
    """Its trial number in the table of evaluations; below zero for baselines."""
    trial: Trial | None = None
    dev: Evaluation | None = None
    test: Evaluation | None = None


def reached(trial: Trial) -> str:
    """What a trial reached, for people."""
    assert trial.dev is not None
    stopped = "" if trial.estimate is None else f", beaten after {len(trial.dev.results)} items"
    return f"{100 * trial.dev.mean.mean:.1f}% at {trial.nominal.tokens:,.0f} tokens{stopped}"


def status(trial: Trial) -> TrialStatus:
    """How a trial ended."""
    if trial.error or trial.duplicate_of is not None:
        return "failed" if trial.error else "duplicate"
    return "done" if trial.estimate is None else "stopped"


def summaries(trials: Sequence[Trial], front: Sequence[Trial]) -> list[TrialSummary]:
    """Every trial as the result keeps it."""
    numbers = {trial.number for trial in front}
    return [
        TrialSummary(
            number=trial.number,
            batch=trial.batch,
            status=status(trial),
            values=dict(trial.values),
            pipeline_hash=trial.checked.hash,
            shape=shape(trial.checked),
            dev=trial.dev.mean if trial.dev else None,
            nominal=trial.nominal if trial.dev else None,
            duplicate_of=trial.duplicate_of,
            on_front=trial.number in numbers,
            error=trial.error,
        )
        for trial in trials
    ]


def label(trial: Trial) -> str:
    """A trial's name and shape, for people."""
    return f"trial {trial.number}: {shape(trial.checked)}"


def entry(tested: Tested) -> Entry:
    """What the report says of a pipeline."""
    measured = tested.test or tested.dev
    assert measured is not None, "whatever is reported was measured somewhere"
    trial = tested.trial
    return Entry(
        label=tested.label,
        kind=tested.kind,
        pipeline_yaml=tested.spec.to_yaml(),
        pipeline_hash=tested.spec.hash,
        dev=tested.dev.mean if tested.dev else None,
        confirm=trial.confirm.mean if trial is not None and trial.confirm is not None else None,
        test=tested.test.mean if tested.test else None,
        nominal=MeanUsage.of(measured.nominal),
        wall_seconds=measured.wall_seconds,
        trial=None if trial is None else trial.number,
    )
