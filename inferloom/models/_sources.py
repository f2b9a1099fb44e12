"""Where a model's files are, from the name that stands in a spec, and its tokenizer without its weights.

A name is `pocket:SIZE`, a folder, or a name on the Hugging Face hub.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from inferloom.core.errors import SetupError, UnknownNameError
from inferloom.core.loading import LOADING
from inferloom.models.transformers import POCKET_FOLDER, POCKET_SIZES, folder_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from inferloom.models._prompting import Prompter

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
)


def local_folder(name: str, where: str, file: str = "config.json") -> Path | None:
    """The folder that a name stands for; None where it is a name on the hub.

    Args:
        name: `pocket:SIZE`, a path, or a name on the Hugging Face hub.
        where: The model as errors name it.
        file: What must be in the folder.

    Raises:
        UnknownNameError: There is no such pocket model.
        SetupError: A path has no such file in it.
    """
    if name.startswith("pocket:"):
        size = name.removeprefix("pocket:")
        if size not in POCKET_SIZES:
            raise UnknownNameError("pocket model", size, POCKET_SIZES, where=where)
        folder = POCKET_FOLDER / size
        if not (folder / file).is_file():
            raise SetupError(f"the files of `{name}` are not part of this installation", where=where)
        return folder
    folder = Path(name).expanduser()
    # A hub name has at most one slash and no leading dot or slash; everything else is a path.
    if not (name.startswith(("/", "~", ".")) or name.count("/") > 1 or folder.is_dir()):
        return None
    if not (folder / file).is_file():
        raise SetupError(f"`{name}` is not the folder of a model (it has no {file})", where=where)
    return folder.resolve()


def model_digest(name: str, where: str) -> str:
    """What tells a model from another: the hash of its folder, or its name on the hub. Reads files; takes a while.

    Raises:
        SetupError, UnknownNameError: The name stands for nothing.
    """
    folder = local_folder(name, where)
    return name if folder is None else folder_digest(folder)[:32]


def tokenizer_digest(name: str, where: str) -> str:
    """The hash of the files that turn a conversation into tokens, or the name on the hub.

    Raises:
        SetupError, UnknownNameError: The name stands for nothing.
    """
    folder = local_folder(name, where, "tokenizer_config.json")
    if folder is None:
        return name
    whole = hashlib.sha256()
    for file in sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()}):
        whole.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()[:32]


def need_transformers(where: str) -> None:
    """See that transformers is installed.

    Raises:
        SetupError: It is not.
    """
    if importlib.util.find_spec("transformers") is None:
        raise SetupError("needs the package `transformers`; run `pip install 'inferloom[pocket]'`", where=where)


class LazyPrompter:
    """The tokenizer and chat template of a model, read with the first use. No weights, no torch.

    Args:
        name: `pocket:SIZE`, a folder, or a name on the hub.
        revision: The version on the hub.
        where: The model as errors name it.
    """

    def __init__(self, name: str, revision: str | None, where: str) -> None:
        self._name = name
        self._revision = revision
        self._where = where
        self._lock = threading.Lock()
        self._prompter: Prompter | None = None

    async def get(self) -> Prompter:
        """The prompter; the first call reads files, in a thread.

        Raises:
            SetupError: There is no tokenizer under the name, or transformers is missing.
            UnknownNameError: There is no such pocket model.
        """
        return await asyncio.to_thread(self._load) if self._prompter is None else self._prompter

    def _load(self) -> Prompter:
        # Many first requests come at once; one of them reads.
        with self._lock:
            prompter = self._prompter or read_prompter(self._name, self._revision, self._where)
            self._prompter = prompter
            return prompter


def read_prompter(name: str, revision: str | None, where: str) -> Prompter:
    """Read the tokenizer and chat template of a model.

    Raises:
        SetupError: There is no tokenizer under the name, or transformers is missing.
        UnknownNameError: There is no such pocket model.
    """
    need_transformers(where)
    folder = local_folder(name, where, "tokenizer_config.json")
    with LOADING:
        from transformers import AutoTokenizer

        from inferloom.models._prompting import Prompter

        try:
            if folder is not None:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            else:
                tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SetupError(f"the tokenizer `{name}` cannot be loaded: {reason}", where=where) from None
    if not tokenizer.is_fast:
        raise SetupError(f"the tokenizer `{name}` has no fast form (tokenizer.json)", where=where)
    return Prompter(cast("PreTrainedTokenizerFast", tokenizer), where)
