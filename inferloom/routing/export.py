"""A routed system as one YAML file and one folder: the router's arms become the arms of a `route`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from inferloom.core.errors import DataError, SetupError
from inferloom.core.types import Json
from inferloom.pipelines.document import dump
from inferloom.pipelines.spec import PipelineSpec
from inferloom.pipelines.subpipeline import renamed
from inferloom.routing.card import arm_names
from inferloom.routing.router import Router

_WHOLE = ("budget", "answer", "prompts")
"""Keys of a whole pipeline, which must be the same in every arm."""


def export_system(router: Router, path: Path, folder: Path, policy: Mapping[str, Json] | None = None) -> PipelineSpec:
    """Write a routed pipeline and its router; nothing is left where it fails.

    Args:
        router: The router.
        path: The YAML file to make.
        folder: The folder for the router, in the file's folder or below.
        policy: What stands under `policy`; None: nothing, so the router's own holds.

    Raises:
        DataError: An arm has no pipeline, or one that cannot be an arm.
        SetupError: A file or folder cannot be written, or is there already.
    """
    import shutil

    data = routed_document(router, _relative(folder, path), policy)
    for place in (path, folder):
        if place.exists():
            raise SetupError("exists already; name another", where=str(place))
    router.save(folder)
    try:
        path.write_text(dump(data), encoding="utf-8")
        return PipelineSpec.load(path)
    except BaseException as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise SetupError(f"cannot be written: {error.strerror or error}", where=str(path)) from None
        raise


def _relative(folder: Path, path: Path) -> str:
    try:
        return f"./{folder.resolve().relative_to(path.resolve().parent).as_posix()}"
    except ValueError:
        raise SetupError(
            f"the router's folder must be in the pipeline's folder ({path.parent}) or below, so that the two can be"
            " moved together",
            where=str(folder),
        ) from None


def routed_document(router: Router, folder: str, policy: Mapping[str, Json] | None) -> dict[str, Json]:
    """The pipeline that chooses among a router's arms.

    Raises:
        DataError: An arm has no pipeline, or one that cannot be an arm.
    """
    models: dict[str, Json] = {}
    whole: dict[str, Json] = {}
    arms: dict[str, Json] = {}
    names = arm_names([(arm.id, arm.label) for arm in router.arms])
    for place, (name, arm) in enumerate(zip(names, router.arms, strict=True)):
        if arm.yaml is None:
            raise DataError(f"the arm `{arm.label}` comes from outside results and has no pipeline to export")
        spec = PipelineSpec.parse(arm.yaml, f"arm {arm.label}")
        data = spec.to_data()
        steps = data.get("steps")
        if not isinstance(steps, list):
            raise DataError(f"the arm `{arm.label}` is written with `nodes`; only pipelines with `steps` can be arms")
        own: dict[str, Json] = {key: data[key] for key in _WHOLE if key in data} | {"prompts": spec.prompts}
        if place and own != whole:
            raise DataError(f"the arms `{router.arms[0].label}` and `{arm.label}` differ in {', '.join(_WHOLE)}")
        whole = own
        taken = {model: _model_name(model, spec_, models) for model, spec_ in _models(data).items()}
        models |= {taken[model]: value for model, value in _models(data).items()}
        here = f"steps/0/{name}"

        def moved(step: str, here: str = here) -> str:
            return f"{here}{step.removeprefix('steps')}"

        arms[name] = [renamed(step, taken.__getitem__, moved, str) for step in steps]
    route: dict[str, Json] = {"router": folder}
    if policy:
        route["policy"] = dict(policy)
    return {"models": models, **whole, "steps": [{"route": {**route, "arms": arms}}]}


def _models(data: Mapping[str, Json]) -> dict[str, Json]:
    models = data["models"]
    assert isinstance(models, dict), "a checked pipeline names its models"
    return models


def _model_name(name: str, value: Json, taken: Mapping[str, Json]) -> str:
    """The name itself, or with a number where it stands for another model already."""
    number, tried = 1, name
    while tried in taken and taken[tried] != value:
        number += 1
        tried = f"{name}-{number}"
    return tried
