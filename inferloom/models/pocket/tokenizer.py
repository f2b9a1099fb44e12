"""The pocket models' tokenizer: characters, plus one token for each word of the task and job texts.

Built once by the training script and saved in the format of `transformers`, chat template included, so that every
engine that loads a Llama folder loads it as it is.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from inferloom.models.pocket.tasks.story import NAMES, THINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, END = "<|pad|>", "<|unk|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

_STORY_WORDS = (
    *NAMES,
    *THINGS,
    *("has", "Then", "finds", "buys", "gives", "away", "loses", "gets"),
    *("times", "as", "many", "packs", "of", "How", "now"),
)
_TASK_WORDS = ("count", "in", "reverse", "sort", "make", "from")
_JOB_WORDS = ("score", "check", "revise", "rank", "combine", "ok", "wrong")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def words() -> list[str]:
    """Every word that is a token of its own, without and with a space in front."""
    bare = sorted({*_STORY_WORDS, *_TASK_WORDS, *_JOB_WORDS})
    return [*bare, *(" " + word for word in bare)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer from its word list; the same list always gives the same ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, UNKNOWN, END, *ROLES.values()]
    characters = ["\n", *(c for c in string.printable if c.isprintable())]
    vocabulary = {token: index for index, token in enumerate([*specials, *characters, *words()])}
    alternatives = "|".join(re.escape(word) for word in sorted({w.strip() for w in words()}, key=len, reverse=True))
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf" ?\b(?:{alternatives})\b|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )
