"""Keys for documents: those with one key are valid pipelines or not alike, though their parameters differ.

Checking thousands of documents that differ in few parameters is slow, and mostly the same work. A document is valid
where each step is, which is found out once per step, and where the steps fit together. That depends on how they are
arranged and on what the rules see of each (`rules.shape`); all else in the document goes into the key as it is.
"""

from __future__ import annotations

from collections.abc import Hashable

from inferloom.core.errors import UserError
from inferloom.core.types import Json
from inferloom.nodes.base import NODES
from inferloom.pipelines.document import Document, content_hash
from inferloom.pipelines.rules import shape
from inferloom.pipelines.steps import FORMS, read_step
from inferloom.pipelines.subpipeline import PIPELINE


class _NumbersCountError(Exception):
    """A step whose shape does not say it all."""


class Shapes:
    """Makes keys, and remembers the steps that it has seen."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Hashable] = {}

    def key(self, data: dict[str, Json]) -> Hashable:
        """The key of a document, valid or not."""
        models = data.get("models")
        names = ", ".join(models) if isinstance(models, dict) else ""
        rest = repr([item for item in data.items() if item[0] not in ("steps", "nodes")])
        try:
            return (rest, self._list(data.get("steps"), names), self._nodes(data.get("nodes"), names))
        except _NumbersCountError:
            return content_hash(data)

    def _list(self, value: Json, models: str) -> Hashable:
        if not isinstance(value, list):
            return repr(value)
        return tuple([self._item(item, models) for item in value])

    def _item(self, item: Json, models: str) -> Hashable:
        if isinstance(item, list):
            return self._list(item, models)
        if isinstance(item, dict) and len(item) == 1:
            ((name, body),) = item.items()
            if name in FORMS and name != PIPELINE:
                # The lists of a control form hold steps; all else in it, such as a condition, stays as it is.
                parts = list(body.items()) if isinstance(body, dict) else [("", body)]
                return (name, tuple([(key, self._part(key, value, models)) for key, value in parts]))
        return self._step(item, models)

    def _part(self, key: str, value: Json, models: str) -> Hashable:
        if key == "arms" and isinstance(value, dict):
            return tuple([(arm, self._list(steps, models)) for arm, steps in value.items()])
        return self._list(value, models)

    def _nodes(self, value: Json, models: str) -> Hashable:
        if not isinstance(value, dict):
            return repr(value)
        return tuple([(key, self._step(step, models)) for key, step in value.items()])

    def _step(self, step: Json, models: str) -> Hashable:
        known = (models, repr(step))
        if known not in self._known:
            self._known[known] = _shape(step, models)
        found = self._known[known]
        if found is None:
            raise _NumbersCountError
        return found


def _shape(step: Json, models: str) -> Hashable | None:
    """What the rules see of a step; the step itself where it is none or a wrong one."""
    name = next(iter(step), "") if isinstance(step, dict) else step
    if not isinstance(name, str) or name not in NODES:
        return repr(step)
    try:
        node = read_step(Document.from_data(step), step, "", (), dict.fromkeys(models.split(", "))).node
    except UserError:
        return repr(step)
    return shape(node)
