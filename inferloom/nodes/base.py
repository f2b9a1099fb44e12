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


Mark = Literal["model", "path"]
"""What a marked parameter names."""


class Params(BaseModel):
    """The parameters of a node; a field's description and bounds are its documentation and its legal range.

    `json_schema_extra={"search": [...]}` on a field names the values a search tries where a space does not say;
    `{"model": True}` there marks a field that names a model of the pipeline, `{"path": True}` one that names a step by
    its path, such as `steps/0`.
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
    offers_tools: ClassVar[bool] = False
    """Whether its models may call the tools of `NodeState.tools`; a node that writes answers and does not is refused
    where there are some."""

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
    def scores_out(self) -> frozenset[str]:
        """The names of the scores that it provides; where it provides scores and names none, they may be any."""
        return frozenset()

    @property
    def scores_in(self) -> frozenset[str]:
        """The names of the scores that it reads and that every candidate must have."""
        return frozenset()

    @property
    def model_names(self) -> tuple[str, ...]:
        """The pipeline's models that the node calls, in order."""
        return tuple(name for _, name in _marked(self.params, "model"))

    @property
    def paths(self) -> tuple[tuple[str, str], ...]:
        """(parameter, path) for every step that a parameter names."""
        return tuple(_marked(self.params, "path"))

    @property
    def oracle(self) -> bool:
        """Whether it looks at the right answer: its results are bounds, never compared with the rest."""
        return False

    @property
    def live(self) -> bool:
        """Whether it makes one completion, whose text as it comes is the text of the first candidate it hands on.

        Where it adds to the candidates that come in, this is meant of a node to which none come.
        """
        return False

    @property
    def roles(self) -> frozenset[str]:
        """The roles of the prompt pack that it speaks; a pipeline whose pack lacks one is refused."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that each of its models must have (names of `Capabilities` fields)."""
        return frozenset()

    def needs_of(self, model: str) -> frozenset[str]:
        """Capabilities that one of its models must have; override where its models do different things."""
        return self.needs

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


def marked_fields(kind: type[Params], mark: Mark) -> list[str]:
    """The fields that carry a mark."""
    extras = {field: info.json_schema_extra for field, info in kind.model_fields.items()}
    return [field for field, extra in extras.items() if isinstance(extra, dict) and extra.get(mark)]


def _marked(params: Params, mark: Mark) -> Iterator[tuple[str, str]]:
    """(field, name) for every name in the fields that carry a mark."""
    for field in marked_fields(type(params), mark):
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
