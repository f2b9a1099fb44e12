"""Inference-time techniques as graph nodes: composed in YAML, searched for the best composition, all accounted for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from inferloom.core.late import bind as _bind

if TYPE_CHECKING:
    from inferloom.core.errors import InferloomError
    from inferloom.core.types import Candidate, Message, Usage
    from inferloom.evaluation import DataSpec, load_items
    from inferloom.evaluation.evaluate import evaluate
    from inferloom.models.budget import Budget
    from inferloom.nodes.base import Node, Params, register_node
    from inferloom.pipelines.run import Pipeline, RunResult
    from inferloom.search.job import load_job
    from inferloom.search.study import run_study
    from inferloom.serving.langchain import ChatInferloom
    from inferloom.store import Store

__version__ = "0.1.0"

# Where each name lives. They load on first use: importing torch, LangGraph and SQLAlchemy takes seconds.
_HOMES = {
    "Budget": "inferloom.models.budget",
    "Candidate": "inferloom.core.types",
    "ChatInferloom": "inferloom.serving.langchain",
    "DataSpec": "inferloom.evaluation",
    "InferloomError": "inferloom.core.errors",
    "Message": "inferloom.core.types",
    "Node": "inferloom.nodes.base",
    "Params": "inferloom.nodes.base",
    "Pipeline": "inferloom.pipelines.run",
    "RunResult": "inferloom.pipelines.run",
    "Store": "inferloom.store",
    "Usage": "inferloom.core.types",
    "evaluate": "inferloom.evaluation.evaluate",
    "load_items": "inferloom.evaluation",
    "load_job": "inferloom.search.job",
    "register_node": "inferloom.nodes.base",
    "run_study": "inferloom.search.study",
}

_bind("router reader", "inferloom.routing.card:read_card")

__all__ = [
    "Budget",
    "Candidate",
    "ChatInferloom",
    "DataSpec",
    "InferloomError",
    "Message",
    "Node",
    "Params",
    "Pipeline",
    "RunResult",
    "Store",
    "Usage",
    "__version__",
    "evaluate",
    "load",
    "load_items",
    "load_job",
    "register_node",
    "run_study",
]


def load(source: str, *, store: Store | str | None = None) -> Pipeline:
    """Load a pipeline from a YAML file or by a preset's name.

    Args:
        source: The file's path or the preset's name.
        store: The database or its URL; None: the variable INFERLOOM_DB, else `inferloom.db` in this folder.

    Raises:
        InferloomError: What is wrong and where, in one sentence.
    """
    from inferloom.pipelines.run import Pipeline

    return Pipeline.load(source, store=store)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
