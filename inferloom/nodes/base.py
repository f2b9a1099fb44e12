"""What a node is: one technique with validated parameters, composition rules and predicted calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from inferloom.core.protocols import NodeContext
from inferloom.core.registry import Registry
from inferloom.core.types import Json, NodeOutput, NodeState

Thing = Literal["candidates", "scores", "critiques", "tests", "notes", "examples", "one"]
"""What nodes pass on. `one`: exactly one candidate, an answer."""


class Params(BaseModel):
    """The parameters of a node; a field's description and bounds are its documentation and its legal range.

    `json_schema_extra={"search": [...]}` on a field names the values a search tries where a space does not say;
    `json_schema_extra={"model": True}` marks a field that names a model of the pipeline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyParams: TypeAlias = Params  # inside `Node`, the name `Params` is the class variable


class Node(ABC):
    """One technique. An instance is immutable and serves many runs at once."""

    name: ClassVar[str]
    """Set by `register_node`."""
    Params: ClassVar[type[Params]]
    paper: ClassVar[str] = ""
    """The paper that the technique follows, or empty."""
    static: ClassVar[bool] = True
    """Whether the least and the most calls are the same."""
    oracle: ClassVar[bool] = False
    """Whether it looks at the right answer: its results are bounds, never compared with the rest."""

    def __init__(self, params: AnyParams) -> None:
        self.params = params

    @classmethod
    @abstractmethod
    def example(cls) -> dict[str, Json]:
        """Parameters that show the node at work, with models named `small` and `large`; docs and tests use them."""

    @property
    def requires(self) -> frozenset[Thing]:
        """What must be there before the node; may depend on the parameters."""
        return frozenset()

    @property
    @abstractmethod
    def provides(self) -> frozenset[Thing]:
        """What is there after it."""

    @property
    def drops(self) -> frozenset[Thing]:
        """What is no longer there after it: a node that writes new candidates drops scores and critiques."""
        return frozenset()

    @property
    def model_names(self) -> tuple[str, ...]:
        """The pipeline's models that the node calls, in order."""
        return tuple(name for _, name in _models_of(self.params))

    @property
    def roles(self) -> frozenset[str]:
        """The roles of the prompt pack that it speaks; a pipeline whose pack lacks one is refused."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that each of its models must have (names of `Capabilities` fields)."""
        return frozenset()

    @abstractmethod
    def calls(self, candidates: int) -> tuple[int, int]:
        """The least and the most completions it draws when `candidates` come in."""

    def candidates_out(self, candidates: int) -> int:
        """The most candidates it hands on when `candidates` come in."""
        return candidates

    @abstractmethod
    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        """Apply the technique.

        Raises:
            BudgetExceededError: Passed through from the context where nothing was received. A node that received
                something hands it on and sets `NodeOutput.stopped` instead.
        """


def _models_of(params: Params) -> Iterator[tuple[str, str]]:
    """(field, model name) for every field marked as naming a model."""
    for field, info in type(params).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("model"):
            value = getattr(params, field)
            for name in value if isinstance(value, list | tuple) else [value]:
                if name is not None:
                    yield field, str(name)


NODES: Registry[type[Node]] = Registry("node", "inferloom.nodes")


N = TypeVar("N", bound=type[Node])


def register_node(name: str) -> Callable[[N], N]:
    """Register a node class under the name that YAML uses."""

    def add(node: N) -> N:
        node.name = name
        NODES.register(name)(node)
        return node

    return add
