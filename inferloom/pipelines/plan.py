"""What a pipeline will do, before it runs: calls, candidates, and upper bounds on tokens, money and model seconds.

Calls follow from the nodes' own counts. Token bounds assume prompts no longer than stated and every completion at its
limit, so real runs come in well below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from inferloom.core.types import Json, Usage, total
from inferloom.models.budget import Budget, measures
from inferloom.pipelines.rules import Forecast, predict
from inferloom.pipelines.spec import PipelineSpec, StepSpec

QUESTION_TOKENS = 512
"""Tokens assumed for the question, its notes and examples, and a prompt's own wording."""
DEFAULT_MAX_TOKENS = 512
"""Assumed for a node that calls a model and has no parameter `max_tokens`."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One node of a plan. Pairs are (least, most); `at_most` is the upper bound on usage."""

    path: str
    node: str
    models: tuple[str, ...]
    executions: tuple[int, int]
    candidates_in: tuple[int, int]
    candidates_out: tuple[int, int]
    calls: tuple[int, int]
    at_most: Usage


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run may cost. `unpriced` names the models that have no price and count as free."""

    name: str
    steps: tuple[StepPlan, ...]
    calls: tuple[int, int]
    at_most: Usage
    budget: Budget
    unpriced: tuple[str, ...]

    @property
    def over_budget(self) -> tuple[str, ...]:
        """The limits of the pipeline's own budget that the upper bound passes: such a run may stop early."""
        most = measures(self.at_most)
        return tuple(name for name, limit in self.budget.limits().items() if most[name] > limit)

    def to_json(self) -> dict[str, Json]:
        """The plan as plain JSON."""
        steps: list[Json] = [
            {
                "path": step.path,
                "node": step.node,
                "models": list(step.models),
                "executions": list(step.executions),
                "candidates_in": list(step.candidates_in),
                "candidates_out": list(step.candidates_out),
                "calls": list(step.calls),
                "at_most": dict(step.at_most.to_json()),
            }
            for step in self.steps
        ]
        return {
            "name": self.name,
            "calls": list(self.calls),
            "at_most": dict(self.at_most.to_json()),
            "budget": dict(asdict(self.budget)),
            "over_budget": list(self.over_budget),
            "unpriced": list(self.unpriced),
            "steps": steps,
        }


def plan(spec: PipelineSpec, question_tokens: int = QUESTION_TOKENS) -> Plan:
    """The plan of a pipeline, for questions of up to `question_tokens` tokens with their prompts."""
    forecasts = predict(spec)
    steps = tuple(_step_plan(spec, step, forecasts, question_tokens) for step in spec.steps)
    used = dict.fromkeys(model for step in steps for model in step.models)
    calls, at_most = _together(spec, steps, {path: one.least_in_arm for path, one in forecasts.items()})
    return Plan(
        name=spec.name,
        steps=steps,
        calls=calls,
        at_most=at_most,
        budget=spec.budget,
        unpriced=tuple(model for model in used if spec.models[model].price is None),
    )


def _together(
    spec: PipelineSpec, steps: tuple[StepPlan, ...], least: Mapping[str, int], within: tuple[tuple[str, str], ...] = ()
) -> tuple[tuple[int, int], Usage]:
    """Calls, least and most, and the upper bound on usage of the steps within some arms; of a route one arm counts."""
    graph = spec.graph
    mine = [step for step in steps if graph.arms(step.path) == within]
    low, high = sum(least[step.path] for step in mine), sum(step.calls[1] for step in mine)
    at_most = total(step.at_most for step in mine)
    for route, arms in graph.routes.items():
        if graph.arms(route) == within:
            ways = [_together(spec, steps, least, (*within, (route, arm))) for arm in arms]
            low += min(calls[0] for calls, _ in ways)
            high += max(calls[1] for calls, _ in ways)
            at_most += _most([usage for _, usage in ways])
    return (low, high), at_most


def _most(usages: Sequence[Usage]) -> Usage:
    """The most of each kind."""
    return Usage(**{field.name: max(getattr(usage, field.name) for usage in usages) for field in fields(Usage)})


def _step_plan(spec: PipelineSpec, step: StepSpec, forecasts: Mapping[str, Forecast], question_tokens: int) -> StepPlan:
    forecast = forecasts[step.path]
    models = step.node.model_names
    calls = forecast.calls[1]
    at_most = Usage()
    if models and calls:
        prompt = question_tokens + _shown(spec, step, forecast) * _candidate_tokens(spec, step)
        share = math.ceil(calls / len(models))
        for model in models:
            usage = Usage(calls=share, prompt_tokens=share * prompt, completion_tokens=share * _max_tokens(step))
            priced = spec.models[model]
            at_most += Usage(
                calls=usage.calls,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                usd=priced.usd(usage),
                seconds=priced.seconds(usage),
            )
    return StepPlan(
        path=step.path,
        node=step.node.name,
        models=tuple(dict.fromkeys(models)),
        executions=forecast.executions,
        candidates_in=forecast.candidates_in,
        candidates_out=forecast.candidates_out,
        calls=forecast.calls,
        at_most=at_most,
    )


def _shown(spec: PipelineSpec, step: StepSpec, forecast: Forecast) -> int:
    """The most candidates that one prompt of a node can show: all, unless it has a call for each."""
    if "candidates" not in step.node.requires:
        return 0
    incoming = forecast.candidates_in[1]
    one_each = incoming > 1 and step.node.calls(incoming)[1] >= incoming
    return 1 if one_each else incoming


def _candidate_tokens(spec: PipelineSpec, step: StepSpec) -> int:
    """The most tokens that one candidate has when it comes to a node, critiques included."""
    before = [spec.step(path) for path in spec.graph.ancestors[step.path]]
    texts = [_max_tokens(other) for other in before if "candidates" in other.node.provides and other.node.model_names]
    critiques = [
        _max_tokens(other) * spec.graph.executions(other.path)
        for other in before
        if "critiques" in other.node.provides and "candidates" not in other.node.provides
    ]
    return max(texts, default=0) + sum(critiques)


def _max_tokens(step: StepSpec) -> int:
    value = getattr(step.node.params, "max_tokens", None)
    return value if isinstance(value, int) else DEFAULT_MAX_TOKENS
