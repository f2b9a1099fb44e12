"""The router: what it predicts of every arm for a question, and how it is kept.

An artifact is a folder with `manifest.json` and `weights.safetensors`, or the same as one blob in the database. No
code is in it. numpy and safetensors are all that predicting takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, SetupError
from inferloom.core.types import Json
from inferloom.routing.features import Featurizer, Matrix
from inferloom.routing.guard import Guard
from inferloom.routing.model import (
    Arrays,
    Neighbours,
    hidden,
    linear_logits,
    logit,
    network_log_cost,
    network_logits,
    sigmoid,
)
from inferloom.routing.outcomes import ArmInfo, arm_index

if TYPE_CHECKING:
    from inferloom.routing.policy import Decision, Policy

FORMAT = 2
"""Of the manifest; 1 was without `guard`."""
MOST_BYTES = 1_000_000
"""Of weights."""
PARTS = ("network", "neighbours", "linear")
"""What a prediction is blended from, in the order of `Manifest.blend`."""
_FILES = ("manifest.json", "weights.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is expected of `A` arms on `N` questions."""

    quality: Matrix
    """(N, A): the chance of a right answer, or the expected score, from 0 to 1."""
    spread: Matrix
    """(N, A): the standard deviation of that over bootstrap samples of the training questions."""
    cost: Matrix
    """(N, A): the expected cost in the router's unit."""
    unfamiliar: NDArray[np.bool_]
    """(N): whether no training question is near; nothing is known then."""
    distance: Matrix
    """(N): to the nearest training questions, as a multiple of what counts as near."""
    members: Matrix
    """(M, N, A): the quality by each bootstrap sample."""

    def __len__(self) -> int:
        return len(self.quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a router is, beside its weights."""

    name: str
    arms: tuple[ArmInfo, ...]
    unit: str
    """Of cost: tokens, usd, calls or seconds."""
    embedder: str
    tags: tuple[str, ...]
    blend: tuple[float, float, float]
    """Weights of network, neighbours and linear model; they sum to 1."""
    k: int
    """Neighbours."""
    columns: int
    """Features by which neighbours are found; the first."""
    snapshot: str
    """Stands for the data that it was trained on."""
    trained_on: int
    """Questions."""
    created: float
    metrics: Mapping[str, float]
    """Measured on the calibration part while training."""
    policy: Mapping[str, Json]
    """How it decides unless told otherwise; see `policy.Policy`."""
    note: str = ""

    def to_json(self) -> dict[str, Json]:
        """The manifest as plain JSON."""
        return cast("dict[str, Json]", json.loads(json.dumps({"format": FORMAT, **asdict(self)})))

    @classmethod
    def from_json(cls, data: Json, where: str) -> Manifest:
        """What `to_json` made.

        Raises:
            DataError: It is no manifest, or of a later format.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            got = data.get("format") if isinstance(data, dict) else None
            raise DataError(
                f"the manifest's format is {got!r}; this version reads {FORMAT}; train or export the router again",
                where=where,
            )
        values: dict[str, object] = {key: value for key, value in data.items() if key != "format"}
        try:
            arms = tuple(ArmInfo(**arm) for arm in cast("list[dict[str, str]]", values["arms"]))  # type: ignore[arg-type] # checked by the fields' use
            for name in ("tags", "blend"):
                values[name] = tuple(cast("list[str]", values[name]))
            made = cls(**{**values, "arms": arms})  # type: ignore[arg-type] # a wrong name is a TypeError, caught here
            if len(made.blend) != len(PARTS) or len(made.arms) < 2:
                raise ValueError("too few values")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the manifest is damaged: {error}; train or export the router again", where=where
            ) from None
        return made


class Router:
    """Predicts quality and cost of every arm. Made by `train.train_router`, or loaded; never changed."""

    def __init__(self, manifest: Manifest, arrays: Arrays) -> None:
        self.manifest = manifest
        self.arrays = dict(arrays)
        own = {key.removeprefix("features."): value for key, value in arrays.items() if key.startswith("features.")}
        self.featurizer = Featurizer(embedder=manifest.embedder, tags=manifest.tags, arrays=own)

    @property
    def arms(self) -> tuple[ArmInfo, ...]:
        """What it chooses among, in the order of every column."""
        return self.manifest.arms

    @cached_property
    def neighbours(self) -> Neighbours:
        """The remembered questions."""
        return Neighbours(self.arrays, self.manifest.k, self.manifest.columns)

    @cached_property
    def guard(self) -> Guard:
        """What knows unfamiliar questions."""
        return Guard(self.arrays)

    def predict(
        self,
        texts: Sequence[str],
        tags: Sequence[str | None] | None = None,
        *,
        vectors: Matrix | None = None,
    ) -> Prediction:
        """Quality and cost of every arm on questions.

        Args:
            texts: The questions.
            tags: Their tasks, where the caller knows them.
            vectors: Their embeddings by the router's embedder, where known already: `featurizer.embed`.

        Raises:
            SetupError: The embedder's package is missing, or is another version than in training.
        """
        return self.predict_features(self.featurizer.transform(texts, tags, vectors=vectors))

    def predict_features(self, x: Matrix) -> Prediction:
        """The same from features, (N, width)."""
        arrays, manifest = self.arrays, self.manifest
        distances = self.neighbours.distances(x)
        chances = np.zeros((1, len(x), len(self.arms)), dtype=np.float32)
        u = hidden(arrays, x) if "net.w1" in arrays else None
        if manifest.blend[0] and u is not None:
            chances = chances + manifest.blend[0] * sigmoid(network_logits(arrays, u))
        if manifest.blend[1]:
            chances = chances + manifest.blend[1] * self.neighbours.chances(distances)
        if manifest.blend[2]:
            chances = chances + manifest.blend[2] * sigmoid(linear_logits(arrays, x))
        members = sigmoid(arrays["platt.a"] * logit(chances) + arrays["platt.b"])
        spread = members.std(axis=0) if len(members) > 1 else np.broadcast_to(arrays["spread"], members.shape[1:])
        relative = np.zeros(members.shape[1:], np.float32) if u is None else network_log_cost(arrays, u)
        nearest = self.guard.distance(x)
        return Prediction(
            quality=members.mean(axis=0),
            spread=np.asarray(spread, dtype=np.float32),
            cost=np.asarray(arrays["cost.scale"] * np.exp(np.clip(relative, -4, 4)), dtype=np.float32),
            unfamiliar=nearest > 1,
            distance=nearest,
            members=members,
        )

    def decide(self, text: str, policy: Policy | None = None, tag: str | None = None) -> Decision:
        """The arm for one question, with the reasons.

        Args:
            text: The question.
            policy: How to weigh; None: as the manifest says.
            tag: Its task, where the caller knows it.

        Raises:
            SetupError: As for `predict`.
            SpecError: The policy names an arm that the router does not have, or leaves none.
        """
        from inferloom.routing.policy import Policy, decide

        chosen = policy or Policy.from_json(self.manifest.policy)
        return decide(self, self.predict([text], [tag]), chosen)[0]

    def arm(self, name: str) -> int:
        """The place of an arm by its id, the beginning of it, or its label.

        Raises:
            UnknownNameError: There is none.
        """
        return arm_index(self.arms, name, where=f"router {self.manifest.name}")

    @cached_property
    def hash(self) -> str:
        """16 hex digits that stand for everything it does."""
        from safetensors.numpy import save

        told = self.manifest.to_json() | {"created": 0.0, "name": ""}
        return digest(json.dumps(told, sort_keys=True) + save(self.arrays).hex(), 8)

    def save(self, folder: str | Path) -> Path:
        """Write the artifact; a folder that holds one already is written over.

        Raises:
            SetupError: It cannot be written.
        """
        place = Path(folder)
        manifest, weights = self.to_blob()
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, content in zip(_FILES, (manifest.encode(), weights), strict=True):
                beside = place / f".{name}.part"
                beside.write_bytes(content)
                beside.replace(place / name)
        except OSError as error:
            raise SetupError(f"cannot be written: {error.strerror or error}", where=str(place)) from None
        return place

    @classmethod
    def load(cls, folder: str | Path) -> Router:
        """Read an artifact.

        Raises:
            DataError: It is not there, damaged, or of a later format.
            SetupError: The package `safetensors` is missing.
        """
        place = Path(folder)
        contents = []
        for name in _FILES:
            try:
                contents.append((place / name).read_bytes())
            except OSError as error:
                raise DataError(
                    f"no router there: `{name}` cannot be read ({error.strerror or error})", where=str(place)
                ) from None
        return cls.from_blob(contents[0].decode("utf-8", "replace"), contents[1], where=str(place))

    def to_blob(self) -> tuple[str, bytes]:
        """(manifest as JSON text, weights as safetensors), as the database keeps them.

        The manifest holds the weights' hash, so that one cannot be paired with the other's.
        """
        from safetensors.numpy import save

        weights = save({key: np.ascontiguousarray(value) for key, value in self.arrays.items()})
        told = self.manifest.to_json() | {
            "weights": digest(weights.hex(), 16),
            "embedder_hash": self.featurizer.embedder_hash,
        }
        return json.dumps(told, ensure_ascii=False, indent=1) + "\n", weights

    @classmethod
    def from_blob(cls, manifest: str, weights: bytes, *, where: str = "router") -> Router:
        """What `to_blob` made.

        Raises:
            DataError: It is damaged, or of a later format.
            SetupError: The package `safetensors` is missing.
        """
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ModuleNotFoundError:
            raise SetupError(
                "a router needs the package `safetensors`; run `pip install 'inferloom[router]'`", where=where
            ) from None
        try:
            told = json.loads(manifest)
        except ValueError as error:
            raise DataError(f"the manifest is not valid JSON: {error}", where=where) from None
        if not isinstance(told, dict):
            raise DataError("the manifest must be a JSON object", where=where)
        expected = told.pop("weights", None)
        told.pop("embedder_hash", None)
        read = Manifest.from_json(told, where)
        if digest(weights.hex(), 16) != expected:
            raise DataError("the weights are not those of the manifest: damaged, or of another router", where=where)
        try:
            return cls(read, load(weights))
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"the weights are damaged: {error}", where=where) from None
