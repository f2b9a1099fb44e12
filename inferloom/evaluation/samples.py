"""The independent samples that past runs left in the database, by item and by the setting they were drawn with.

A setting is a model with everything that shapes its draws: prompt pack and parameters of the step, how many were drawn
left out. So pipelines that differ elsewhere, as those of a study do, add up. Runs of one stream share their draws; each
draw counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferloom.core.errors import DataError, UserError
from inferloom.core.types import Candidate, Json
from inferloom.evaluation.asking import TAG
from inferloom.evaluation.graders import Grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.scaling import Scaling, count_right, scaling_of
from inferloom.pipelines.document import content_hash

if TYPE_CHECKING:
    from inferloom.pipelines.spec import PipelineSpec
    from inferloom.store import RunRow, Store

NODE = "sample"
"""The node whose candidates are independent of one another."""
_ALL = 100_000_000


@dataclass(slots=True)
class Setting:
    """Samples drawn in one way."""

    label: str
    drawn: dict[str, dict[str, tuple[str | None, str]]] = field(default_factory=dict)
    """By item and draw, the final answer and the text."""


def scalings(
    store: Store,
    items: Sequence[Item],
    grader: Grader,
    *,
    study: str | None = None,
    pipeline: str | None = None,
    at_least: int = 1,
) -> list[Scaling]:
    """The analysis of every setting under which the items were sampled, that with the most samples first.

    Args:
        store: The database.
        items: The items; runs on others are left out.
        grader: What says which samples are right: those that it gives at least 0.5.
        study: Only runs of this study.
        pipeline: Only runs of the pipeline with this hash, or this beginning of it.
        at_least: Leave out items with fewer samples.

    Raises:
        DataError: There are no such samples, or the grader asks a model.
    """
    if grader.asks_models:
        raise DataError(f"the grader `{grader.name}` asks a model; samples in the bank are graded without one")
    known = {item.id: item for item in items}
    found: dict[str, Setting] = {}
    specs: dict[str, PipelineSpec | None] = {}
    for run in store.runs(_ALL, study=study):
        item = known.get(run.item or "")
        if item is None or run.question != item.question or run.tag == TAG or run.status != "done":
            continue
        if pipeline is None or run.pipeline.startswith(pipeline):
            _collect(store, run, specs, found)

    def right(item: str, answer: str | None, text: str) -> bool:
        return grader.grade(known[item], answer, text) >= 0.5

    results = []
    for setting in found.values():
        enough = {item: drawn for item, drawn in setting.drawn.items() if len(drawn) >= at_least}
        if enough:
            results.append(scaling_of(setting.label, count_right(enough, right)))
    if not results:
        many = "" if at_least == 1 else f"{at_least} "
        raise DataError(
            f"the database has no runs in which `{NODE}` drew {many}samples for these items; evaluate such a pipeline"
            " on them first"
        )
    return sorted(results, key=lambda one: (-one.samples, -len(one.counts), one.label))


def _collect(store: Store, run: RunRow, specs: dict[str, PipelineSpec | None], found: dict[str, Setting]) -> None:
    """Put the samples of a run with those of their setting."""
    from inferloom.pipelines.spec import PipelineSpec

    if run.pipeline not in specs:
        try:
            specs[run.pipeline] = PipelineSpec.parse(store.pipeline(run.pipeline))
        except UserError:  # written by another version, or with a file that is gone: its samples cannot be placed
            specs[run.pipeline] = None
    spec = specs[run.pipeline]
    if spec is None or run.item is None:
        return
    sampling = {step.path for step in store.steps(run.id) if step.node == NODE}
    for row in store.candidates(run.id) if sampling else ():
        origin = row.candidate.origin
        if row.path in sampling and origin["node"] == row.path:
            key, label = _setting(spec, row.path, row.candidate)
            setting = found.setdefault(key, Setting(label))
            draw = origin.get("completion") or f"{run.id}:{row.candidate.id}"
            setting.drawn.setdefault(run.item, {}).setdefault(draw, (row.candidate.answer, row.candidate.text))


def _setting(spec: PipelineSpec, path: str, candidate: Candidate) -> tuple[str, str]:
    """What stands for a candidate's setting, and how people are told of it."""
    model = spec.models[candidate.origin.get("model", "")]
    params: Mapping[str, Json] = spec.step(path).node.params.model_dump(mode="json", exclude={"n", "model"})
    data: list[Json] = [model.model_dump(mode="json"), spec.prompts, dict(params)]
    shown = ", ".join(f"{name} {value}" for name, value in params.items() if name in ("temperature", "top_p"))
    return content_hash(data), f"{model.model} ({shown})"
