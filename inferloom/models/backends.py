"""Schemes and what opens them. Nothing heavy is imported before a model of the scheme is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from inferloom.core.errors import UserError
from inferloom.core.protocols import Backend
from inferloom.core.registry import Registry
from inferloom.models.spec import ModelSpec

BackendFactory: TypeAlias = Callable[[str, ModelSpec], Backend]
"""Called with what stands after the scheme's colon, and the whole spec."""

BACKENDS: Registry[BackendFactory] = Registry("model scheme")


def open_backend(spec: ModelSpec, *, where: str | None = None) -> Backend:
    """The backend of a model. Opening is cheap where it can be: no request is made and no weights are read here.

    Raises:
        UnknownNameError: No backend has the spec's scheme, or the scheme has no such model.
        SetupError: A key or a package is missing; the message says what to set or install.
    """
    try:
        return BACKENDS.get(spec.scheme)(spec.rest, spec)
    except UserError as error:
        raise error.placed(where) from None


@BACKENDS.register("langchain")
def _langchain(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.langchain import open_langchain

    return open_langchain(rest, spec)


@BACKENDS.register("openai")
def _openai(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.openai import open_openai

    return open_openai(rest, spec)


@BACKENDS.register("pocket")
def _pocket(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.transformers import open_pocket

    return open_pocket(rest, spec)


@BACKENDS.register("scripted")
def _scripted(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.scripted import open_scripted

    return open_scripted(rest, spec)


@BACKENDS.register("transformers")
def _transformers(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.transformers import open_transformers

    return open_transformers(rest, spec)


@BACKENDS.register("vllm")
def _vllm(rest: str, spec: ModelSpec) -> Backend:
    from inferloom.models.vllm import open_vllm

    return open_vllm(rest, spec)
