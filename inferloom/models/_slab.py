"""The keys and values of all running rows in one block per layer, and the two kinds of forward pass over it.

Every row ends at the same column; a row's first column differs. New rows are read in a pass of their own and copied in
so that they end at the common column too, so rows of any length join between two tokens. Positions are rotary and
counted per row, so a column says nothing about a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST_COLUMNS = 256
_SPARE_COLUMNS = 32


@dataclass(slots=True)
class _Window:
    """What of the block is in use: the first `rows` rows, and the columns from `start` to before `end`."""

    rows: int = 0
    start: int = 0
    end: int = 0


class _Kept(Protocol):
    keys: torch.Tensor
    values: torch.Tensor


class _Layer:
    """One layer's block, in the shape of a cache layer of `transformers`: tensors (rows, heads, columns, width)."""

    is_compileable = False
    is_sliding = False
    is_croppable = False
    is_initialized = True

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._window = window
        self.keys = keys
        self.values = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns and return all columns in use; the window moves only when the pass is over."""
        w, end = self._window, self._window.end + key_states.shape[-2]
        self.keys[: w.rows, :, w.end : end] = key_states
        self.values[: w.rows, :, w.end : end] = value_states
        return self.keys[: w.rows, :, w.start : end], self.values[: w.rows, :, w.start : end]

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


# A subclass by registration: the base class brings methods that do not fit a block shared by rows.
CacheLayerMixin.register(_Layer)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts that were read: the logits after each (prompts, tokens), their lengths, and their keys and values."""

    logits: NDArray[np.float32]
    lengths: tuple[int, ...]
    layers: list[_Kept]


class Slab:
    """The running rows of one model.

    Args:
        model: A decoder with full attention in every layer.
        pad: A token id that stands where a row has none.
    """

    def __init__(self, model: PreTrainedModel, pad: int) -> None:
        self._model = model
        self._pad = pad
        self._window = _Window()
        self._layers: list[_Layer] = []
        self._starts = np.zeros(0, dtype=np.int64)
        """The first column of each row."""

    @property
    def rows(self) -> int:
        """How many rows run."""
        return self._window.rows

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Read prompts in one pass, padded on the left."""
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self._pad, dtype=np.int64)
        mask = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        cache = DynamicCache()
        logits = self._forward(ids, mask, np.maximum(np.cumsum(mask, axis=1) - 1, 0), cache)
        return Prefilled(logits, tuple(map(len, prompts)), cast("list[_Kept]", cache.layers))

    def join(self, read: Prefilled, sources: Sequence[int]) -> None:
        """Add a row for each entry of `sources`, an index into the prompts that were read; one may come many times."""
        longest = max(read.lengths[source] for source in sources)
        first, count = self._window.rows, len(sources)
        if first == 0:
            self._window.start = self._window.end = longest
        self._make_room(first + count, longest, read.layers)
        end = self._window.end
        index = torch.tensor(list(sources), device=read.layers[0].keys.device)
        for layer, kept in zip(self._layers, read.layers, strict=True):
            layer.keys[first : first + count, :, end - longest : end] = kept.keys[index][:, :, -longest:]
            layer.values[first : first + count, :, end - longest : end] = kept.values[index][:, :, -longest:]
        begins = np.array([end - read.lengths[source] for source in sources], dtype=np.int64)
        self._starts = np.concatenate([self._starts[:first], begins])
        self._window.rows = first + count
        self._window.start = int(self._starts.min())

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to every row; the logits that follow, (rows, tokens)."""
        window = self._window
        if window.end >= self._layers[0].keys.shape[2]:
            self._make_room(window.rows, 0, None)
        columns = np.arange(window.start, window.end + 1)
        mask = (columns[None, :] >= self._starts[:, None]).astype(np.int64)
        positions = (window.end - self._starts)[:, None]
        ids = np.array(tokens, dtype=np.int64)[:, None]
        logits = self._forward(ids, mask, positions, Cache(layers=list(self._layers)))
        window.end += 1
        return logits

    def drop(self, gone: Sequence[int]) -> list[int]:
        """Remove rows; the rows from the end move into the holes. Returns the old index of every row that is left."""
        left = list(range(self._window.rows))
        holes, moved = [], []
        for index in sorted(gone, reverse=True):
            last = left.pop()
            if index < len(left):
                left[index] = last
        for index, old in enumerate(left):
            if index != old:
                holes.append(index)
                moved.append(old)
        window = self._window
        if moved:
            target, source = torch.tensor(holes), torch.tensor(moved)
            for layer in self._layers:
                for block in (layer.keys, layer.values):
                    block[target, :, window.start : window.end] = block[source, :, window.start : window.end]
        self._starts = self._starts[left]
        window.rows = len(left)
        if left:
            window.start = int(self._starts.min())
        return left

    def clear(self) -> None:
        """Forget every row and give the memory back."""
        self._window.rows = self._window.start = self._window.end = 0
        self._layers = []
        self._starts = self._starts[:0]

    def _forward(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], positions: NDArray[np.int64], cache: Cache
    ) -> NDArray[np.float32]:
        """The logits of the last column, (rows, tokens), on the host."""
        device = self._model.device
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits: NDArray[np.float32] = out.logits[:, -1].float().cpu().numpy()
        return logits

    def _make_room(self, rows: int, longest: int, like: Sequence[_Kept] | None) -> None:
        """Hold `rows` rows, a prompt of `longest` tokens before the common end, and a column after it."""
        window = self._window
        for kept in like or () if not self._layers else ():
            _, heads, _, width = kept.keys.shape
            empty = kept.keys.new_zeros((0, heads, 0, width))
            self._layers.append(_Layer(window, empty, empty))
        have_rows, _, have_columns, _ = self._layers[0].keys.shape
        if rows <= have_rows and longest <= window.end < have_columns:
            return
        # Columns before the first start are of no use, so what is in use moves as far left as the new prompt allows.
        used = window.end - window.start
        start = max(0, longest - used)
        columns = max(have_columns, _FIRST_COLUMNS)
        while start + used + _SPARE_COLUMNS > columns:
            columns *= 2
        for layer in self._layers:
            layer.keys = self._moved(layer.keys, max(rows, have_rows), columns, start)
            layer.values = self._moved(layer.values, max(rows, have_rows), columns, start)
        self._starts = self._starts + (start - window.start)
        window.start, window.end = start, start + used

    def _moved(self, block: torch.Tensor, rows: int, columns: int, start: int) -> torch.Tensor:
        """A larger block with what is in use, from column `start` on."""
        window = self._window
        fresh = block.new_zeros((rows, block.shape[1], columns, block.shape[3]))
        used = block[: window.rows, :, window.start : window.end]
        fresh[: window.rows, :, start : start + used.shape[2]] = used
        return fresh
