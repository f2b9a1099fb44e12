"""A pipeline as a step of another: its steps, on models of the outer one.

A parameter that names a step by its path names the same step after its pipeline has become steps of the outer one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from inferloom.core.errors import SpecError, nearest
from inferloom.core.types import Json
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.document import Document, Place

if TYPE_CHECKING:
    from inferloom.pipelines.spec import PipelineSpec

PIPELINE = "pipeline"
Change: TypeAlias = Callable[[str], str]
_KEYS = ("of", "models")
_MOST_DEEP = 16


def inlined(
    document: Document, body: Json, place: Place, models: Mapping[str, ModelSpec], path: str, offset: int
) -> list[Json]:
    """The steps of the pipeline that `body` names, in normal form, with the outer pipeline's names of models.

    Args:
        document: The outer pipeline.
        body: A preset's name or a path, or `{of: ..., models: {inner name: outer name}}`.
        place: Where it stands.
        models: The outer pipeline's models.
        path: The path of the list of steps that takes them up.
        offset: How many steps stand before them in that list.

    Raises:
        SpecError: There is no such pipeline, it is wrong, it holds itself, it has settings of a whole run, or it needs
            a model that the outer one has not.
    """
    source, other_names = _read(document, body, place)
    inner = _load(document, source, place)
    data = inner.to_data()
    for key in ("budget", "answer"):
        if key in data:
            raise document.error(place, f"`{source}` has `{key}`, which only a whole run can have; leave it out there")
    if "prompts" in data and inner.prompts != _prompts(document):
        raise document.error(
            place,
            f"`{source}` has the prompts `{inner.prompts}`; a run has one prompt pack, set it in the outer pipeline",
        )
    steps = data.get("steps")
    if not isinstance(steps, list):
        raise document.error(
            place, f"`{source}` is written with `nodes`; a pipeline as a step must be written with `steps`"
        )
    for name in other_names:
        if name not in inner.models:
            raise document.error(
                (*place, "models", name), f"`{source}` has no model `{name}`", nearest(name, inner.models)
            )
    names = {name: other_names.get(name, name) for name in inner.models}
    used = {name for step in inner.steps for name in step.node.model_names}
    for name in sorted(used):
        if names[name] not in models:
            raise document.error(
                place,
                f"`{source}` needs a model `{names[name]}`, which is not under `models`; name one of"
                f" {', '.join(models)} with `{{of: {source}, models: {{{name}: ...}}}}`",
                nearest(names[name], models),
            )
    folders = [(one.path.parent if one.path else Path()).resolve() for one in (inner.document, document)]

    def moved(step: str) -> str:
        return _moved(step, path, offset)

    def refolded(router: str) -> str:
        return router if folders[0] == folders[1] else os.path.relpath(folders[0] / router, folders[1])

    return [renamed(step, names.__getitem__, moved, refolded) for step in steps]


def _read(document: Document, body: Json, place: Place) -> tuple[str, dict[str, str]]:
    if isinstance(body, str):
        return body, {}
    if not isinstance(body, dict) or not isinstance(body.get("of"), str):
        raise document.error(
            place, "`pipeline` must be a preset's name, a path, or `{of: ..., models: {inner: outer}}`"
        )
    for key in body:
        if key not in _KEYS:
            raise document.error((*place, key), f"unknown key `{key}`; `pipeline` has {', '.join(_KEYS)}")
    renamed = body.get("models", {})
    if not isinstance(renamed, dict) or not all(isinstance(name, str) for name in renamed.values()):
        raise document.error((*place, "models"), "`models` must map the inner pipeline's names to names of this one")
    return str(body["of"]), {inner: str(outer) for inner, outer in renamed.items()}


def _load(document: Document, source: str, place: Place) -> PipelineSpec:
    from inferloom.pipelines.document import load_document
    from inferloom.pipelines.presets import resolve
    from inferloom.pipelines.spec import PipelineSpec

    folder = document.path.parent if document.path else Path()
    beside = folder / source
    try:
        file = beside if beside.is_file() else resolve(source)
    except SpecError as error:
        raise document.error(place, error.message, error.suggestion) from None
    above = (*_ABOVE.get(), *([document.path.resolve()] if document.path else []))
    if file.resolve() in above or len(above) > _MOST_DEEP:
        raise document.error(place, f"`{source}` holds itself; a pipeline cannot be a step of its own")
    token = _ABOVE.set(above)
    try:
        return PipelineSpec(load_document(file, name=source))
    finally:
        _ABOVE.reset(token)


_ABOVE: ContextVar[tuple[Path, ...]] = ContextVar("inferloom_pipelines_above", default=())
"""The files that are being read, the outermost first."""


def _prompts(document: Document) -> Json:
    return document.data.get("prompts") if isinstance(document.data, dict) else None


def renamed(item: Json, model: Change, step: Change, router: Change) -> Json:
    """A step or a control form in normal form with other names.

    Args:
        item: The step.
        model: Gives the new name of a model.
        step: Gives the new path of a step.
        router: Gives the new folder of a router.
    """
    from inferloom.nodes.base import NODES, marked_fields

    if isinstance(item, list):
        return [renamed(one, model, step, router) for one in item]
    if not isinstance(item, dict):
        return item
    ((name, body),) = item.items()
    if name not in NODES:
        return {name: _renamed_parts(body, model, step, router)}
    assert isinstance(body, dict), "a step in normal form names its parameters"
    body = dict(body)
    kind = NODES.get(name).Params
    for field in marked_fields(kind, "model"):
        if field in body:
            body[field] = _each(body[field], model)
    for field in marked_fields(kind, "path"):
        if field in body:
            body[field] = _each(body[field], step)
    return {name: body}


def _renamed_parts(body: Json, model: Change, step: Change, router: Change) -> Json:
    """The body of a control form: its lists hold steps, the arms of a route are such lists by name."""
    if isinstance(body, list):
        return renamed(body, model, step, router)
    if not isinstance(body, dict):
        return body
    parts: dict[str, Json] = {}
    for key, value in body.items():
        if key == "arms" and isinstance(value, dict):
            parts[key] = {arm: renamed(steps, model, step, router) for arm, steps in value.items()}
        elif key == "router" and isinstance(value, str):
            parts[key] = router(value)
        else:
            parts[key] = renamed(value, model, step, router) if isinstance(value, list) else value
    return parts


def _moved(inner: str, path: str, offset: int) -> str:
    """Where a step of the inner pipeline (`steps/1/0`) stands in the outer one."""
    _, position, *rest = inner.split("/")
    return "/".join([path, str(offset + int(position)), *rest])


def _each(value: Json, change: Callable[[str], str]) -> Json:
    """A name, or each of several, changed."""
    if isinstance(value, list):
        return [_each(one, change) for one in value]
    return change(value) if isinstance(value, str) else value
