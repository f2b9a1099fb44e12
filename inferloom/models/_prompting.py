"""Conversations to tokens and tokens back to text, for models that run in this process.

A special token written in the content of a message is text, not control: `<|assistant|>` in a question opens no turn.
In a raw prefix special tokens count, since its writer has taken charge of the whole prompt.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from inferloom.core.errors import RequestRejectedError
from inferloom.core.types import Message, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OPEN, _SHUT = "\ue0f0", "\ue0f1"
_PLACE = re.compile(f"{_OPEN}(\\d+){_SHUT}")
_END_OF_OPEN_TURN = f"{_OPEN}end{_SHUT}"
_CONTEXT = 4
"""Prompt tokens decoded before an answer, so that its first word keeps its leading space."""


class _Encoding(Protocol):
    ids: list[int]


class _Codec(Protocol):
    """The part of `tokenizers.Tokenizer` that is used here."""

    encode_special_tokens: bool

    def encode(self, sequence: str, *, add_special_tokens: bool) -> _Encoding: ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


class Prompter:
    """One model's chat template and tokenizer.

    Args:
        tokenizer: A fast tokenizer with or without a chat template.
        name: The model as errors name it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._codec = cast("_Codec", tokenizer.backend_tokenizer)
        self._literal = copy.deepcopy(self._codec)
        self._literal.encode_special_tokens = True
        # The mark itself is one of the texts that are taken out, so that no content can forge a place.
        self._marks = [_OPEN, *sorted(set(map(str, tokenizer.all_special_tokens)), key=len, reverse=True)]
        self._mark = re.compile("|".join(map(re.escape, self._marks)))
        self._shown: dict[int, str] = {}

    def encode(self, request: Request) -> list[int]:
        """The prompt of a request as token ids.

        Raises:
            RequestRejectedError: There is nothing to continue, or no chat template, or the template refuses or
                changes the messages.
        """
        ids = self._encode_chat(request.messages) if request.prefix is None else self._ids(request.prefix)
        if not ids:
            raise RequestRejectedError("the prompt is empty; it needs at least one token", where=self._name)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._codec.decode(list(ids))

    def shown(self, token: int) -> str:
        """One token as text, special ones by name."""
        text = self._shown.get(token)
        if text is None:
            text = self._shown[token] = self._codec.decode([token], skip_special_tokens=False)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._codec.encode(text, add_special_tokens=False).ids)

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if not messages:
            raise RequestRejectedError("the request has neither messages nor a prefix", where=self._name)
        opened = messages[-1].role == "assistant" and messages[-1].content != ""
        turns = messages if messages[-1].role != "assistant" or opened else messages[:-1]
        chat = [{"role": turn.role, "content": self._hidden(turn.content)} for turn in turns]
        if opened:
            chat[-1]["content"] += _END_OF_OPEN_TURN
        text = self._rendered(chat, opened)
        if opened:
            text, mark, _ = text.rpartition(_END_OF_OPEN_TURN)
            if not mark or not text.endswith(self._hidden(messages[-1].content)):
                raise RequestRejectedError(
                    "its chat template changes the assistant's turn, so it cannot be continued; use a raw prefix",
                    where=self._name,
                )
        ids: list[int] = []
        for index, part in enumerate(_PLACE.split(text)):
            if index % 2:
                ids += self._literal.encode(self._marks[int(part)], add_special_tokens=False).ids
            elif part:
                ids += self._ids(part)
        return ids

    def _hidden(self, content: str) -> str:
        return self._mark.sub(lambda found: f"{_OPEN}{self._marks.index(found[0])}{_SHUT}", content)

    def _rendered(self, chat: list[dict[str, str]], opened: bool) -> str:
        if not self._tokenizer.chat_template:
            raise RequestRejectedError("has no chat template; ask it with a raw prefix", where=self._name)
        from jinja2 import TemplateError

        try:
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=not opened))
        except TemplateError as error:
            raise RequestRejectedError(f"its chat template refuses the messages: {error}", where=self._name) from None


class Writer:
    """Turns one row's tokens into text as they come; stops at stop strings."""

    __slots__ = ("_context", "_ids", "_offsets", "_prefix", "_prompter", "_read", "_stops", "_stream", "text")

    def __init__(self, prompter: Prompter, prompt: Sequence[int], stops: Sequence[str], stream: bool) -> None:
        self._prompter = prompter
        self._ids = list(prompt[-_CONTEXT:])
        self._context = len(self._ids)
        self._prefix, self._read = 0, self._context
        self._stops = [stop for stop in stops if stop]
        self._stream = stream or bool(self._stops)
        self._offsets: list[int] = []
        self.text = ""

    @property
    def safe(self) -> int:
        """How many characters of the text no stop string can take back."""
        return max(0, len(self.text) - max((len(stop) - 1 for stop in self._stops), default=0))

    def push(self, token: int) -> str | None:
        """Add a token; the stop string that it completes, if any. `text` then ends before that."""
        self._ids.append(token)
        self._offsets.append(len(self.text))
        if not self._stream:
            return None
        known = self._prompter.decode(self._ids[self._prefix : self._read])
        whole = self._prompter.decode(self._ids[self._prefix :])
        if whole.endswith("\ufffd") or len(whole) <= len(known):
            return None  # a character of several tokens is not complete yet
        self._prefix, self._read = self._read, len(self._ids)
        return self._grow(whole[len(known) :])

    def flush(self) -> str | None:
        """Take up what was held back, at the end of an answer; the stop string in it, if any."""
        known = self._prompter.decode(self._ids[self._prefix : self._read])
        return self._grow(self._prompter.decode(self._ids[self._prefix :])[len(known) :])

    def tokens_in_text(self) -> int:
        """How many of the pushed tokens begin within the text."""
        if not self._stops:
            return len(self._offsets)
        return sum(offset < len(self.text) for offset in self._offsets)

    def _grow(self, more: str) -> str | None:
        begin = len(self.text)
        self.text += more
        found: tuple[int, str] | None = None
        for stop in self._stops:
            at = self.text.find(stop, max(0, begin - len(stop) + 1))
            if at >= 0 and (found is None or at < found[0]):
                found = (at, stop)
        if found is None:
            return None
        self.text = self.text[: found[0]]
        return found[1]
