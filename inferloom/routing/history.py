"""Outcomes from the database: every evaluated run of studies and evaluations.

An arm is a pipeline with the fingerprints of the models that its runs called. Where a model behind a name changed
between runs, each has an arm of its own. Runs on which a model failed or that could not be graded count for nothing,
nor do pipelines with a node that looks at the right answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, InferloomError, UnknownNameError
from inferloom.core.types import Usage
from inferloom.evaluation.evaluate import FAILED, UNGRADED
from inferloom.pipelines.plan import plan
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.routing.outcomes import COST_UNITS, ArmInfo, Gatherer, Outcomes
from inferloom.store import Store

LEAST_SHARE = 0.02
"""Of all questions, that a pipeline must have answered to be an arm."""


def arm_id(pipeline: str, fingerprints: Mapping[str, str]) -> str:
    """The id of an arm, 32 hex digits.

    Args:
        pipeline: The hash of the pipeline's content.
        fingerprints: Of the models that it calls, by their names in the pipeline.
    """
    models = sorted(f"{name}={fingerprint}" for name, fingerprint in fingerprints.items())
    return digest("\x1f".join([pipeline, *models]))


def cost_of(usage: Usage, unit: str) -> float:
    """A usage in one unit.

    Raises:
        UnknownNameError: There is no such unit.
    """
    if unit not in COST_UNITS:
        raise UnknownNameError("unit of cost", unit, COST_UNITS)
    return float(getattr(usage, unit))


def outcomes_of(
    store: Store,
    *,
    unit: str = "tokens",
    study: str | None = None,
    pipelines: Sequence[str] | None = None,
    least: int | None = None,
) -> Outcomes:
    """What the database knows of every pipeline that answered enough questions.

    Args:
        store: The database.
        unit: Of cost, nominal.
        study: Only the evaluations of this study.
        pipelines: Only these pipelines, by hash; they are arms however few questions they answered.
        least: Questions that a pipeline must have answered; None: `LEAST_SHARE` of all, and at least 20.

    Raises:
        DataError: There are no scored runs.
        UnknownNameError: The unit, the study or a pipeline does not exist.
    """
    if unit not in COST_UNITS:
        raise UnknownNameError("unit of cost", unit, COST_UNITS)
    runs = [run for run in store.scored.runs(study) if not (run.stopped or "").startswith((FAILED, UNGRADED))]
    if study is not None and not runs:
        raise UnknownNameError("study with scored runs", study, {run.study for run in store.scored.runs()})
    specs = {hash: spec for hash, text in store.scored.pipelines().items() if (spec := _spec(text)) is not None}
    runs = [run for run in runs if run.pipeline in specs]
    if not runs:
        raise DataError(
            "there are no scored runs to learn from; `inferloom search` and `inferloom eval` make some",
            where=store.place,
        )
    unknown = [hash for hash in pipelines or () if hash not in specs]
    if unknown:
        raise UnknownNameError("evaluated pipeline", unknown[0], specs)
    arms = _arms_of_runs([(run.run, run.pipeline) for run in runs], store.scored.fingerprints())
    answered = Counter(arms[run.run] for run in runs)
    enough = least if least is not None else max(20, round(LEAST_SHARE * len({run.question for run in runs})))
    gatherer = Gatherer(unit=unit, source=store.place)
    for run in runs:
        arm = arms[run.run]
        if run.pipeline in (pipelines or ()) or (pipelines is None and answered[arm] >= enough):
            gatherer.add_arm(_info(arm, specs[run.pipeline]))
            gatherer.add(arm, run.question, run.score, cost_of(run.nominal, unit))
    return gatherer.outcomes()


def _arms_of_runs(runs: Sequence[tuple[str, str]], fingerprints: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The arm's id of every run."""
    called: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for run, pipeline in runs:
        for model, fingerprint in fingerprints.get(run, {}).items():
            called[pipeline][model][fingerprint] += 1
    # A run may take a branch that calls fewer models: it is filled up with what the others called.
    usual = {
        pipeline: {model: counts.most_common(1)[0][0] for model, counts in models.items()}
        for pipeline, models in called.items()
    }
    return {run: arm_id(pipeline, usual.get(pipeline, {}) | dict(fingerprints.get(run, {}))) for run, pipeline in runs}


def _spec(text: str) -> PipelineSpec | None:
    try:
        spec = PipelineSpec.parse(text)
    except InferloomError:  # of an extension that is not installed, or of an older version
        return None
    return None if spec.uses_oracle else spec


def _info(arm: str, spec: PipelineSpec) -> ArmInfo:
    return ArmInfo(id=arm, label=shape(spec), yaml=spec.to_yaml(), features=pipeline_features(spec))


def pipeline_features(spec: PipelineSpec) -> dict[str, float | str]:
    """What is known of a pipeline before it runs."""
    most = plan(spec)
    return {
        "models": " ".join(sorted(model.model for model in spec.models.values())),
        "nodes": " ".join(step.node.name for step in spec.steps),
        "least_calls": float(most.calls[0]),
        "most_calls": float(most.calls[1]),
    }
