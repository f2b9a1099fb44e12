"""A Python function as a grader; made in code only, since YAML never names code to import."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from inferloom.core.errors import DataError, SetupError, SpecError
from inferloom.evaluation.graders.base import Grader, GraderParams, register_grader
from inferloom.evaluation.item import Item


@register_grader("callable")
class CallableGrader(Grader):
    """The grade that a function of yours gives.

    Args:
        function: `(item, answer, text) -> float` from 0 to 1 (or bool), or its place as `"module:function"`.

    Raises:
        SetupError: The place names nothing that can be called.
        SpecError: It was asked for by name, as YAML would.
    """

    needs_answer = False

    def __init__(self, function: Callable[[Item, str | None, str], float] | str | GraderParams) -> None:
        if isinstance(function, GraderParams):
            raise SpecError("the grader `callable` is made in Python: pass `CallableGrader(function)` as the grader")
        super().__init__()
        self.function = _found(function) if isinstance(function, str) else function

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """The function's grade.

        Raises:
            DataError: The function failed, or gave something other than a number from 0 to 1.
        """
        try:
            grade = float(self.function(item, answer, text))
        except Exception as error:  # the user's code may raise anything; it becomes one sentence that names the item
            raise DataError(
                f"the grader function failed on item `{item.id}`: {type(error).__name__}: {error}"
            ) from error
        if math.isnan(grade) or not 0 <= grade <= 1:
            raise DataError(f"the grader function gave {grade:g} for item `{item.id}`; a grade is from 0 to 1")
        return grade


def _found(place: str) -> Callable[[Item, str | None, str], float]:
    module, _, name = place.partition(":")
    try:
        function: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(f"the grader function `{place}` was not found: {error}; write `module:function`") from None
    if not callable(function):
        raise SetupError(f"the grader function `{place}` is not something that can be called")
    return function
