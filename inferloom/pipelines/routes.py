"""`route` among the steps: one of several pipelines, chosen for each question by a learned router.

A route is a step that chooses, the arms' steps, and a step in which the arms come together. Of the arms one runs; the
choice stands in the run's records before anything is called. The router in its folder must know these arms, each by the
name that it has here, and have learned them on the steps that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from inferloom.core.errors import SpecError, UserError, nearest
from inferloom.core.protocols import NodeContext
from inferloom.core.routing import Card, open_router
from inferloom.core.types import Json, NodeOutput, NodeState
from inferloom.models.spec import ModelSpec
from inferloom.nodes.base import Node, Params, Thing
from inferloom.pipelines.document import Document, Place, content_hash
from inferloom.pipelines.graph import JOIN
from inferloom.pipelines.subpipeline import renamed

ROUTE = "route"


class RouteParams(Params):
    """What a route was told beside its arms."""

    router: str
    version: str


class _Passing(Node):
    """Hands candidates on as they are and calls nothing. Not to be had but by the form `route`."""

    @classmethod
    def example(cls) -> dict[str, Json]:
        """None: it never stands alone."""
        return {}

    @property
    def provides(self) -> frozenset[Thing]:
        """Nothing."""
        return frozenset()

    def calls(self, candidates: int) -> tuple[int, int]:
        """None."""
        return 0, 0


class Route(_Passing):
    """Chooses one of the arms that follow it."""

    name = ROUTE
    Params = RouteParams

    params: RouteParams

    def __init__(self, params: RouteParams, card: Card, policy: Mapping[str, Json]) -> None:
        super().__init__(params)
        self.card = card
        self.policy = policy

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        """Choose."""
        choice = self.card.choose(state.question, self.policy, context.rng)
        told: dict[str, Json] = {**asdict(choice), "reasons": dict(choice.reasons)}
        context.emit(ROUTE, told)
        return NodeOutput(choice=choice)


class Join(_Passing):
    """Where the arms of a route come together."""

    name = JOIN
    Params = Params

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        """Change nothing."""
        return NodeOutput()


def read_route(document: Document, parts: Mapping[str, Json], place: Place) -> Route:
    """The step that chooses, from the parts of the form.

    Raises:
        SpecError: There is no such router, it is corrupt or of another version, the policy is none, or the router knows
            other arms.
    """
    source = parts["router"]
    if not isinstance(source, str) or not source:
        raise document.error((*place, "router"), "`router` must be the folder of a router, such as `./router`")
    folder = (document.path.parent if document.path else Path()) / source
    try:
        card = open_router(folder)
    except UserError as error:
        raise document.error((*place, "router"), error.message, error.suggestion) from None
    version = parts.get("version", card.version)
    if version != card.version:
        raise document.error(
            (*place, "version"),
            f"the router in `{source}` is version {card.version}, but this pipeline is written for version {version};"
            " put that one there, or take `version` away",
        )
    policy = parts.get("policy", {})
    if not isinstance(policy, dict):
        raise document.error((*place, "policy"), "`policy` must be a mapping, such as `{price: 0.1}`")
    try:
        card.check_policy(policy)
    except UserError as error:
        raise document.error((*place, "policy"), error.message, error.suggestion) from None
    _check_names(document, parts["arms"], card, source, (*place, "arms"))
    return Route(RouteParams(router=source, version=card.version), card, policy)


def _check_names(document: Document, arms: Json, card: Card, source: str, place: Place) -> None:
    if not isinstance(arms, dict) or len(arms) < 2:
        raise document.error(
            place, "`arms` must be a mapping of at least two arms to their steps; with one there is nothing to choose"
        )
    for name in arms:
        if name not in card.arms:
            near = nearest(name, card.arms)
            rest = "" if near else f"; its arms are {', '.join(card.arms)}"
            raise document.error((*place, name), f"the router in `{source}` knows no arm `{name}`{rest}", near)
    for name in card.arms:
        if name not in arms:
            raise document.error(
                place, f"the router in `{source}` may choose the arm `{name}`, which this pipeline has not; add it"
            )


def check_arm(
    document: Document,
    route: Route,
    arm: str,
    steps: Sequence[Json],
    models: Mapping[str, ModelSpec],
    path: str,
    place: Place,
) -> None:
    """Refuse an arm whose steps are not those that the router learned it on.

    Args:
        document: The pipeline.
        route: The step that chooses.
        arm: The arm's name.
        steps: Its steps in normal form.
        models: The pipeline's models.
        path: The path of the arm's list of steps.
        place: Where it stands.

    Raises:
        SpecError: They differ.
    """
    learned = route.card.arms[arm]
    if learned is None:
        return
    if identity(steps, models, path) != _learned_identity(learned):
        raise document.error(
            place,
            f"the router was trained on another pipeline under the name `{arm}` than the steps that stand here;"
            " use the pipeline that it was trained on, or train it on this one",
        )


def identity(steps: Sequence[Json], models: Mapping[str, ModelSpec], path: str) -> str:
    """What steps do, whatever their models are called and wherever in a pipeline they stand."""
    names = {name: spec.model_dump_json() for name, spec in models.items()}

    def moved(step: str) -> str:
        return f"steps{step.removeprefix(path)}" if step.startswith(f"{path}/") else step

    return content_hash([renamed(step, names.__getitem__, moved, str) for step in steps])


@cache
def _learned_identity(text: str) -> str | None:
    """The identity of an arm as a router keeps it; None where it is not written with `steps`."""
    from inferloom.pipelines.spec import PipelineSpec

    try:
        spec = PipelineSpec.parse(text, "an arm of the router")
    except SpecError:
        return None
    steps = spec.to_data().get("steps")
    return identity(steps, spec.models, "steps") if isinstance(steps, list) else None


def written(route: Route, arms: Mapping[str, Sequence[Json]]) -> Json:
    """The form in its normal form. It names the version, since another router is another pipeline."""
    body: dict[str, Json] = {"router": route.params.router, "version": route.params.version}
    if route.policy:
        body["policy"] = dict(route.policy)
    return {ROUTE: {**body, "arms": {name: list(steps) for name, steps in arms.items()}}}
