"""Vectors for texts: a small static embedding that comes with a package, an endpoint, or a callable of yours.

The environment variable `INFERLOOM_EMBEDDER` chooses, once per process:

- `wordllama` (the default): WordLlama's 256 dimensions (github.com/dleemiller/WordLlama), the mean of one learned
  vector per token. Its wheel holds the vectors (32,000 tokens, 16.4 MB) and the tokenizer (1.8 MB), so nothing is
  downloaded when it runs. It knows words, not their order: enough to find similar questions, far below a sentence
  transformer. The package is under the MIT licence; its authors trained the vectors from the token embeddings of
  Llama 2 70B and other models, so see to those licences before passing the file on. Extra:
  `pip install 'inferloom[embeddings]'` (19 MB; it has wheels up to Python 3.13).
- `openai:MODEL@BASE_URL` (without `@BASE_URL`: api.openai.com): an endpoint with `/embeddings`. The key stands in the
  variable `INFERLOOM_EMBEDDER_KEY`; without it api.openai.com gets `OPENAI_API_KEY` and others none. Its calls are
  retried, but stand in no ledger and count against no budget.
- any other name: what `register_embedder` put there.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from inferloom.core.errors import BadResponseError, SetupError, UnknownNameError
from inferloom.core.registry import Registry

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

Vector: TypeAlias = "tuple[float, ...]"
VARIABLE = "INFERLOOM_EMBEDDER"
KEY_VARIABLE = "INFERLOOM_EMBEDDER_KEY"
DEFAULT = "wordllama"
_LONGEST = 100_000
"""Characters of a text that count; the mean over more would say no more."""
_BATCH = 256
"""Texts in one request to an endpoint."""
_KEPT = 20_000
"""Vectors from an endpoint that are kept, so that a question asked again is not paid for again."""

EmbedFunction: TypeAlias = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""A vector for each text, of any length but zero; called in a thread."""


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A unit vector for each text."""
        ...


EMBEDDERS: Registry[EmbedFunction] = Registry("embedder")


def register_embedder(name: str) -> Callable[[EmbedFunction], EmbedFunction]:
    """Register a function as the embedder `name`, for `INFERLOOM_EMBEDDER`.

    Raises:
        SetupError: The name is taken, or means something else already.
    """
    if name == DEFAULT or name.startswith("openai:"):
        raise SetupError(f"an embedder cannot be named `{name}`; the name is taken")
    return EMBEDDERS.register(name)


@cache
def default_embedder() -> Embedder:
    """The embedder that `INFERLOOM_EMBEDDER` names, opened once per process.

    Raises:
        SetupError: Its package or key is missing; the message says what to install or set.
        UnknownNameError: No embedder has this name.
    """
    return open_embedder(embedder_choice())


def embedder_choice() -> str:
    """The value of `INFERLOOM_EMBEDDER`; where vectors are kept it names whose they are."""
    return os.environ.get(VARIABLE, "").strip() or DEFAULT


def open_embedder(choice: str) -> Embedder:
    """The embedder of a value of `INFERLOOM_EMBEDDER`. Nothing is read and no request is made before its first use.

    Raises:
        SetupError: Its package or key is missing; the message says what to install or set.
        UnknownNameError: No embedder has this name.
    """
    if choice == DEFAULT:
        return StaticEmbedder()
    if choice.startswith("openai:"):
        model, _, base_url = choice.removeprefix("openai:").partition("@")
        if not model:
            raise SetupError(f"{VARIABLE} is `{choice}`; must be `openai:MODEL@BASE_URL`")
        return EndpointEmbedder(model, base_url or None)
    if choice not in EMBEDDERS.names():
        raise UnknownNameError("embedder", choice, [DEFAULT, *EMBEDDERS.names()], where=VARIABLE)
    return _Called(EMBEDDERS.get(choice))


class StaticEmbedder:
    """The mean of WordLlama's token vectors, off the event loop.

    Only the files of the installed package are read; its code does not run. That would set the root logger's level,
    look for the tokenizer in a folder that the wheel does not have and download it, and pad a batch to its longest
    text.
    """

    def __init__(self) -> None:
        """Raises SetupError when a package is missing or holds no weights."""
        missing = [name for name in ("wordllama", "tokenizers", "safetensors") if find_spec(name) is None]
        if missing:
            raise SetupError(
                f"embeddings need the package `{missing[0]}`; run `pip install 'inferloom[embeddings]'`, or choose"
                f" another embedder by {VARIABLE}"
            )
        found = find_spec("wordllama")
        assert found is not None
        folder = Path(next(iter(found.submodule_search_locations or [""])))
        self._weights = folder / "weights" / "l2_supercat_256.safetensors"
        self._tokens = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        for file in (self._weights, self._tokens):
            if not file.is_file():
                raise SetupError(
                    f"the package `wordllama` holds no `{file.name}`; run `pip install 'inferloom[embeddings]'`"
                )
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, NDArray[float32]] | None = None

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A unit vector for each text; a text without tokens gets one that is near to nothing in particular."""
        return await asyncio.to_thread(self.embed_now, texts)

    def _load(self) -> tuple[Tokenizer, NDArray[float32]]:
        with self._lock:
            if self._loaded is None:
                from numpy import float32
                from safetensors.numpy import load_file
                from tokenizers import Tokenizer

                tokenizer = Tokenizer.from_file(str(self._tokens))
                tokenizer.no_padding()
                tokenizer.no_truncation()
                self._loaded = tokenizer, load_file(self._weights)["embedding.weight"].astype(float32)
            return self._loaded

    def embed_now(self, texts: Sequence[str]) -> list[Vector]:
        """The same in this thread; a short text takes a fraction of a millisecond."""
        tokenizer, vectors = self._load()
        # Lone surrogates are legal in Python's texts, not in the tokenizer's.
        clean = [text[:_LONGEST].encode("utf-8", "replace").decode() for text in texts]
        encoded = tokenizer.encode_batch(clean, add_special_tokens=False)
        nothing = _unit((1.0,) * vectors.shape[1])
        return [_unit(vectors[row.ids].mean(axis=0).tolist() if row.ids else ()) or nothing for row in encoded]


class EndpointEmbedder:
    """A model behind an OpenAI-compatible endpoint. Connections close when no call is under way."""

    def __init__(self, model: str, base_url: str | None = None) -> None:
        """Raises SetupError when the key's environment variable is not set."""
        from inferloom.models.openai import OpenAIBackend
        from inferloom.models.spec import ModelSpec

        key = KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else None
        self._spec = ModelSpec(model=f"openai:{model}", base_url=base_url, key=key)
        self._backend = OpenAIBackend(model, self._spec)
        self._under_way = 0
        self._known: dict[str, Vector] = {}

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A unit vector for each text.

        Raises:
            ModelError: The endpoint failed.
        """
        # Endpoints refuse an empty text.
        wanted = [text if text.strip() else "-" for text in texts]
        made = {text: self._known[text] for text in wanted if text in self._known}
        new = [text for text in dict.fromkeys(wanted) if text not in made]
        self._under_way += 1
        try:
            for start in range(0, len(new), _BATCH):
                batch = new[start : start + _BATCH]
                made.update(zip(batch, await self._request(batch), strict=True))
        finally:
            self._under_way -= 1
            if not self._under_way:
                await self._backend.aclose()
        for text in new:
            self._known[text] = made[text]
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return [made[text] for text in wanted]

    async def _request(self, texts: list[str]) -> list[Vector]:
        from inferloom.models.retry import retrying

        vectors: list[list[float]] = await retrying(self._spec.retries)(self._backend.embed, texts)
        units = [_unit(vector) for vector in vectors]
        if not all(units):
            raise BadResponseError("the reply holds a vector without a direction", where=self._backend.where)
        return units


class _Called:
    """A function of the user's, called in a thread."""

    def __init__(self, function: EmbedFunction) -> None:
        self._function = function

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        name = getattr(self._function, "__qualname__", repr(self._function))
        vectors = await asyncio.to_thread(self._function, list(texts))
        units = [_unit([float(value) for value in vector]) for vector in vectors]
        if len(units) != len(texts) or not all(units):
            raise SetupError(
                f"embedder `{name}` gave {len(units)} vectors for {len(texts)} texts; must give one for each, "
                "finite and not zero"
            )
        return units


def _unit(vector: Sequence[float]) -> Vector:
    """The vector with length 1; empty where it has no direction."""
    length = math.hypot(*vector)
    return tuple(value / length for value in vector) if 0 < length < math.inf else ()
