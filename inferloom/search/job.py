"""A search job: what to search, on which data, for which objectives, and within which limits. One YAML file.

name: demo
space: {models: ..., steps: ...}     # a pipeline with holes, or the path of a file with one
data: {procedural: pocket}
split: {dev: 60, confirm: 40, test: 200}
objectives: [quality, tokens]
trials: 24
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from inferloom.core.errors import SpecError, nearest
from inferloom.core.types import Json
from inferloom.evaluation.data import DataSpec
from inferloom.evaluation.splits import SplitSpec
from inferloom.models.budget import Budget
from inferloom.pipelines.document import Document, Place, content_hash, dump, load_document
from inferloom.search.aim import Aim, Measure
from inferloom.search.samplers import SAMPLERS
from inferloom.search.space import Check, Space, shipped_document, space_document

Objective: TypeAlias = Literal["quality", "tokens", "calls", "usd", "seconds"]

_ORIGIN = "origin"
"""Beside the fields of a stored job: where it came from. No field of a job has this name."""

JOBS = Path(__file__).parent / "jobs"
"""The jobs that come along; each is known by its file's stem."""


class MaxBilled(BaseModel):
    """The most that a search may really spend, over all its calls together. What the bank holds is free."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)

    def budget(self) -> Budget:
        """The same as the client's limits."""
        return Budget(calls=self.calls, tokens=self.tokens, usd=self.usd)


class JobSpec(BaseModel):
    """The fields of a job, but for its space."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        default=None, min_length=1, description="the study's name unless the command gives another"
    )
    data: DataSpec
    split: SplitSpec = Field(default_factory=lambda: SplitSpec.model_validate({}))
    objectives: tuple[Objective, ...] = Field(
        default=("quality",), description="`quality`, and at most two costs to keep low"
    )
    utility: dict[Measure, float] = Field(
        default_factory=dict, description="one objective instead: quality less so much for each unit of these costs"
    )
    constraints: dict[Measure, float] = Field(
        default_factory=dict, description="the most that an item may cost on average; a winner keeps all of these"
    )
    trials: int = Field(default=32, ge=1, le=100_000)
    batch: int = Field(
        default=8, ge=1, le=1024, description="trials that run side by side and know nothing of one another"
    )
    sampler: str = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**31)
    concurrency: int = Field(default=64, ge=1, le=4096, description="items that are answered at once, over all trials")
    memory: Literal["frozen", "online"] = Field(
        default="frozen",
        description="`frozen`: memories are read as they were when the study began; `online`: every trial learns on a"
        " fork of its own, one item after the other",
    )
    warm_start: tuple[str, ...] = Field(
        default=(), description="earlier studies of this database whose best points are tried first"
    )
    racing: bool = Field(default=True, description="stop trials early that are shown to be beaten")
    finalists: int = Field(default=4, ge=1, le=64, description="the best on dev, compared afresh on the confirm split")
    max_billed: MaxBilled = Field(default_factory=MaxBilled)
    baselines: Literal["auto", "none"] = Field(
        default="auto", description="`auto`: each model alone, self-consistency and best-of-n at the winner's tokens"
    )

    @field_validator("objectives")
    @classmethod
    def _one_quality(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not value or value[0] != "quality" or len(value) > 3 or len(set(value)) < len(value):
            raise ValueError("`quality` must come first, and at most two costs after it, as in [quality, tokens]")
        return value

    @field_validator("utility", "constraints")
    @classmethod
    def _above_zero(cls, value: dict[Measure, float]) -> dict[Measure, float]:
        low = next((name for name, number in value.items() if not 0 < number < math.inf), None)
        if low is not None:
            raise ValueError(f"`{low}` is {value[low]:g}; must be a number above 0")
        return value

    @model_validator(mode="after")
    def _one_aim(self) -> JobSpec:
        if self.utility and len(self.objectives) > 1:
            raise ValueError("`utility` makes one objective of quality and costs; leave `objectives` out beside it")
        return self


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """A job that has been read and checked."""

    spec: JobSpec
    space: Space
    document: Document

    @classmethod
    def load(cls, source: Document | Path | str, *, check: Check | None = None) -> SearchJob:
        """Read a job from a document, a file (`Path`) or text (`str`).

        Raises:
            SpecError: A field is wrong; `where` says file, line and field.
            UnknownNameError: There is no such sampler.
        """
        document = source if isinstance(source, Document) else load_document(source)
        data = document.data
        if not isinstance(data, dict):
            raise document.error((), "a search job must be a mapping with `space` and `data`")
        if "space" not in data:
            raise document.error(
                (), "the field `space` is missing: a pipeline with holes, or the path of a file with one"
            )
        try:
            spec = JobSpec.model_validate({key: value for key, value in data.items() if key != "space"})
        except ValidationError as error:
            raise _explained(document, error) from None
        SAMPLERS.get(spec.sampler, where=f"{document.where(('sampler',))}: sampler")
        return cls(spec=spec, space=Space(space_document(document, data["space"]), check=check), document=document)

    @property
    def name(self) -> str:
        """The study's name where nobody gives another."""
        return self.spec.name or (self.document.path.stem if self.document.path else "search")

    @property
    def base(self) -> Path:
        """The folder that the job's data file is relative to."""
        return self.document.path.parent if self.document.path else Path()

    @property
    def aim(self) -> Aim:
        """What is better."""
        costs = cast("tuple[Measure, ...]", self.spec.objectives[1:])
        return Aim(costs, self.spec.utility, self.spec.constraints)

    @property
    def startup(self) -> int:
        """Trials drawn at random before a sampler starts to model.

        By the batch, whose first knows of no result anyway, and not by `trials`: a study that is given more trials
        later must be the one that had them from the start.
        """
        return max(4, min(10, self.spec.batch))

    def to_data(self) -> dict[str, Json]:
        """The job as plain data, its space inline."""
        fields = cast("dict[str, Json]", self.spec.model_dump(mode="json", exclude_unset=True))
        return {**fields, "space": self.space.document.data}

    def to_yaml(self) -> str:
        """The job as one YAML document."""
        return dump(self.to_data())

    def with_trials(self, trials: int) -> SearchJob:
        """The same job with another number of trials."""
        return replace(self, spec=self.spec.model_copy(update={"trials": trials}))

    def to_stored(self, data_hash: str) -> str:
        """The job as a study's row keeps it, with the files that its paths are relative to and its data's hash."""
        origin: dict[str, Json] = {
            "file": _absolute(self.document.path),
            "space_file": _absolute(self.space.document.path),
            "data_hash": data_hash,
        }
        return json.dumps({**self.to_data(), _ORIGIN: origin}, ensure_ascii=False)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Json], study: str) -> SearchJob:
        """The reverse of `to_stored`; the job's file is not read again.

        Raises:
            SpecError, UnknownNameError: As `load`, where this version does not know what an older one wrote.
        """
        data = {key: value for key, value in stored.items() if key != _ORIGIN}
        job, space = (_path(stored, name) for name in ("file", "space_file"))
        loaded = cls.load(Document(data=data, name=f"study {study}", lines={}, path=job))
        if space == job:
            return loaded
        document = Document(data=data["space"], name=f"study {study}", lines={}, path=space)
        return replace(loaded, space=Space(document))

    def identity(self, data_hash: str) -> str:
        """The hash of all that decides the trials and their scores, one by one.

        Name, concurrency and limits do not, nor does the number of trials: the first of them are the same ones.
        """
        aside = {"name", "concurrency", "max_billed", "trials"}
        # A field that came later does not make another job of one that has nothing in it.
        aside |= {name for name in ("utility", "constraints", "warm_start") if not getattr(self.spec, name)}
        fields = cast("dict[str, Json]", self.spec.model_dump(mode="json", exclude=aside))
        return content_hash({**fields, "data": data_hash, "space": self.space.document.data})


def load_job(source: str | Path) -> SearchJob:
    """A job by the path of its file, or by the name of one that comes along (`demo`).

    Raises:
        SpecError: There is no such job, or it is wrong.
    """
    return SearchJob.load(shipped_document(source, JOBS, "search job"))


def stored_trials(stored: Mapping[str, Json]) -> int:
    """How many trials a stored job asks for."""
    trials = stored.get("trials", JobSpec.model_fields["trials"].default)
    return int(cast(int, trials))


def stored_data_hash(stored: Mapping[str, Json]) -> str | None:
    """What stands for the items and the grading of a stored job; None where an older version wrote it."""
    found = _origin(stored).get("data_hash")
    return None if found is None else str(found)


def _origin(stored: Mapping[str, Json]) -> Mapping[str, Json]:
    origin = stored.get(_ORIGIN)
    return origin if isinstance(origin, dict) else {}


def _path(stored: Mapping[str, Json], name: str) -> Path | None:
    found = _origin(stored).get(name)
    return None if found is None else Path(str(found))


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _explained(document: Document, error: ValidationError) -> SpecError:
    """The first mistake as one sentence with its place."""
    first = error.errors()[0]
    place: Place = tuple(part for part in first["loc"] if _is_there(document.data, part, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = _fields(first["loc"][:-1])
        name = str(first["loc"][-1])
        near = nearest(name, known)
        rest = "" if near or not known else f"; the fields are {', '.join(sorted(known))}"
        return document.error(tuple(first["loc"]), f"unknown field `{name}`{rest}", near)
    if first["type"] == "missing":
        return document.error(tuple(first["loc"][:-1]), f"the field `{first['loc'][-1]}` is missing")
    return document.error(place, _message(first), _near_option(first))


def _is_there(data: Json, part: int | str, loc: tuple[int | str, ...]) -> bool:
    """Whether a part of pydantic's location is a key of the document and not the name of a type that it tried."""
    for step in loc:
        if isinstance(data, Mapping) and step in data:
            if step == part:
                return True
            data = data[str(step)]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            if step == part:
                return True
            data = data[step]
    return False


def _fields(loc: tuple[int | str, ...]) -> list[str]:
    kinds: dict[tuple[int | str, ...], type[BaseModel]] = {
        ("data",): DataSpec,
        ("split",): SplitSpec,
        ("max_billed",): MaxBilled,
    }
    if not loc:
        return [*JobSpec.model_fields, "space"]
    return list(kinds[loc].model_fields) if loc in kinds else []


def _message(first: ErrorDetails) -> str:
    message = first["msg"].removeprefix("Value error, ")
    shown = repr(first["input"]) if not isinstance(first["input"], dict) else "this"
    if first["type"] == "value_error":
        return message
    return f"the value is {shown}; {message[0].lower()}{message[1:]}"


def _near_option(first: ErrorDetails) -> str | None:
    if first["type"] != "literal_error" or not isinstance(first["input"], str):
        return None
    return nearest(first["input"], re.findall(r"'([^']+)'", first["ctx"]["expected"]))
