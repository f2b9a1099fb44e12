"""The schemes `transformers` and `pocket`: language models that run in this process, with no server and no key.

    pocket:small                  one of the models that come with inferloom
    transformers:/path/to/folder  a folder in the format of `transformers`
    transformers:Qwen/Qwen3-0.6B  a model of the Hugging Face hub; downloaded once, `revision` picks the version

`extra` may set `device` (`cpu`, `cuda`, ...; by default the accelerator for `transformers`, the CPU for `pocket`) and
`dtype` (`float32`, `bfloat16`, `float16`; by default float32 on the CPU and the model's own elsewhere).

All concurrent requests run as one batch (`_batcher.py`). The weights are read with the first request.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from inferloom.core.errors import RequestRejectedError, SetupError, UnknownNameError, UnreachableError, nearest
from inferloom.core.loading import LOADING, need_packages
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.types import Completion, Request
from inferloom.models._batcher import Batcher, Engine, Job
from inferloom.models.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

POCKET_SIZES = ("small", "medium", "large")
POCKET_FOLDER = Path(__file__).parent / "pocket"
_DTYPES = ("float32", "bfloat16", "float16")
_MOST_ROWS = {"pocket": 256, "transformers": 64}
_ONE_THREAD_BELOW = 20_000_000
"""Parameters below which a model on the CPU runs in one thread."""
_IDENTIFYING = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
)
_digests: dict[tuple[str, int, int], str] = {}
"""SHA-256 of files read so far, by path, modification time (ns) and size."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from and how it is to run."""

    name: str
    """The model as errors name it."""
    folder: Path | None
    """Its folder; None where the hub must be asked."""
    hub: str = ""
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None

    def located(self) -> Path:
        """The folder, downloaded first if need be.

        Raises:
            SetupError: The hub has no such model.
            UnreachableError: The hub cannot be reached.
        """
        if self.folder is not None:
            return self.folder
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            return Path(snapshot_download(self.hub, revision=self.revision, allow_patterns=[*_IDENTIFYING, "*.json"]))
        except LocalEntryNotFoundError:
            raise UnreachableError(
                "is not a folder here, and the Hugging Face hub cannot be reached", where=self.name
            ) from None
        except (RepositoryNotFoundError, RevisionNotFoundError):
            version = f" in revision `{self.revision}`" if self.revision else ""
            raise SetupError(
                f"neither a folder nor a model of the Hugging Face hub{version}", where=self.name
            ) from None


class TransformersBackend:
    """One model in this process."""

    def __init__(self, source: Source, spec: ModelSpec) -> None:
        self._source = source
        self._where = source.name
        stated = spec.capabilities.model_dump(exclude_none=True)
        self._capabilities = replace(
            Capabilities(n=True, logprobs=True, prefix=True, seed=True), **{**stated, "structured": False}
        )
        self._batcher = Batcher(lambda: load(source), source.name, _MOST_ROWS.get(spec.scheme, 64))

    def __repr__(self) -> str:
        return f"TransformersBackend({self._source.name!r})"

    @property
    def capabilities(self) -> Capabilities:
        """All but structured output, as the spec's `capabilities` narrow it."""
        return self._capabilities

    async def fingerprint(self) -> str:
        """The hash of weights, tokenizer, chat template and settings files, and of a data type that was set."""
        return await asyncio.to_thread(self._fingerprint)

    def _fingerprint(self) -> str:
        digest = folder_digest(self._source.located())
        return f"local-{digest[:32]}" + (f"-{self._source.dtype}" if self._source.dtype else "")

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """One completion per seed; its text depends on the prompt, the seed and the request's settings only.

        `completion_tokens` counts every token that was generated, the end of turn and the stop string included;
        log-probabilities are the model's own (temperature 1) and cover the tokens of the text. Cancelling takes the
        rows out of the batch.

        Raises:
            RequestRejectedError: The prompt leaves no room for an answer, or cannot be rendered.
            SetupError: The model or a package is missing.
        """
        if request.schema is not None:
            raise RequestRejectedError("cannot hold a reply to a JSON schema", where=self._where)
        if not seeds:
            return []
        loop = asyncio.get_running_loop()
        job = Job(request, list(seeds), on_token, loop, loop.create_future())
        self._batcher.submit(job)
        return await job.future

    async def aclose(self) -> None:
        """Stop the model's thread and let the weights go."""
        await asyncio.to_thread(self._batcher.close)


def open_transformers(rest: str, spec: ModelSpec) -> TransformersBackend:
    """The backend of `transformers:rest`; `rest` is a folder or a name on the Hugging Face hub.

    Raises:
        SetupError: torch or transformers is missing, a path has no model in it, or `extra` holds something unknown.
    """
    need_packages(spec.model)
    folder = Path(rest).expanduser()
    # A hub name has at most one slash and no leading dot or slash; everything else is a path.
    path_like = rest.startswith(("/", "~", ".")) or rest.count("/") > 1 or folder.is_dir()
    if path_like and not (folder / "config.json").is_file():
        raise SetupError("is not the folder of a model (it has no config.json)", where=spec.model)
    return TransformersBackend(_source(spec, folder.resolve() if path_like else None, rest), spec)


def open_pocket(rest: str, spec: ModelSpec) -> TransformersBackend:
    """The backend of `pocket:rest`, a model that comes with inferloom.

    Raises:
        UnknownNameError: There is no such size.
        SetupError: torch or transformers is missing, or this build holds no weights for the size.
    """
    if rest not in POCKET_SIZES:
        raise UnknownNameError("pocket model", rest, POCKET_SIZES)
    folder = POCKET_FOLDER / rest
    if not (folder / "config.json").is_file():
        raise SetupError("the weights of this size are not part of this installation", where=spec.model)
    need_packages(spec.model)
    source = _source(spec, folder, rest)
    return TransformersBackend(replace(source, device=source.device or "cpu"), spec)


def _source(spec: ModelSpec, folder: Path | None, rest: str) -> Source:
    for name in spec.extra:
        if name not in ("device", "dtype"):
            raise SetupError(
                f"unknown field `{name}` in `extra`; must be device or dtype",
                where=spec.model,
                suggestion=nearest(name, ("device", "dtype")),
            )
    device, dtype = spec.extra.get("device"), spec.extra.get("dtype")
    if dtype is not None and dtype not in _DTYPES:
        raise SetupError(f"`dtype` must be one of {', '.join(_DTYPES)}, not {dtype!r}", where=spec.model)
    if device is not None and not isinstance(device, str):
        raise SetupError(f"`device` must be a name such as cpu or cuda, not {device!r}", where=spec.model)
    return Source(spec.model, folder, rest, spec.revision, device, str(dtype) if dtype else None)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that decide what a model says; 64 hex digits."""
    files = sorted({file for pattern in _IDENTIFYING for file in folder.glob(pattern) if file.is_file()})
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{_file_digest(file)}\n".encode())
    return whole.hexdigest()


def _file_digest(file: Path) -> str:
    status = file.stat()
    key = (str(file), status.st_mtime_ns, status.st_size)
    if key not in _digests:
        with file.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[key]


def load(source: Source) -> Engine:
    """Read a model and its tokenizer.

    Raises:
        SetupError: The folder does not hold a model that can be run.
    """
    with LOADING:
        return _load(source)


def _load(source: Source) -> Engine:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    folder = source.located()
    device = source.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = source.dtype or ("float32" if device == "cpu" else "auto")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder, local_files_only=True))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise SetupError(
            f"the folder {folder} cannot be loaded: {str(error).splitlines()[0]}", where=source.name
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()
    return engine_of(model.to(device), tokenizer, source.name)


def engine_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> Engine:
    """A model and a tokenizer, ready to be batched."""
    from inferloom.models._prompting import Prompter
    from inferloom.models._slab import Slab

    model.eval()
    if model.device.type == "cpu" and model.num_parameters() < _ONE_THREAD_BELOW:
        _use_one_thread()
    config = model.config.get_text_config()
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    limit = int(getattr(config, "max_position_embeddings", None) or 4096)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    numbers = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return Engine(Slab(model, pad), Prompter(tokenizer, name), frozenset(map(int, numbers)), limit)


def _use_one_thread() -> None:
    """Let the calling thread compute alone. A second thread gains little here and costs much on busy cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # That also set what threads to come start with; a passing thread puts it back, and this thread keeps its own.
    passing = threading.Thread(target=torch.set_num_threads, args=(before,))
    passing.start()
    passing.join()
