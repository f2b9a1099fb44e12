"""A sequence classifier of the package `transformers`, read once per process and run on a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from inferloom.core.errors import RequestRejectedError, SetupError
from inferloom.core.loading import LOADING, need_packages
from inferloom.core.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a tokenizer may give; it knows which of them its model reads."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model made of some texts."""

    rows: tuple[list[float], ...] = ()
    """Its outputs for each."""
    tokens: int = 0
    seconds: float = 0.0


class Rewarder:
    """One model; the weights are read with the first use and stay for the process.

    Args:
        path: Its folder, or its name on the Hugging Face hub.
        revision: Which version, on the hub.
        device: Where it runs; None: the accelerator where there is one.
    """

    def __init__(self, path: str, revision: str | None = None, device: str | None = None) -> None:
        self._path = path
        self._revision = revision
        self._device = device
        self._thread = ThreadPoolExecutor(1, "inferloom-reward")
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    async def judge(
        self, conversation: Sequence[Message], texts: Sequence[str], *, batch: int, max_tokens: int
    ) -> Judged:
        """The model's outputs for each text as the answer that ends the conversation.

        Raises:
            SetupError: The packages or the model are missing.
            RequestRejectedError: The model's chat template refuses the conversation.
        """
        whole = Judged()
        for start in range(0, len(texts), batch):
            work = partial(self._run, conversation, texts[start : start + batch], max_tokens)
            part = await self._off_the_loop(work)
            whole = Judged(whole.rows + part.rows, whole.tokens + part.tokens, whole.seconds + part.seconds)
        return whole

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        job = self._thread.submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            # A batch at work cannot be stopped; it must have ended before the run has.
            if not job.cancelled():
                await asyncio.wait([asyncio.wrap_future(job)])
            raise

    def _run(self, conversation: Sequence[Message], texts: Sequence[str], max_tokens: int) -> Judged:
        if self._loaded is None:
            self._loaded = self._load()
        import torch

        model, tokenizer = self._loaded
        started = time.perf_counter()
        longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_tokens)
        limit = min(max_tokens, longest, tokenizer.model_max_length)
        encoded = [_encode(tokenizer, conversation, text, limit, self._path) for text in texts]
        lengths = [len(row["input_ids"]) for row in encoded]
        inputs = {}
        for name in encoded[0]:
            pad = model.config.pad_token_id if name == "input_ids" else 0
            padded = [[*row[name], *[pad] * (max(lengths) - len(row[name]))] for row in encoded]
            inputs[name] = torch.tensor(padded, device=model.device)
        with torch.inference_mode():
            rows = model(**inputs).logits.float().tolist()
        return Judged(tuple(rows), sum(lengths), time.perf_counter() - started)

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        need_packages(self._path)
        with LOADING:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            folder = Path(self._path).expanduser()
            path_like = self._path.startswith(("/", "~", ".")) or self._path.count("/") > 1 or folder.is_dir()
            if path_like and not (folder / "config.json").is_file():
                raise SetupError("is not the folder of a model (it has no config.json)", where=self._path)
            source = str(folder) if path_like else self._path
            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            try:
                tokenizer = AutoTokenizer.from_pretrained(source, revision=self._revision)
                model, told = AutoModelForSequenceClassification.from_pretrained(
                    source,
                    revision=self._revision,
                    dtype="float32" if device == "cpu" else "auto",
                    output_loading_info=True,
                )
                model = model.to(device).eval()
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise SetupError(f"cannot be loaded as a reward model: {reason}", where=self._path) from None
        if told["missing_keys"]:
            # transformers fills them with noise: a language model without a head would give random scores.
            raise SetupError(f"is no reward model: it has no weights `{min(told['missing_keys'])}`", where=self._path)
        if model.config.pad_token_id is None:
            ends = tokenizer.pad_token_id, tokenizer.eos_token_id, 0
            model.config.pad_token_id = next(end for end in ends if end is not None)
        return model, tokenizer


def _encode(
    tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], text: str, limit: int, where: str
) -> dict[str, list[int]]:
    """What the model reads of a conversation that ends with an answer; what is too long loses its beginning.

    A model without a chat template gets a pair of texts, of which the longer one is cut at its end.
    """
    from jinja2 import TemplateError

    answered = [*conversation, Message("assistant", text)]
    if tokenizer.chat_template:
        turns = [{"role": message.role, "content": _clean(message.content)} for message in answered]
        try:
            whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError as error:
            raise RequestRejectedError(f"the chat template refuses the conversation: {error}", where=where) from None
        encoded = tokenizer(whole, add_special_tokens=False, verbose=False)
    else:
        asked = _clean("\n\n".join(message.content for message in conversation)) or " "  # no model reads nothing
        encoded = tokenizer(asked, _clean(text), truncation=True, max_length=limit)
    return {name: list(encoded[name])[-limit:] for name in _INPUTS if name in encoded}


def _clean(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


@cache
def rewarder(path: str, revision: str | None, device: str | None) -> Rewarder:
    """The process's model of this name."""
    return Rewarder(path, revision, device)
