"""Outcomes from the database: every evaluated run of studies and evaluations.

An arm is a pipeline with the fingerprints of the models that its runs called. Where a model behind a name changed
between runs, each has an arm of its own. Runs on which a model failed or that could not be graded count for nothing,
nor do pipelines with a node that looks at the right answer.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, InferloomError, UnknownNameError
from inferloom.core.types import Usage
from inferloom.evaluation.evaluate import FAILED, UNGRADED
from inferloom.pipelines.plan import plan
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.routing.outcomes import COST_UNITS, ArmInfo, Gatherer, Outcomes, names_arm
from inferloom.store import EvaluationRow, PipelineRow, Row, RunRow, Store

IMPORT = "import "
"""How the study of an outside matrix is named; its own name follows."""
IMPORTED = "# imported arm: "
"""How the text of an arm begins in the database that came from outside and is no pipeline; its name follows."""
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
    known = {hash: arm for hash, text in store.scored.pipelines().items() if (arm := _arm(text)) is not None}
    runs = [run for run in runs if run.pipeline in known]
    if not runs:
        raise DataError(
            "there are no scored runs to learn from; `inferloom search` and `inferloom eval` make some",
            where=store.place,
        )
    unknown = [hash for hash in pipelines or () if hash not in known]
    if unknown:
        raise UnknownNameError("evaluated pipeline", unknown[0], known)
    arms = _arms_of_runs([(run.run, run.pipeline) for run in runs], store.scored.fingerprints())
    answered = Counter(arms[run.run] for run in runs)
    enough = least if least is not None else max(20, round(LEAST_SHARE * len({run.question for run in runs})))
    gatherer = Gatherer(unit=unit, source=store.place)
    for run in runs:
        own = arms[run.run]
        if run.pipeline in (pipelines or ()) or (pipelines is None and answered[own] >= enough):
            gatherer.add_arm(replace(known[run.pipeline], id=own))
            outside = run.study.startswith(IMPORT)
            gatherer.add(
                own,
                run.question,
                run.score,
                cost_of(run.nominal, unit),
                id=run.item if outside else None,
                tag=run.tag if outside else None,
            )
    made = gatherer.outcomes()
    if len(made) and not np.nan_to_num(made.cost).any():
        raise DataError(f"no run has a cost in {unit}; take another unit of {', '.join(COST_UNITS)}", where=store.place)
    return made


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
    made = {}
    for run, pipeline in runs:
        models = usual.get(pipeline, {}) | dict(fingerprints.get(run, {}))
        # What came from outside called no model that we know of: its arm is what the import named.
        made[run] = arm_id(pipeline, models) if models else pipeline
    return made


def _arm(text: str) -> ArmInfo | None:
    """What the database's text of an arm says; None for one that looks at the right answer, or cannot be read."""
    if text.startswith(IMPORTED):
        return names_arm(text.removeprefix(IMPORTED).strip())
    try:
        spec = PipelineSpec.parse(text)
    except InferloomError:  # of an extension that is not installed, or of an older version
        return None
    if spec.uses_oracle:
        return None
    return ArmInfo(id=spec.hash, label=shape(spec), yaml=spec.to_yaml(), features=pipeline_features(spec))


def keep_imported(store: Store, outcomes: Outcomes, name: str) -> int:
    """Put an outside outcome matrix among the database's scored runs, as the study `import NAME`; the number of rows.

    A cell of several runs is kept as one with their means. Costs stand under the matrix's unit.

    Raises:
        DataError: An import of this name is there already.
        StorageError: The database takes no writes.
    """
    study = f"{IMPORT}{name}"
    if store.scored.runs(study):
        raise DataError(f"an import `{name}` is there already; give this one another name", where=store.place)
    rows: list[Row] = [
        PipelineRow(hash=arm.id, yaml=f"{IMPORTED}{arm.label}\n", created=time.time()) for arm in outcomes.arms
    ]
    for row, arm in np.argwhere(outcomes.observed):
        item, pipeline = outcomes.ids[row], outcomes.arms[arm].id
        run = digest(f"{study}\x1f{item}\x1f{pipeline}")
        # Nobody ran it here: it has no time, so it stands behind every run that has one.
        rows.append(
            RunRow(
                id=run,
                pipeline=pipeline,
                stream=study,
                question=outcomes.texts[row],
                status="done",
                started=0.0,
                ended=0.0,
                study=study,
                item=item,
                tag=outcomes.tags[row],
            )
        )
        rows.append(
            EvaluationRow(
                study=study,
                trial=int(arm),
                split="import",
                item=item,
                pipeline=pipeline,
                run=run,
                score=float(outcomes.quality[row, arm]),
                nominal=_usage(float(outcomes.cost[row, arm]), outcomes.unit),
                created=time.time(),
            )
        )
    for start in range(0, len(rows), 5000):
        store.write_sync(*rows[start : start + 5000])
    return len(rows)


def _usage(cost: float, unit: str) -> Usage:
    if unit == "usd":
        return Usage(usd=cost)
    if unit == "seconds":
        return Usage(seconds=cost)
    return Usage(calls=round(cost)) if unit == "calls" else Usage(completion_tokens=round(cost))


def pipeline_features(spec: PipelineSpec) -> dict[str, float | str]:
    """What is known of a pipeline before it runs."""
    most = plan(spec)
    return {
        "models": " ".join(sorted(model.model for model in spec.models.values())),
        "nodes": " ".join(step.node.name for step in spec.steps),
        "least_calls": float(most.calls[0]),
        "most_calls": float(most.calls[1]),
    }
