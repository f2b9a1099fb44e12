"""What a study found: the winner, the front, the baselines, every trial and how they compare; plain JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, cast

from inferloom.core.types import Json, Usage
from inferloom.evaluation.stats import Interval

Kind: TypeAlias = Literal["winner", "front", "baseline", "ablation"]
TrialStatus: TypeAlias = Literal["done", "stopped", "duplicate", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanUsage:
    """The mean usage of one item; the fields of `Usage`, as fractions."""

    calls: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0

    @property
    def tokens(self) -> float:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def of(cls, usages: Sequence[Usage]) -> MeanUsage:
        """The mean of usages; zero for none."""
        count = len(usages) or 1
        return cls(**{field.name: sum(getattr(usage, field.name) for usage in usages) / count for field in fields(cls)})

    def to_json(self) -> dict[str, Json]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> MeanUsage:
        """The reverse of `to_json`."""
        return cls(**{field.name: _number(data[field.name]) for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One pipeline of the final table."""

    label: str
    """What the table calls it, such as `large, one call` or `trial 17`."""
    kind: Kind
    pipeline_yaml: str
    pipeline_hash: str
    dev: Interval | None
    """Mean score on the search-dev items; None for a baseline that was not run there."""
    test: Interval | None
    """Mean score on the untouched test split; None where the study stopped before it."""
    nominal: MeanUsage
    """Mean nominal usage of one item, on the test split where it was run, else on dev."""
    wall_seconds: float
    """Wall time of this evaluation here, banked completions included; not comparable between machines."""
    confirm: Interval | None = None
    """Mean score on the confirm-dev items, for the few that were re-evaluated there."""
    trial: int | None = None
    """The number of the trial that proposed it; None for a baseline."""

    def to_json(self) -> dict[str, Json]:
        """The shape of `winner`, `front[]` and `baselines[]` in `search --json`."""
        return {
            "label": self.label,
            "kind": self.kind,
            "trial": self.trial,
            "pipeline": self.pipeline_yaml,
            "pipeline_hash": self.pipeline_hash,
            "dev": interval_json(self.dev),
            "confirm": interval_json(self.confirm),
            "test": interval_json(self.test),
            "nominal": self.nominal.to_json(),
            "wall_seconds": self.wall_seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Entry:
        """The reverse of `to_json`."""
        trial = data["trial"]
        return cls(
            label=str(data["label"]),
            kind=cast(Kind, data["kind"]),
            trial=None if trial is None else int(_number(trial)),
            pipeline_yaml=str(data["pipeline"]),
            pipeline_hash=str(data["pipeline_hash"]),
            dev=_interval(data["dev"]),
            confirm=_interval(data["confirm"]),
            test=_interval(data["test"]),
            nominal=MeanUsage.from_json(_object(data["nominal"])),
            wall_seconds=_number(data["wall_seconds"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSummary:
    """One trial of the search: a point of the space and what it reached on dev."""

    number: int
    batch: int
    status: TrialStatus
    """`stopped`: shown to be beaten before it had answered every item; `duplicate`: the same pipeline as
    `duplicate_of`, told its values, run no second time."""
    values: dict[str, Json]
    """The holes that were filled, by name."""
    pipeline_hash: str
    dev: Interval | None
    nominal: MeanUsage | None
    duplicate_of: int | None = None
    on_front: bool = False
    shape: str = ""
    """The pipeline in a few words."""
    error: str | None = None
    """Why a failed trial could not be run."""

    def to_json(self) -> dict[str, Json]:
        """The shape of `trials[]` in `search --json`."""
        return {
            "number": self.number,
            "batch": self.batch,
            "status": self.status,
            "values": self.values,
            "pipeline_hash": self.pipeline_hash,
            "dev": interval_json(self.dev),
            "nominal": None if self.nominal is None else self.nominal.to_json(),
            "duplicate_of": self.duplicate_of,
            "on_front": self.on_front,
            "shape": self.shape,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> TrialSummary:
        """The reverse of `to_json`."""
        duplicate = data["duplicate_of"]
        return cls(
            number=int(_number(data["number"])),
            batch=int(_number(data["batch"])),
            status=cast(TrialStatus, data["status"]),
            values=dict(_object(data["values"])),
            pipeline_hash=str(data["pipeline_hash"]),
            dev=_interval(data["dev"]),
            nominal=None if data["nominal"] is None else MeanUsage.from_json(_object(data["nominal"])),
            duplicate_of=None if duplicate is None else int(_number(duplicate)),
            on_front=bool(data["on_front"]),
            shape=str(data["shape"]),
            error=None if data["error"] is None else str(data["error"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The winner against one baseline, item by item on the test split."""

    name: str
    """The baseline's label."""
    difference: Interval
    """Winner minus baseline, paired bootstrap."""
    verdict: str
    """One plain sentence; says so where the search did not beat the baseline."""

    def to_json(self) -> dict[str, Json]:
        """The shape of `comparisons[]` in `search --json`."""
        return {"name": self.name, "difference": interval_json(self.difference), "verdict": self.verdict}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Comparison:
        """The reverse of `to_json`."""
        difference = _interval(data["difference"])
        if difference is None:
            raise ValueError("a comparison needs its difference")
        return cls(name=str(data["name"]), difference=difference, verdict=str(data["verdict"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The outcome of a search."""

    study: str
    job: str
    """The search job, as YAML."""
    objectives: list[str]
    winner: Entry
    front: list[Entry]
    """Non-dominated pipelines, cheapest first; holds the winner's twin."""
    baselines: list[Entry]
    trials: list[TrialSummary]
    comparisons: list[Comparison]
    verdict: str
    """One sentence for the whole study: did it beat equal-token self-consistency?"""
    ablation: list[Comparison] = field(default_factory=list)
    """The winner against itself without each of its steps."""
    break_even: str = ""
    """One sentence: after how many questions the search has paid for itself."""
    importance: dict[str, float] = field(default_factory=dict)
    """The share of each hole in what sets the best trials apart, largest first; empty for few trials."""
    billed: Usage
    """What was really spent by this call of the search, and by calls before it under the same study name."""
    nominal: Usage
    """The nominal usage of all its evaluations together."""
    test_touches: int
    """How often the test split of this data set was evaluated on, by any study in the database, this one included."""
    sizes: dict[str, int]
    """Items per split: dev, confirm, test."""
    points: int | None
    """Valid points of the space; None where there are too many to count."""
    stopped: str | None
    """Why the search ended early (`max_billed calls`), or None."""
    seconds: float
    """Wall seconds of this call of the search."""
    created: float
    """When the study was first started, seconds since the epoch."""
    command: str
    """The command that starts this study."""

    def to_json(self) -> dict[str, Json]:
        """The document of `search --json`."""
        return {
            "study": self.study,
            "verdict": self.verdict,
            "objectives": list(self.objectives),
            "winner": self.winner.to_json(),
            "front": [entry.to_json() for entry in self.front],
            "baselines": [entry.to_json() for entry in self.baselines],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "ablation": [comparison.to_json() for comparison in self.ablation],
            "break_even": self.break_even,
            "importance": cast("dict[str, Json]", self.importance),
            "trials": [trial.to_json() for trial in self.trials],
            "billed": cast("dict[str, Json]", self.billed.to_json()),
            "nominal": cast("dict[str, Json]", self.nominal.to_json()),
            "test_touches": self.test_touches,
            "sizes": cast("dict[str, Json]", self.sizes),
            "points": self.points,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "created": self.created,
            "command": self.command,
            "job": self.job,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> StudyResult:
        """The reverse of `to_json`; for a study that is read back from the database."""
        return cls(
            study=str(data["study"]),
            verdict=str(data["verdict"]),
            objectives=[str(name) for name in _list(data["objectives"])],
            winner=Entry.from_json(_object(data["winner"])),
            front=[Entry.from_json(_object(entry)) for entry in _list(data["front"])],
            baselines=[Entry.from_json(_object(entry)) for entry in _list(data["baselines"])],
            comparisons=[Comparison.from_json(_object(entry)) for entry in _list(data["comparisons"])],
            ablation=[Comparison.from_json(_object(entry)) for entry in _list(data.get("ablation", []))],
            break_even=str(data.get("break_even", "")),
            importance={name: _number(share) for name, share in _object(data.get("importance", {})).items()},
            trials=[TrialSummary.from_json(_object(entry)) for entry in _list(data["trials"])],
            billed=_usage(data["billed"]),
            nominal=_usage(data["nominal"]),
            test_touches=int(_number(data["test_touches"])),
            sizes={name: int(_number(size)) for name, size in _object(data["sizes"]).items()},
            points=None if data["points"] is None else int(_number(data["points"])),
            stopped=None if data["stopped"] is None else str(data["stopped"]),
            seconds=_number(data["seconds"]),
            created=_number(data["created"]),
            command=str(data["command"]),
            job=str(data["job"]),
        )


def interval_json(interval: Interval | None) -> dict[str, Json] | None:
    """`mean, low, high, n`, or None."""
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def _interval(data: Json) -> Interval | None:
    if data is None:
        return None
    values = _object(data)
    return Interval(
        mean=_number(values["mean"]),
        low=_number(values["low"]),
        high=_number(values["high"]),
        n=int(_number(values["n"])),
    )


def _usage(data: Json) -> Usage:
    values = _object(data)
    return Usage(
        calls=int(_number(values["calls"])),
        prompt_tokens=int(_number(values["prompt_tokens"])),
        cached_tokens=int(_number(values["cached_tokens"])),
        completion_tokens=int(_number(values["completion_tokens"])),
        usd=_number(values["usd"]),
        seconds=_number(values["seconds"]),
    )


def _number(data: Json) -> float:
    if not isinstance(data, int | float):
        raise ValueError(f"expected a number, got {data!r}")
    return float(data)


def _object(data: Json) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {data!r}")
    return data


def _list(data: Json) -> list[Json]:
    if not isinstance(data, list):
        raise ValueError(f"expected a list, got {data!r}")
    return data
