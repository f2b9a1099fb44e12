"""What a pipeline document says, checked: models, nodes with their parameters, edges, budget.

    name: vote of four                     # or, with branches, loops and conditions:
    models: {small: pocket:small}          #   nodes:
    steps:                                 #     draw: {sample: {model: small, n: 4}}
      - sample: {model: small, n: 4}       #     pick: vote
      - vote                               #   edges: [[draw, pick]]

A step is `name`, `{name: {parameter: value}}`, or `{name: value}` for the node's first parameter. `steps.py` says which
control forms stand among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from inferloom.core.errors import SpecError, UnknownNameError, nearest
from inferloom.core.types import Json
from inferloom.models.budget import Budget
from inferloom.models.spec import ModelSpec
from inferloom.nodes.prompts import load_pack
from inferloom.pipelines.document import Document, Place, content_hash, dump, load_document
from inferloom.pipelines.graph import MAX_AT_MOST, Edge, Graph
from inferloom.pipelines.modelfile import inline_models
from inferloom.pipelines.steps import MAX_NODES, Steps, StepSpec, kind_of, read_condition, read_step, shown

KEYS = ("name", "description", "models", "prompts", "budget", "answer", "steps", "nodes", "edges")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,79}")


class PipelineSpec:
    """A checked pipeline. Made by `load`, `parse` or `from_data`; never changed.

    Attributes:
        document: Where it came from, for the places of errors.
        name: Its name; the file's stem, or `pipeline`, where the document has none.
        models: Model specs by name.
        prompts: The prompt pack's name, or the path of a pack's file.
        budget: Limits on what one run may cost, nominal.
        answer: `marked`: the answer is extracted from the text; `text`: the whole text is the answer.
        steps: The nodes in declared order.
        graph: Their edges, with order, start and end.
    """

    def __init__(self, document: Document) -> None:
        document = inline_models(document)
        reader = _Reader(document)
        self.document = document
        self.name: str = reader.text("name") or (document.path.stem if document.path else "pipeline")
        self.description: str = reader.text("description") or ""
        self.models: dict[str, ModelSpec] = reader.models()
        self.prompts: str = reader.prompts(self.models)
        self.budget: Budget = reader.budget()
        self.answer: Literal["marked", "text"] = reader.answer()
        self.steps: tuple[StepSpec, ...]
        self.steps, edges = reader.wiring(self.models)
        self.graph = Graph(
            [step.path for step in self.steps], edges, document.error, {step.path: step.place for step in self.steps}
        )
        self._data = reader.normal
        self._by_path = {step.path: step for step in self.steps}
        from inferloom.pipelines.rules import check_rules

        check_rules(self)

    @classmethod
    def load(cls, source: str | Path) -> PipelineSpec:
        """The pipeline of a file or a preset, by path or name.

        Raises:
            SpecError: No such file or preset, or the document is wrong; one sentence with file, line and field.
        """
        from inferloom.pipelines.presets import resolve

        return cls(load_document(resolve(source), name=str(source)))

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> PipelineSpec:
        """The pipeline that a YAML text says; `name` stands for the file in errors.

        Raises:
            SpecError: The document is wrong.
        """
        return cls(load_document(text, name=name))

    @classmethod
    def from_data(cls, data: Json, name: str = "pipeline") -> PipelineSpec:
        """The pipeline of plain data, such as a point of a search space; `name` stands for the file in errors.

        Raises:
            SpecError: The data do not make a pipeline.
        """
        return cls(Document.from_data(data, name))

    def step(self, path: str) -> StepSpec:
        """The node at a path."""
        return self._by_path[path]

    @property
    def uses_oracle(self) -> bool:
        """Whether a node looks at the right answer: results are bounds, never compared with the rest."""
        return any(step.node.oracle for step in self.steps)

    def where(self, *place: str | int) -> str:
        """`file:line: field` of a place in the document, such as `where("models", "small")`."""
        return str(self.document.error(place, "").where)

    def to_data(self) -> dict[str, Json]:
        """The document as plain data, in normal form: `from_data(spec.to_data()).to_data()` is the same."""
        return dict(self._data)

    def to_yaml(self) -> str:
        """The document as canonical YAML."""
        return dump(self.to_data())

    @cached_property
    def hash(self) -> str:
        """32 hex digits for the content. The order of `nodes` counts, since it decides draws; other orders do not."""
        data = self.to_data()
        nodes = data.get("nodes")
        if isinstance(nodes, dict):
            data["nodes"] = [[key, step] for key, step in nodes.items()]
        return content_hash(data)


class _Reader:
    """Takes a document apart, key by key, and keeps its normal form."""

    def __init__(self, document: Document) -> None:
        if not isinstance(document.data, dict):
            raise document.error(
                (), f"a pipeline must be a mapping with `models` and `steps`, not {kind_of(document.data)}"
            )
        self.document = document
        self.data: dict[str, Json] = document.data
        for key in self.data:
            if key not in KEYS:
                near = nearest(key, KEYS)
                known = "" if near else f"; a pipeline has {', '.join(KEYS)}"
                raise document.error((key,), f"unknown key `{key}`{known}", near)
        # Keys in one order, so that the normal form of a document is one text.
        self.normal: dict[str, Json] = {key: self.data[key] for key in KEYS if key in self.data}

    def text(self, key: str) -> str | None:
        value = self.data.get(key)
        if key in self.data and not (isinstance(value, str) and value.strip()):
            raise self.document.error((key,), f"`{key}` must be text, not {shown(value)}")
        return value if isinstance(value, str) else None

    def models(self) -> dict[str, ModelSpec]:
        value = self.data.get("models")
        if "models" not in self.data:
            raise self.document.error(
                (), "`models` is missing; name at least one, such as `models: {small: pocket:small}`"
            )
        if not isinstance(value, dict) or not value:
            raise self.document.error(
                ("models",), f"`models` must map names to models, such as `small: pocket:small`, not {shown(value)}"
            )
        specs: dict[str, ModelSpec] = {}
        normal: dict[str, Json] = {}
        for name, raw in value.items():
            place = ("models", name)
            if not _NAME.fullmatch(name):
                raise self.document.error(place, f"`{name}` cannot name a model; use letters, digits, `_`, `-` and `.`")
            where = f"{self.document.where(place)}: models.{name}"
            try:
                specs[name] = ModelSpec.parse(raw, where=where)
            except UnknownNameError as error:
                raise SpecError(error.message, where=where, suggestion=error.suggestion) from None
            normal[name] = raw["model"] if isinstance(raw, dict) and set(raw) == {"model"} else raw
        self.normal["models"] = normal
        return specs

    def prompts(self, models: Mapping[str, ModelSpec]) -> str:
        written = self.text("prompts")
        if written is None:
            return "pocket" if all(spec.scheme == "pocket" for spec in models.values()) else "general"
        folder = self.document.path.parent if self.document.path else None
        if folder and written.endswith((".yaml", ".yml")):
            # As the document means it: beside the file, wherever the process runs.
            written = str(folder / written)
        try:
            load_pack(written)
        except UnknownNameError as error:
            raise self.document.error(("prompts",), error.message, error.suggestion) from None
        return written

    def budget(self) -> Budget:
        value = self.data.get("budget", {})
        known = ("calls", "tokens", "usd", "seconds")
        if not isinstance(value, dict):
            raise self.document.error(
                ("budget",), f"`budget` must be a mapping of {', '.join(known)}, not {shown(value)}"
            )
        for name, limit in value.items():
            place = ("budget", name)
            if name not in known:
                near = nearest(name, known)
                rest = "" if near else f"; must be one of {', '.join(known)}"
                raise self.document.error(place, f"unknown limit `{name}`{rest}", near)
            if isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0:
                raise self.document.error(place, f"the limit `{name}` must be a number above 0, not {shown(limit)}")
        return Budget(**value)  # type: ignore[arg-type] # keys and values are checked above

    def answer(self) -> Literal["marked", "text"]:
        value = self.data.get("answer", "marked")
        if value == "marked":
            return "marked"
        if value == "text":
            return "text"
        raise self.document.error(("answer",), f"`answer` must be `marked` or `text`, not {shown(value)}")

    def wiring(self, models: Mapping[str, ModelSpec]) -> tuple[tuple[StepSpec, ...], list[Edge]]:
        if "steps" in self.data and ("nodes" in self.data or "edges" in self.data):
            other = "nodes" if "nodes" in self.data else "edges"
            raise self.document.error(
                (other,), f"a pipeline has either `steps` or `nodes` and `edges`, not `{other}` beside `steps`"
            )
        if "steps" in self.data:
            wiring = Steps(self.document, models)
            self.normal["steps"] = wiring.read(self.data["steps"])
            return tuple(wiring.steps), wiring.edges
        if "nodes" not in self.data:
            raise self.document.error((), "`steps` is missing (or `nodes` with `edges`)")
        steps = self._nodes(models)
        return tuple(steps), self._edges({step.path for step in steps})

    def _nodes(self, models: Mapping[str, ModelSpec]) -> list[StepSpec]:
        value = self.data["nodes"]
        if not isinstance(value, dict) or not value:
            raise self.document.error(("nodes",), f"`nodes` must map ids to steps, not {shown(value)}")
        steps = []
        for identity, raw in value.items():
            place: Place = ("nodes", identity)
            if not _ID.fullmatch(identity):
                raise self.document.error(
                    place, f"`{identity}` cannot be a node's id; use letters, digits, `_` and `-`"
                )
            steps.append(read_step(self.document, raw, identity, place, models))
        if len(steps) > MAX_NODES:
            raise self.document.error(("nodes",), f"{len(steps)} nodes are too many; at most {MAX_NODES}")
        self.normal["nodes"] = {step.path: step.raw for step in steps}
        return steps

    def _edges(self, ids: set[str]) -> list[Edge]:
        value = self.data.get("edges", [])
        if not isinstance(value, list):
            raise self.document.error(("edges",), f"`edges` must be a list, not {shown(value)}")
        edges: list[Edge] = []
        normal: list[Json] = []
        for position, raw in enumerate(value):
            place: Place = ("edges", position)
            if isinstance(raw, list):
                if len(raw) < 2:
                    raise self.document.error(place, "a chain must have at least two node ids, as in `[a, b]`")
                names = [self._id(name, ids, (*place, index)) for index, name in enumerate(raw)]
                edges += [
                    Edge(source, target, place=(*place, index + 1))
                    for index, (source, target) in enumerate(pairwise(names))
                ]
                normal.append(raw)
            elif isinstance(raw, dict):
                edge, written = self._edge(raw, ids, place)
                edges.append(edge)
                normal.append(written)
            else:
                raise self.document.error(
                    place, f"an edge must be `[a, b]` or `{{from: a, to: b, when: ...}}`, not {shown(raw)}"
                )
        if "edges" in self.data:
            self.normal["edges"] = normal
        return edges

    def _edge(self, raw: dict[str, Json], ids: set[str], place: Place) -> tuple[Edge, dict[str, Json]]:
        known = ("from", "to", "when", "at_most")
        for key in raw:
            if key not in known:
                near = nearest(key, known)
                rest = "" if near else f"; an edge has {', '.join(known)}"
                raise self.document.error((*place, key), f"unknown key `{key}`{rest}", near)
        for key in ("from", "to"):
            if key not in raw:
                raise self.document.error(place, f"the edge has no `{key}`")
        when = read_condition(self.document, raw["when"], (*place, "when"), "when") if "when" in raw else None
        at_most = raw.get("at_most")
        if "at_most" in raw and (
            isinstance(at_most, bool) or not isinstance(at_most, int) or not 1 <= at_most <= MAX_AT_MOST
        ):
            raise self.document.error(
                (*place, "at_most"), f"`at_most` must be a whole number from 1 to {MAX_AT_MOST}, not {shown(at_most)}"
            )
        edge = Edge(
            self._id(raw["from"], ids, (*place, "from")),
            self._id(raw["to"], ids, (*place, "to")),
            when,
            at_most if isinstance(at_most, int) else None,
            place,
        )
        written = {key: raw[key] for key in known if key in raw}
        return edge, written | ({"when": when.text} if when else {})

    def _id(self, value: Json, ids: set[str], place: Place) -> str:
        if isinstance(value, str) and value in ids:
            return value
        near = nearest(value, ids) if isinstance(value, str) else None
        known = "" if near else f"; the nodes are {', '.join(sorted(ids)[:12])}"
        raise self.document.error(place, f"unknown node id {shown(value)}{known}", near)


__all__ = ["KEYS", "Budget", "PipelineSpec", "StepSpec", "read_step"]
