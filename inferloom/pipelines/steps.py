"""The short form `steps:`: a list of nodes, one after the other, with control forms among them (`FORMS`).

Control forms nest. They become edges of the graph; a pipeline within a pipeline becomes its steps, so that the content
hash sees what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferloom.core.errors import SpecError, UnknownNameError, UserError, nearest
from inferloom.core.types import Json
from inferloom.models.spec import ModelSpec
from inferloom.nodes.base import NODES, Node
from inferloom.pipelines.document import Document, Place
from inferloom.pipelines.graph import JOIN, MAX_AT_MOST, SUBJECTS, Condition, Edge, parse_condition
from inferloom.pipelines.params import parse_params
from inferloom.pipelines.routes import ROUTE, Join, check_arm, read_route, written
from inferloom.pipelines.subpipeline import PIPELINE, inlined

MAX_NODES = 500
PARALLEL, WHEN, LOOP = "parallel", "when", "loop"
FORMS = {
    PARALLEL: """\
- parallel:              # branches beside one another, which the next step joins; a bare list will do
    - [sample: {model: small, n: 4}]
    - [sample: {model: large, n: 2}]
""",
    WHEN: f"""\
- when:                  # one way or the other, by the candidates of the step before or by what the run has spent
    if: agreement < 0.6
    then: [sample: {{model: large, n: 4}}]
    else: [top_k: {{by: judge, k: 2}}]    # without it the candidates go straight on

Conditions compare with <, <=, >, >= or ==: {", ".join(SUBJECTS)} (best and mean of a named score).
""",
    LOOP: """\
- loop:                  # again and again until the condition holds
    do: [sample: {model: small, n: 2}, score: {model: large, name: judge}]
    until: best.judge >= 0.9              # may be left out
    at_most: 5                            # rounds, 2 to 100
""",
    PIPELINE: """\
- pipeline: best_of_n    # the steps of another pipeline, a preset or a file (relative to this one), on models of this
- pipeline: {of: other.yaml, models: {writer: small}}    # one: those of the same names, or as `models` says
""",
    ROUTE: """\
- route:                 # one of several ways, chosen for each question by a router that was trained on them
    router: ./router                      # its folder (relative to this file)
    policy: {price: 0.0002}               # of a unit of cost, in quality; `router explain` shows what it does
    arms:                                 # all arms of the router, by its names, each with the steps it was trained on
      cheap: [sample: {model: small}]
      dear: [sample: {model: large, n: 4}, vote]

`inferloom router export` writes such a pipeline with its router beside it.
""",
}
"""The control forms, shown by `inferloom nodes NAME`."""


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One node of a pipeline. `path` is `steps/1` (or `steps/1/0/2` within branches), or the id under `nodes:`."""

    path: str
    node: Node
    raw: Json
    """The step in its normal form: `name`, or `{name: {parameter: value}}` with the parameters that were written."""
    place: Place

    @property
    def label(self) -> str:
        """`path (node)` for messages, or the path alone where it says it all."""
        return self.path if self.path == self.node.name else f"{self.path} ({self.node.name})"


@dataclass(frozen=True, slots=True)
class Head:
    """A node that the next step follows, always or where the condition holds."""

    path: str
    when: Condition | None = None
    arm: str | None = None
    fallback: bool = False

    def to(self, path: str, place: Place) -> Edge:
        """The edge to the next step."""
        return Edge(self.path, path, self.when, place=place, arm=self.arm, fallback=self.fallback)


Item = tuple[Json, Place]
"""An item of a list of steps and its place in the document."""


class Steps:
    """Reads `steps:`: gives every node its path and edges, branch ends joining in what comes next."""

    def __init__(self, document: Document, models: Mapping[str, ModelSpec]) -> None:
        self.document = document
        self.models = models
        self.steps: list[StepSpec] = []
        self.edges: list[Edge] = []

    def read(self, value: Json) -> Json:
        """The normal form of the list."""
        if not isinstance(value, list) or not value:
            raise self.document.error(("steps",), f"`steps` must be a list with at least one step, not {shown(value)}")
        normal, heads = self._sequence(self._items(value, ("steps",), "steps"), "steps", [])
        ends = list(dict.fromkeys(head.path for head in heads))
        if len(ends) > 1:
            raise self.document.error(
                ("steps", len(value) - 1),
                f"the pipeline ends in {len(ends)} branches; add a step that joins them, such as `vote` or `fuse`",
            )
        return normal

    def _items(self, value: Sequence[Json], place: Place, path: str) -> list[Item]:
        """The items of a list with their places; a pipeline among them as its steps. `path` is the list's own."""
        items: list[Item] = []
        for position, raw in enumerate(value):
            here = (*place, position)
            if isinstance(raw, dict) and list(raw) == [PIPELINE]:
                at = (*here, PIPELINE)
                steps = inlined(self.document, raw[PIPELINE], at, self.models, path, len(items))
                items += [(step, here) for step in steps]
            else:
                items.append((raw, here))
        return items

    def _sequence(self, items: list[Item], path: str, heads: list[Head]) -> tuple[list[Json], list[Head]]:
        """The normal form of steps that follow `heads`, and the nodes that they end in."""
        normal: list[Json] = []
        for position, (raw, here) in enumerate(items):
            written, heads = self._item(raw, here, f"{path}/{position}", heads)
            normal.append(written)
        return normal, heads

    def _item(self, raw: Json, here: Place, path: str, heads: list[Head]) -> tuple[Json, list[Head]]:
        if isinstance(raw, list):
            return self._parallel(raw, here, path, heads)
        if isinstance(raw, dict) and len(raw) == 1:
            ((name, body),) = raw.items()
            if name == PARALLEL:
                return self._parallel([] if body is None else body, (*here, PARALLEL), path, heads)
            if name == WHEN:
                return self._when(body, (*here, WHEN), path, heads)
            if name == LOOP:
                return self._loop(body, (*here, LOOP), path, heads)
            if name == ROUTE:
                return self._route(body, (*here, ROUTE), path, heads)
        step = read_step(self.document, raw, path, here, self.models)
        return step.raw, self._add(step, heads)

    def _add(self, step: StepSpec, heads: list[Head]) -> list[Head]:
        """Put a step behind others."""
        if len(self.steps) >= MAX_NODES:
            raise self.document.error(step.place, f"too many steps; at most {MAX_NODES}")
        self.steps.append(step)
        self.edges += [head.to(step.path, step.place) for head in heads]
        return [Head(step.path)]

    def _route(self, body: Json, place: Place, path: str, heads: list[Head]) -> tuple[Json, list[Head]]:
        parts = self._parts(body, place, ROUTE, ("router", "arms"), ("version", "policy"))
        route = read_route(self.document, parts, place)
        told: dict[str, Json] = {key: parts[key] for key in ("router", "policy") if key in parts}
        self._add(StepSpec(path, route, {ROUTE: told}, place), heads)
        arms = parts["arms"]
        assert isinstance(arms, dict), "read_route checks it"
        ends: list[Head] = []
        normal: dict[str, list[Json]] = {}
        for position, (name, steps) in enumerate(arms.items()):
            at, here = (*place, "arms", name), f"{path}/{name}"
            if "/" in name or not name:
                raise self.document.error(at, f"an arm cannot be called `{name}`; leave out the `/`")
            # An arm of one step needs no list of its own.
            block: Json = steps if isinstance(steps, list) else [steps]
            first = Head(path, arm=name, fallback=position == 0)
            normal[name], arm_ends = self._block(block, at, here, [first])
            check_arm(self.document, route, name, normal[name], self.models, here, at)
            ends += arm_ends
        return written(route, normal), self._add(StepSpec(f"{path}/{JOIN}", Join(Join.Params()), JOIN, place), ends)

    def _parallel(self, branches: Json, place: Place, path: str, heads: list[Head]) -> tuple[Json, list[Head]]:
        if not isinstance(branches, list) or len(branches) < 2:
            told = "one branch" if isinstance(branches, list) and branches else shown(branches)
            raise self.document.error(place, f"`parallel` must be a list of at least two branches, not {told}")
        ends: list[Head] = []
        normal: list[Json] = []
        for position, branch in enumerate(branches):
            at = (*place, position)
            # A branch of one step needs no list of its own.
            here = f"{path}/{position}"
            items: list[Item] = self._items(branch, at, here) if isinstance(branch, list) else [(branch, at)]
            if not items and not heads:
                raise self.document.error(at, "an empty branch has nothing to pass on at the start of a pipeline")
            written, branch_ends = self._sequence(items, here, heads)
            normal.append(list(written))
            ends += [end for end in branch_ends if end not in ends]
        return {PARALLEL: normal}, ends

    def _when(self, body: Json, place: Place, path: str, heads: list[Head]) -> tuple[Json, list[Head]]:
        parts = self._parts(body, place, WHEN, ("if", "then"), ("else",))
        if len(heads) != 1 or heads[0].when is not None or heads[0].arm is not None:
            raise self.document.error(
                place, "`when` must follow exactly one step, whose candidates it looks at; put a step before it"
            )
        condition = self._condition(parts["if"], (*place, "if"), "if")
        then, ends = self._block(parts["then"], (*place, "then"), f"{path}/then", [Head(heads[0].path, condition)])
        normal: dict[str, Json] = {"if": condition.text, "then": then}
        if "else" not in parts:
            return {WHEN: normal}, [*ends, heads[0]]
        normal["else"], others = self._block(parts["else"], (*place, "else"), f"{path}/else", heads)
        return {WHEN: normal}, [*ends, *others]

    def _loop(self, body: Json, place: Place, path: str, heads: list[Head]) -> tuple[Json, list[Head]]:
        parts = self._parts(body, place, LOOP, ("do", "at_most"), ("until",))
        at_most = parts["at_most"]
        if isinstance(at_most, bool) or not isinstance(at_most, int) or not 2 <= at_most <= MAX_AT_MOST:
            raise self.document.error(
                (*place, "at_most"), f"`at_most` must be a whole number from 2 to {MAX_AT_MOST}, not {shown(at_most)}"
            )
        until = self._condition(parts["until"], (*place, "until"), "until") if "until" in parts else None
        again = None
        if until is not None:
            again = until.opposite()
            if again is None:
                raise self.document.error(
                    (*place, "until"), f"`until` cannot be `{until.text}`; use <, <=, > or >= instead of =="
                )
        first = len(self.steps)
        do, ends = self._block(parts["do"], (*place, "do"), f"{path}/do", heads)
        if self.steps[first].path != f"{path}/do/0" or len(ends) != 1 or ends[0].when is not None:
            raise self.document.error(
                (*place, "do"), "`do` must begin and end with a single step; put control forms between two steps"
            )
        self.edges.append(Edge(ends[0].path, self.steps[first].path, again, at_most - 1, place))
        normal: dict[str, Json] = {"do": do}
        if until is not None:
            normal["until"] = until.text
        return {LOOP: {**normal, "at_most": at_most}}, ends

    def _block(self, value: Json, place: Place, path: str, heads: list[Head]) -> tuple[list[Json], list[Head]]:
        if not isinstance(value, list) or not value:
            raise self.document.error(place, f"must be a list with at least one step, not {shown(value)}")
        return self._sequence(self._items(value, place, path), path, heads)

    def _parts(
        self, body: Json, place: Place, form: str, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, Json]:
        """The parts of a control form, none missing and none unknown."""
        known = (*required, *optional)
        if not isinstance(body, dict):
            raise self.document.error(place, f"`{form}` must be a mapping with {', '.join(known)}, not {shown(body)}")
        for key in body:
            if key not in known:
                near = nearest(key, known)
                rest = "" if near else f"; `{form}` has {', '.join(known)}"
                raise self.document.error((*place, key), f"unknown key `{key}`{rest}", near)
        for key in required:
            if key not in body:
                raise self.document.error(place, f"`{form}` has no `{key}`")
        return body

    def _condition(self, value: Json, place: Place, key: str) -> Condition:
        return read_condition(self.document, value, place, key)


def read_condition(document: Document, value: Json, place: Place, key: str) -> Condition:
    """A condition as a document writes it.

    Raises:
        SpecError: It is none.
    """
    if not isinstance(value, str):
        raise document.error(place, f"`{key}` must be a condition such as `agreement < 0.5`, not {shown(value)}")
    try:
        return parse_condition(value)
    except SpecError as error:
        raise document.error(place, error.message, error.suggestion) from None


def read_step(document: Document, raw: Json, path: str, place: Place, models: Mapping[str, object]) -> StepSpec:
    """One step, in any of its forms, as a node.

    Raises:
        SpecError: No such node, a wrong parameter, or a model that the pipeline does not name.
    """
    if isinstance(raw, str):
        name, body, at = raw, None, place
    elif isinstance(raw, dict) and len(raw) == 1:
        name, body = next(iter(raw.items()))
        at = (*place, name)
    elif isinstance(raw, dict) and raw:
        first = next(iter(raw))
        raise document.error(
            place,
            f"a step must be one node, not {len(raw)} keys ({', '.join(raw)}); indent the parameters under `{first}`",
        )
    else:
        raise document.error(place, f"a step must be `name` or `{{name: {{parameter: value}}}}`, not {shown(raw)}")
    try:
        kind = NODES.get(name)
    except UnknownNameError as error:
        raise document.error(place, error.message, error.suggestion) from None
    params, written = parse_params(document, kind, body, at, models)
    try:
        node = kind(params)
    except UserError as error:
        raise document.error(at, error.message, error.suggestion) from None
    return StepSpec(path, node, {name: written} if written else name, place)


def kind_of(value: Json) -> str:
    """What a value is, in words."""
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "nothing")


def shown(value: Json) -> str:
    """A value as an error shows it."""
    if isinstance(value, dict | list):
        return f"an empty {'list' if isinstance(value, list) else 'mapping'}" if not value else kind_of(value)
    if value is None:
        return "nothing"
    text = f"`{value}`" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
