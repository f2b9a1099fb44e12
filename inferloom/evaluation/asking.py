"""Graders that ask a model: how they reach it, and what keeps them apart from what they grade.

Each question is a run of its own: it stands in the database under the evaluation's study and item with the tag
`grader`, its calls are in the ledger, and limits on what may be billed hold for it. It never counts to the usage of the
pipeline that is graded. Verdicts are drawn from a stream that depends on the item alone, so the same answer to an item
gets its verdict from the bank the second time, and the same one.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Unpack

from pydantic import Field, JsonValue, field_validator

from inferloom.core.errors import ModelError, SetupError, UserError
from inferloom.core.types import Json, Usage
from inferloom.evaluation.graders.base import Grader, GraderParams
from inferloom.evaluation.item import Item
from inferloom.models.spec import ModelSpec

if TYPE_CHECKING:
    from inferloom.pipelines.run import RunOptions, RunResult
    from inferloom.pipelines.spec import PipelineSpec

TAG = "grader"
"""The tag of the runs in which a grader asks its model."""


class Hashed(Protocol):
    """A specification with its content hash."""

    @property
    def hash(self) -> str:
        """Hex digits that stand for the specification."""
        ...

    @property
    def uses_oracle(self) -> bool:
        """Whether a node looks at the right answer."""
        ...


class Answers(Protocol):
    """A pipeline, as far as an evaluation needs it."""

    @property
    def spec(self) -> Hashed:
        """What the pipeline is."""
        ...

    async def ainvoke(self, question: str, **options: Unpack[RunOptions]) -> RunResult:
        """Answer one question."""
        ...


@dataclass(slots=True)
class Grading:
    """What the graders of one evaluation asked for."""

    runs: int = 0
    unread: int = 0
    """Replies without a verdict."""
    nominal: Usage = field(default_factory=Usage)
    billed: Usage = field(default_factory=Usage)

    def to_json(self) -> dict[str, Json]:
        """The figures as plain JSON."""
        return {
            "runs": self.runs,
            "unread": self.unread,
            "usage": dict(self.nominal.to_json()),
            "billed": dict(self.billed.to_json()),
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What an evaluation gives to a grader that asks a model."""

    open: Callable[[PipelineSpec], Answers]
    """Makes a pipeline that runs like the one that is graded: same database, same limits."""
    arm: Hashed
    """The specification of the pipeline that is graded."""
    study: str | None = None
    grading: Grading = field(default_factory=Grading)


class ModelGraderParams(GraderParams):
    """The model that grades, and how it is asked."""

    model: str | dict[str, JsonValue] = Field(
        description="the model that grades, as a pipeline's `models` would say it"
    )
    same_model: bool = Field(False, description="let a model grade its own answers")
    field: Literal["answer", "text"] = Field(
        "answer", description="what it is shown: the final answer or the full text"
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="the longest reply, in tokens")

    @field_validator("model")
    @classmethod
    def _is_one(cls, model: str | dict[str, JsonValue]) -> str | dict[str, JsonValue]:
        try:
            ModelSpec.parse(model)
        except UserError as error:
            raise ValueError(error.sentence) from None
        return model


class ModelGrader(Grader):
    """A grader that asks a model for a verdict. Subclasses say what, and what it is worth."""

    Params = ModelGraderParams
    params: ModelGraderParams
    asks_models = True
    system: ClassVar[str]
    """What the model is told that it does."""
    _bench: Bench | None = None
    _judge: Answers | None = None

    def attached(self, bench: Bench) -> ModelGrader:
        """The grader, ready to ask.

        Raises:
            SetupError: The pipeline to be graded uses the model that would grade it.
        """
        from inferloom.pipelines.spec import PipelineSpec

        model = ModelSpec.parse(self.params.model)
        if isinstance(bench.arm, PipelineSpec) and not self.params.same_model:
            for step in bench.arm.steps:
                for name in step.node.model_names:
                    used = bench.arm.models[name]
                    if (used.model, used.base_url) == (model.model, model.base_url):
                        raise SetupError(
                            f"the grader `{self.name}` would ask `{model.model}`, which is the model `{name}` of the"
                            " pipeline that it grades; name another, or allow it with `same_model: true`"
                        )
        sample: dict[str, Json] = {
            "model": "grader",
            "temperature": 0.0,
            "max_tokens": self.params.max_tokens,
            "system": self.system,
        }
        models: dict[str, Json] = {"grader": model.to_yaml()}
        spec = PipelineSpec.from_data({"models": models, "steps": [{"sample": sample}]}, f"grader {self.name}")
        ready = copy.copy(self)
        ready._bench, ready._judge = bench, bench.open(spec)
        return ready

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """Not possible without waiting.

        Raises:
            SetupError: Always.
        """
        raise SetupError(f"the grader `{self.name}` asks a model; it grades in evaluations only (`agrade`)")

    async def agrade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right).

        Raises:
            ModelError: The model failed.
        """
        shown = answer if self.params.field == "answer" else text
        return await self.verdict(item, shown) if shown is not None and shown.strip() else 0.0

    @abstractmethod
    async def verdict(self, item: Item, shown: str) -> float:
        """The grade of what the item's answer is."""

    async def _ask(self, item: Item, prompt: str, verdicts: Sequence[str]) -> str | None:
        """The one of `verdicts` that the model gives; None where its reply has none of them.

        Raises:
            ModelError: The model failed.
            SetupError: The grader is attached to no evaluation.
        """
        bench, judge = self._bench, self._judge
        if bench is None or judge is None:
            raise SetupError(f"the grader `{self.name}` asks a model; it grades in evaluations only")
        run = await judge.ainvoke(prompt, stream=f"{TAG}/{item.id}", study=bench.study, item=item.id, tag=TAG)
        grading = bench.grading
        grading.runs += 1
        grading.nominal += run.usage
        grading.billed += run.billed
        if run.stopped:
            raise ModelError(f"the grader `{self.name}` was stopped ({run.stopped}) before it gave a verdict")
        said = (run.answer or run.text).strip(" \t\n\r.:!*`'\"[]()").casefold()
        found = next((verdict for verdict in verdicts if verdict.casefold() == said), None)
        grading.unread += found is None
        return found
