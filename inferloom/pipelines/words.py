"""A pipeline in a few words, for tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping

from inferloom.core.types import Json
from inferloom.pipelines.spec import PipelineSpec


def shape(spec: PipelineSpec) -> str:
    """A pipeline in a few words, for tables: `sample small x8 > score large > vote judge`."""
    words = []
    for step in spec.steps:
        if step.path in spec.graph.joins:
            continue
        arms = [edge.arm for edge in spec.graph.into(step.path) if edge.arm is not None]
        conditions = [edge.when.text for edge in spec.graph.into(step.path) if edge.when and edge.at_most is None]
        back = next((edge for edge in spec.graph.out_of(step.path) if edge.at_most is not None), None)
        word = _step_words(step.raw)
        if conditions:
            word = f"if {' or '.join(dict.fromkeys(conditions))}: {word}"
        if arms:
            word = f"{arms[0]}: {word}"
        if back:
            word += f" (again{f' if {back.when.text}' if back.when else ''}, at most {back.at_most}x)"
        words.append(word)
    return " > ".join(words)


_BARE = ("model", "weight", "by", "method", "stop")
"""Parameters whose value says enough; others stand with their names, save those of `_SILENT`."""
_SILENT = ("n", "top_k", "name", "max_tokens", "temperature", "top_p", "logprobs", "expected", "system", "examples")


def _step_words(raw: Json) -> str:
    if not isinstance(raw, dict):
        return str(raw)
    name, params = next(iter(raw.items()))
    if not isinstance(params, Mapping):
        return f"{name} {params}"
    words = [name]
    words += [
        "+".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in map(params.get, _BARE)
        if value is not None
    ]
    if isinstance(params.get("n"), int):
        words.append(f"x{params['n']}")
    if params.get("top_k") is not None:
        words.append(f"top {params['top_k']}")
    rest = [(key, value) for key, value in params.items() if key not in (*_BARE, *_SILENT)]
    words += [f"{key} {value}" for key, value in rest if isinstance(value, str | int | float)]
    return " ".join(words)
