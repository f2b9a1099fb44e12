"""What the sampling parameters of a request mean for a pipeline.

They are about the answer, so they go to the steps that write answers (those that provide candidates); judges, critics
and rankers keep their own. `temperature` and `top_p` replace the step's own values. `max_tokens` can lower a step's own
limit and never raise it: that one is a limit on what is spent. `stop` joins a step's own stop strings where it takes
any, and the final answer is cut at them in any case. The pipeline that comes of it is checked and recorded like any
other, so that a run's record says what truly ran.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from inferloom.core.errors import UserError
from inferloom.core.types import Json
from inferloom.nodes.base import NODES
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.steps import StepSpec
from inferloom.serving.errors import ApiError

_STOPS = 4
"""The most stop strings that a step takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """The sampling parameters of a request; None or empty: the pipeline's own."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


def overridden(spec: PipelineSpec, wanted: Overrides) -> PipelineSpec:
    """The pipeline with a request's sampling parameters.

    Raises:
        ApiError: 400; a parameter makes no sense for this pipeline.
    """
    if wanted == Overrides():
        return spec
    writers = [step for step in spec.steps if _writes(step)]
    _check(spec, writers, wanted)
    order = iter(spec.steps)

    def change(raw: Json) -> Json:
        step = next(order)
        return _changed(step, wanted) if _writes(step) else raw

    data = spec.to_data()
    if isinstance(nodes := data.get("nodes"), dict):
        data["nodes"] = {key: change(raw) for key, raw in nodes.items()}
    else:
        data["steps"] = _walked(data["steps"], change)
    try:
        return PipelineSpec(replace(spec.document, data=data))
    except UserError as error:
        raise ApiError(400, f"pipeline `{spec.name}` cannot take these parameters: {error.message}") from None


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _writes(step: StepSpec) -> bool:
    return "candidates" in step.node.provides and bool(step.node.model_names)


def _fields(step: StepSpec) -> frozenset[str]:
    return frozenset(type(step.node.params).model_fields)


def _check(spec: PipelineSpec, writers: list[StepSpec], wanted: Overrides) -> None:
    for name in ("temperature", "top_p"):
        value = getattr(wanted, name)
        if value is not None and not any(name in _fields(step) for step in writers):
            raise ApiError(
                400, f"`{name}` is {value:g}, but no step of pipeline `{spec.name}` takes it; leave it out", param=name
            )
    if wanted.temperature == 0:
        for step in writers:
            draws = max(int(getattr(step.node.params, field, 1)) for field in ("n", "width"))
            if draws > 1 and "temperature" in _fields(step):
                own = getattr(step.node.params, "temperature", 0)
                raise ApiError(
                    400,
                    f"`temperature` is 0, but pipeline `{spec.name}` compares {draws} draws of one model at "
                    f"{step.label}, which would all be the same; it must be above 0 and at most 2, or left out "
                    f"(the pipeline's own is {own:g})",
                    param="temperature",
                )
    if wanted.logprobs and (not writers or not all("logprobs" in _fields(step) for step in writers)):
        raise ApiError(
            400,
            f"`logprobs` is true, but the answer of pipeline `{spec.name}` is not always one completion of a step "
            "that records them; leave it out",
            param="logprobs",
        )


def _changed(step: StepSpec, wanted: Overrides) -> Json:
    """A step in normal form with what it takes of the parameters."""
    params, known = step.node.params, _fields(step)
    raw = step.raw
    name, written = (
        (raw, {}) if isinstance(raw, str) else next(iter(raw.items())) if isinstance(raw, dict) else ("", {})
    )
    assert isinstance(written, dict), "a step in normal form names its parameters"
    body: dict[str, Json] = dict(written)
    for field in ("temperature", "top_p"):
        if getattr(wanted, field) is not None and field in known:
            body[field] = getattr(wanted, field)
    own = getattr(params, "max_tokens", None)
    if wanted.max_tokens is not None and isinstance(own, int):
        body["max_tokens"] = min(own, wanted.max_tokens)
    if wanted.stop and "stop" in known:
        stops = list(dict.fromkeys([*getattr(params, "stop", ()), *wanted.stop]))
        # More than a step takes are left to the cut of the final answer.
        body["stop"] = list[Json](stops) if len(stops) <= _STOPS else list[Json](getattr(params, "stop", ()))
    if wanted.logprobs:
        body["logprobs"] = True
    return {name: body} if body else name


def _walked(item: Json, change: Callable[[Json], Json]) -> Json:
    """A list of steps in normal form with every step changed, in the order in which `spec.steps` has them."""
    if isinstance(item, list):
        return [_walked(one, change) for one in item]
    if isinstance(item, str):
        return change(item)
    assert isinstance(item, dict), "a step is a name or a mapping"
    ((name, body),) = item.items()
    if name in NODES:
        return change(item)
    if isinstance(body, list):
        return {name: [_walked(branch, change) for branch in body]}
    assert isinstance(body, dict), "a control form is a list or a mapping"
    return {name: {key: _walked(part, change) if isinstance(part, list) else part for key, part in body.items()}}
