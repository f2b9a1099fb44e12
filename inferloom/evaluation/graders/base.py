"""What a grader is, and how one is made from what YAML says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from inferloom.core.errors import SpecError, nearest
from inferloom.core.registry import Registry
from inferloom.evaluation.item import Item

if TYPE_CHECKING:
    from inferloom.evaluation.asking import Bench

GraderSpec: TypeAlias = str | dict[str, dict[str, JsonValue]]
"""A grader as YAML writes it: its name, or `{name: {parameter: value}}`."""


class GraderParams(BaseModel):
    """The parameters of a grader."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Grader(ABC):
    """Judges answers, one at a time. Immutable; the same answer always gets the same grade."""

    name: ClassVar[str]
    """Set by `register_grader`."""
    Params: ClassVar[type[GraderParams]] = GraderParams
    needs_answer: ClassVar[bool] = True
    """Whether an item must come with its right answer."""
    asks_models: ClassVar[bool] = False
    """Whether it asks a model; it then grades only through `attached`."""

    def __init__(self, params: GraderParams | None = None) -> None:
        self.params = self.Params() if params is None else params

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded ("the answer `x` is not a number"), or None."""
        return None

    @abstractmethod
    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right).

        Args:
            item: What was asked.
            answer: The final answer that the pipeline gave; None where it gave none.
            text: The full text that the answer was found in. Both are written by a model: anything may be in them.
        """

    async def agrade(self, item: Item, answer: str | None, text: str) -> float:
        """The grade, for graders that wait for something; all others give that of `grade`."""
        return self.grade(item, answer, text)

    def attached(self, bench: Bench) -> Grader:
        """The grader with what it needs of an evaluation; most need nothing.

        Raises:
            SetupError: It would ask a model that it grades.
        """
        return self


GRADERS: Registry[type[Grader]] = Registry("grader", "inferloom.evaluation.graders")

G = TypeVar("G", bound=type[Grader])


def register_grader(name: str) -> Callable[[G], G]:
    """Register a grader class under the name that YAML uses."""

    def add(grader: G) -> G:
        grader.name = name
        GRADERS.register(name)(grader)
        return grader

    return add


def make_grader(spec: str | Mapping[str, Mapping[str, JsonValue]], *, where: str | None = None) -> Grader:
    """The grader that a spec names: `"exact"` or `{"numeric": {"tolerance": 0.01}}`.

    Raises:
        UnknownNameError: No grader has this name.
        SpecError: A parameter is unknown, missing or out of range.
    """
    if isinstance(spec, str):
        name, values = spec, dict[str, object]()
    elif len(spec) == 1:
        name, given = next(iter(spec.items()))
        values = dict(given or {})
    else:
        raise SpecError("a grader is a name or one `name: {parameters}`", where=where)
    kind = GRADERS.get(name, where=where)
    try:
        return kind(kind.Params.model_validate(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        known = list(kind.Params.model_fields)
        unknown = first["type"] == "extra_forbidden"
        legal = f"; its parameters are {', '.join(f'`{k}`' for k in known)}" if known else "; it has no parameters"
        problem = f"unknown parameter `{field}`{legal}" if unknown else f"`{field}`: {first['msg'].lower()}"
        raise SpecError(
            f"grader `{name}`: {problem}", where=where, suggestion=nearest(field, known) if unknown else None
        ) from None
