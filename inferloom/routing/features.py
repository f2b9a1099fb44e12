"""What a router sees of a question: its embedding, its surface, and the task's tag where the caller gives one.

The embedding is that of `few_shot` (`models/embedding.py`), brought to 16 to 64 axes by a principal component
analysis of the training questions. All features are standardised over those, and cut at `CUT` deviations, so that one
strange question cannot reach far. The featurizer knows its embedder by the vector of a fixed sentence.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from inferloom.core.digest import digest
from inferloom.core.errors import SetupError
from inferloom.models.embedding import Embedder, StaticEmbedder, embedder_choice, open_embedder

Matrix: TypeAlias = NDArray[np.float32]
DIMENSIONS = (16, 64)
"""Least and most axes of the projection."""
PER_DIMENSION = 40
"""Training questions for each axis: with fewer, the axes hold more noise than they tell."""
CUT = 4.0
NO_EMBEDDER = "none"
"""The embedder's name where only the surface counts."""
_PROBE = "The quick brown fox asks how many of 12 jumps over 3 lazy dogs were high."
_ALIKE = 0.999
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]+")
_MARKS = "+-*/^=<>~#%$&|!?.,:;()[]{}\"'`\\"
_ASKS = ("what", "which", "who", "when", "where", "why", "how", "is", "are", "find", "make", "write", "sort", "count")

SURFACE = (
    "log_characters",
    "log_words",
    "log_lines",
    "log_numbers",
    "largest_number",
    "longest_number",
    "digit_share",
    "upper_share",
    "mark_share",
    "longest_word",
    "distinct_words",
    "distinct_characters",
    "mean_word",
    *(f"mark_{mark}" for mark in _MARKS),
    *(f"asks_{word}" for word in _ASKS),
    "code",
    "choices",
)
"""The surface features, in order."""


def surface(text: str) -> list[float]:
    """The surface features of a text; see `SURFACE`."""
    words = [word.lower() for word in _WORD.findall(text)]
    numbers = _NUMBER.findall(text)
    size = max(len(text), 1)
    first = set(words[:3])
    marks = [text.count(mark) for mark in _MARKS]
    largest = max((min(len(number), 15) + int(number[0]) / 10 for number in numbers), default=0.0)
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(words))),
        float(np.log1p(text.count("\n"))),
        float(np.log1p(len(numbers))),
        largest,
        float(max(map(len, numbers), default=0)),
        sum(map(len, numbers)) / size,
        sum(character.isupper() for character in text) / size,
        sum(marks) / size,
        float(np.log1p(max(map(len, words), default=0))),
        len(set(words)) / max(len(words), 1),
        float(np.log1p(len(set(text)))),
        float(np.log1p(sum(map(len, words)) / max(len(words), 1))),
        *(float(np.log1p(count)) for count in marks),
        *(float(word in first) for word in _ASKS),
        float("```" in text or "def " in text or "return " in text),
        float(len(re.findall(r"(?m)^\s*\(?[A-E][.)]", text))),
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Featurizer:
    """Turns questions into rows of `width` numbers. Made by `fit`."""

    embedder: str
    """As `INFERLOOM_EMBEDDER` names it, `minilm`, or `none`."""
    tags: tuple[str, ...]
    arrays: Mapping[str, Matrix]
    """`probe`, `centre`, `axes` (all empty without embedder), `mean`, `scale`."""
    _opened: list[Embedder] = field(default_factory=list)

    @property
    def width(self) -> int:
        """How many features a question has."""
        return len(self.arrays["mean"])

    @property
    def embedded(self) -> int:
        """How many of them come from the embedding; they are the first."""
        return int(self.arrays["axes"].shape[-1]) if self.embedder != NO_EMBEDDER else 0

    @property
    def embedder_hash(self) -> str:
        """16 hex digits for the embedder: the same vectors, the same hash."""
        return digest(np.round(self.arrays["probe"], 3).tobytes().hex(), 8)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        tags: Sequence[str | None] | None = None,
        *,
        embedder: str | None = None,
        vectors: Matrix | None = None,
    ) -> Featurizer:
        """Learn projection and scales from training questions.

        Args:
            texts: The questions.
            tags: Their tasks; None: tags play no part.
            embedder: Whose vectors; None: the one of `INFERLOOM_EMBEDDER`.
            vectors: The texts' vectors where they are known already, (texts, embedder's dimensions).

        Raises:
            SetupError: The embedder's package or key is missing.
        """
        choice = embedder or embedder_choice()
        nothing = np.zeros((0,), np.float32)
        arrays: dict[str, Matrix] = {"probe": nothing, "centre": nothing, "axes": np.zeros((0, 0), np.float32)}
        if choice != NO_EMBEDDER:
            opened = open_named(choice)
            given = vectors if vectors is not None else embed(opened, texts)
            centre = given.mean(axis=0)
            dimensions = int(np.clip(len(texts) // PER_DIMENSION, *DIMENSIONS))
            # The last axes are the largest; as many rows of the covariance as the vectors have dimensions.
            _, axes = np.linalg.eigh(np.cov(given, rowvar=False))
            arrays = {
                "probe": embed(opened, [_PROBE])[0],
                "centre": centre.astype(np.float32),
                "axes": np.ascontiguousarray(axes[:, ::-1][:, :dimensions], dtype=np.float32),
            }
        known = tuple(sorted({tag for tag in tags or () if tag is not None}))
        width = arrays["axes"].shape[-1] + len(SURFACE) + len(known)
        raw = cls(
            embedder=choice,
            tags=known,
            arrays={**arrays, "mean": np.zeros(width, np.float32), "scale": np.ones(width, np.float32)},
        )
        rows = raw._rows(texts, tags, vectors)
        scale = rows.std(axis=0)
        # One scale for all of the embedding, whose axes would else all count alike.
        embedded = raw.embedded
        scale[:embedded] = np.sqrt(np.mean(scale[:embedded] ** 2)) if embedded else 1.0
        scale[scale < 1e-6] = 1.0
        scales = {"mean": np.asarray(rows.mean(axis=0), np.float32), "scale": np.asarray(scale, np.float32)}
        return cls(embedder=choice, tags=known, arrays={**arrays, **scales})

    def transform(
        self,
        texts: Sequence[str],
        tags: Sequence[str | None] | None = None,
        *,
        vectors: Matrix | None = None,
    ) -> Matrix:
        """The features, (texts, width).

        Args:
            texts: The questions.
            tags: Their tasks, where known; one that was not trained on counts as none.
            vectors: Their vectors by this embedder, where known already.

        Raises:
            SetupError: The embedder is missing, or is not the one that the featurizer was fitted with.
        """
        rows = (self._rows(texts, tags, vectors) - self.arrays["mean"]) / self.arrays["scale"]
        return np.asarray(np.clip(rows, -CUT, CUT), np.float32)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors by the featurizer's embedder, (texts, dimensions), for `transform`.

        Raises:
            SetupError: As for `transform`.
        """
        if not self._opened:
            opened = open_named(self.embedder)
            self.check(embed(opened, [_PROBE])[0])
            self._opened.append(opened)
        return embed(self._opened[0], texts)

    def check(self, probe: Matrix) -> None:
        """See that an embedder is the one that was fitted with, by its vector of the fixed sentence.

        Raises:
            SetupError: It is another.
        """
        mine = self.arrays["probe"]
        if mine.shape != probe.shape or float(mine @ probe) < _ALIKE:
            raise SetupError(
                f"the router was trained with another version of the embedder `{self.embedder}`"
                f" ({self.embedder_hash}); install that version, or train the router again"
            )

    def _rows(self, texts: Sequence[str], tags: Sequence[str | None] | None, vectors: Matrix | None) -> Matrix:
        parts: list[Matrix] = [
            np.array([surface(text) for text in texts], dtype=np.float32).reshape(len(texts), len(SURFACE))
        ]
        if self.embedder != NO_EMBEDDER:
            given = vectors if vectors is not None else self.embed(texts)
            parts.insert(0, np.asarray((given - self.arrays["centre"]) @ self.arrays["axes"], np.float32))
        if self.tags:
            own = tags if tags is not None else [None] * len(texts)
            # A question without a known tag is an average one.
            missing = [float(value) for value in self.arrays["mean"][-len(self.tags) :]]
            marks = [[float(tag == known) for known in self.tags] if tag in self.tags else missing for tag in own]
            parts.append(np.array(marks, dtype=np.float32))
        return np.concatenate(parts, axis=1)


def open_named(choice: str) -> Embedder:
    """The embedder of a name: those of `INFERLOOM_EMBEDDER`, and `minilm`.

    Raises:
        SetupError: Its package or key is missing.
        UnknownNameError: No embedder has this name.
    """
    if choice == "minilm":
        from inferloom.routing.minilm import open_minilm

        return open_minilm()
    return open_embedder(choice)


def embed(embedder: Embedder, texts: Sequence[str]) -> Matrix:
    """Vectors from outside an event loop or inside one, (texts, dimensions)."""

    async def work() -> list[tuple[float, ...]]:
        return await embedder.embed(texts)

    if isinstance(embedder, StaticEmbedder):
        return np.asarray(embedder.embed_now(texts), dtype=np.float32)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return np.asarray(asyncio.run(work()), dtype=np.float32)
    made: list[list[tuple[float, ...]] | BaseException] = []

    def apart() -> None:
        try:
            made.append(asyncio.run(work()))
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=apart)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return np.asarray(made[0], dtype=np.float32)
