"""The scheme `vllm`: vLLM's engine in this process, with no server and no HTTP.

    vllm:pocket:small           one of the models that come with inferloom
    vllm:/path/to/folder        a folder in the format of `transformers`
    vllm:Qwen/Qwen3-0.6B        a model of the Hugging Face hub; `revision` picks the version

`extra` holds arguments of vLLM's engine (`dtype`, `max_model_len`, `gpu_memory_utilization`, ...); on a CPU `dtype` is
float32 and prompts are read whole (`enable_chunked_prefill: false`) unless it says otherwise.

The engine starts with the first request and lives on an event loop of its own, in a thread of its own, so that every
event loop of the process can use it. Its requests run as one batch; each completion is a request of its own with its
own seed. vLLM computes in a process that it starts itself, so a program that uses it needs the usual
`if __name__ == "__main__":` around what it does.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import itertools
import multiprocessing
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

from pydantic import JsonValue, ValidationError

from inferloom.core.answers import split_reasoning
from inferloom.core.errors import (
    InferloomError,
    Outcome,
    RequestRejectedError,
    ServerFaultError,
    SetupError,
    nearest,
)
from inferloom.core.loading import LOADING
from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.types import Completion, FinishReason, Request, TokenLogprob
from inferloom.models._prompting import Prompter, Writer
from inferloom.models._sources import local_folder, model_digest, read_prompter
from inferloom.models.spec import ModelSpec

_FINISH: Mapping[str | None, FinishReason] = {"stop": "stop", "length": "length"}
_OURS = ("model", "tokenizer", "revision")
_LEAST_LOGPROB = -9999.0
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # A fork of a process with threads can stop dead.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""What vLLM is told where the user's environment says nothing: our standard output is not its log."""

_ON_CPU: Mapping[str, JsonValue] = {"dtype": "float32", "enable_chunked_prefill": False}
"""Half a prompt with a seed ends the engine (0.32: "CPU Generator does not use offset")."""

_QUIET: Mapping[str, JsonValue] = {"disable_log_stats": True, "use_tqdm_on_load": False}


class EngineDiedError(ServerFaultError):
    """vLLM's engine died under a request; another attempt starts a new one."""

    outcome: Outcome = "unknown"  # type: ignore[misc]  # declared for classes


class _Logprob(Protocol):
    logprob: float


class _Made(Protocol):
    """The part of vLLM's `CompletionOutput` that is used here."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, _Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None


class _Output(Protocol):
    outputs: Sequence[_Made]
    num_cached_tokens: int | None


class _Engine(Protocol):
    """The part of vLLM's `AsyncLLM` that is used here."""

    @property
    def errored(self) -> bool: ...

    def generate(self, prompt: object, sampling_params: object, request_id: str) -> AsyncIterator[_Output]: ...

    def shutdown(self) -> None: ...


class _Guard:
    """Ends the processes of an engine when ours is killed; vLLM's own would stay, with all their memory.

    A shell that waits for the end of a pipe, which comes when we are gone, however that happened.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        script = 'read -r _; kill -9 "$@" 2>/dev/null'
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *map(str, processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """The engine is shut down; its processes' numbers may soon be somebody else's."""
        self._shell.kill()
        self._shell.communicate()


@dataclass(slots=True)
class _Draw:
    """One completion in the making."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Mapping[int, _Logprob]] = field(default_factory=list)
    cached: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, output: _Output) -> str:
        """Take in what is new; its text."""
        [made] = output.outputs
        self.text += made.text
        self.tokens += made.token_ids
        self.logprobs += made.logprobs or ()
        self.cached = output.num_cached_tokens or self.cached
        self.finish_reason, self.stop_reason = made.finish_reason, made.stop_reason
        return made.text


class VllmBackend:
    """One model on vLLM's engine in this process."""

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self._name = name
        self._spec = spec
        self._where = spec.model
        able = Capabilities(n=True, logprobs=True, prefix=True, seed=True, structured=True)
        self._capabilities = replace(able, **spec.capabilities.model_dump(exclude_none=True))
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # Only the engine's own loop touches these.
        self._engine: _Engine | None = None
        self._guard: _Guard | None = None
        self._prompter: Prompter | None = None
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"VllmBackend({self._spec.model!r})"

    @property
    def capabilities(self) -> Capabilities:
        """All of them, as the spec's `capabilities` narrow it."""
        return self._capabilities

    async def fingerprint(self) -> str:
        """The hash of weights, tokenizer and settings files (on the hub: name and revision), with `dtype` if set."""
        digest = await asyncio.to_thread(model_digest, self._name, self._where)
        parts = [digest, self._spec.revision, self._spec.extra.get("dtype")]
        return "vllm-" + "-".join(str(part).replace("/", "--") for part in parts if part)

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        """One completion per seed. Cancelling takes the requests out of the engine.

        `completion_tokens` counts every token that was generated, the end of turn and the stop string included;
        log-probabilities are the model's own (temperature 1) and cover the tokens of the text.

        Raises:
            RequestRejectedError: The prompt leaves no room for an answer, or cannot be rendered.
            EngineDiedError: The engine died; what it made is not known.
            SetupError: The model or an engine argument is wrong.
        """
        if not seeds:
            return []
        sink = None if on_token is None else _on_loop(asyncio.get_running_loop(), on_token)
        work = asyncio.run_coroutine_threadsafe(self._generate(request, seeds, sink), self._own_loop())
        return await asyncio.wrap_future(work)

    async def aclose(self) -> None:
        """Stop the engine, its process and its thread. A later request starts them again."""
        await asyncio.to_thread(self._close)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_live, args=(self._loop,), name=f"inferloom {self._where}", daemon=True
                )
                self._thread.start()
            return self._loop

    def _close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            if loop is None or thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._wind_up(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            # vLLM's engine is a ring of references; left to the end of the interpreter, it trips over what is gone.
            gc.collect()

    async def _wind_up(self) -> None:
        self._drop_engine()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        guard, self._guard = self._guard, None
        if engine is not None:
            with suppress(Exception):
                engine.shutdown()
        if guard is not None:
            guard.dismiss()

    async def _generate(self, request: Request, seeds: Sequence[int], sink: TokenSink | None) -> list[Completion]:
        """The completions; runs on the engine's loop."""
        prompter = self._prompter
        if prompter is None:
            prompter = self._prompter = read_prompter(self._name, self._spec.revision, self._where)
        prompt = prompter.encode(request)
        if self._engine is None:
            before = {process.pid for process in multiprocessing.active_children()}
            self._engine = _started(self._name, self._spec)
            begun = {process.pid for process in multiprocessing.active_children()} - before
            self._guard = _Guard([number for number in begun if number is not None])
        engine = self._engine
        draws = [
            asyncio.ensure_future(self._draw(engine, prompt, request, seed, index, sink))
            for index, seed in enumerate(seeds)
        ]
        try:
            made = await asyncio.gather(*draws)
        finally:
            for draw in draws:
                draw.cancel()
        return [
            replace(
                _completion(draw, prompter, prompt, request),
                prompt_tokens=0 if index else len(prompt),
                cached_tokens=0 if index else draw.cached,
            )
            for index, draw in enumerate(made)
        ]

    async def _draw(
        self, engine: _Engine, prompt: list[int], request: Request, seed: int, index: int, sink: TokenSink | None
    ) -> _Draw:
        draw = _Draw()
        try:
            parameters = _parameters(request, seed, whole=sink is None)
            number = f"inferloom-{next(self._numbers)}"
            async for output in engine.generate({"prompt_token_ids": prompt}, parameters, number):
                new = draw.add(output)
                if sink is not None and new:
                    sink(index, new)
        except Exception as error:
            raise self._failure(error, engine) from None
        return draw

    def _failure(self, error: Exception, engine: _Engine) -> InferloomError:
        """What an error of vLLM means. Its classes move from version to version, so they are known by name."""
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if engine.errored or "EngineDeadError" in kinds:
            if self._engine is engine:
                self._drop_engine()
            return EngineDiedError("vLLM's engine died; its own log says why", where=self._where)
        if kinds & {"VLLMClientError", "ValueError", "TypeError"}:
            return RequestRejectedError(f"vLLM refused the request: {_one_line(error)}", where=self._where)
        return ServerFaultError(f"vLLM failed: {_one_line(error.__cause__ or error)}", where=self._where)


def open_vllm(rest: str, spec: ModelSpec) -> VllmBackend:
    """The backend of `vllm:rest`. Starts nothing.

    Raises:
        SetupError: vLLM is missing, a path has no model in it, or `extra` holds what is not the user's to set.
        UnknownNameError: There is no such pocket model.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SetupError("needs the package `vllm`; run `pip install 'inferloom[vllm]'`", where=spec.model)
    local_folder(rest, spec.model)
    for name in spec.extra:
        if name.replace("-", "_") in _OURS:
            raise SetupError(f"`{name}` in `extra` is set by inferloom; leave it out", where=spec.model)
    return VllmBackend(rest, spec)


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """The thread of an engine."""
    # Libraries keep tracebacks of imports that failed, and with them every frame below: no engine may be in one.
    with suppress(Exception), LOADING:
        _prepare()
    loop.run_forever()


def _prepare() -> None:
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    importlib.import_module("vllm.v1.engine.async_llm")


def _started(name: str, spec: ModelSpec) -> _Engine:
    """A new engine, on the running loop. One at a time: each measures the memory that is left.

    Raises:
        SetupError: The model or an engine argument is wrong.
    """
    with LOADING:
        try:
            _prepare()
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except (ImportError, RuntimeError) as error:
            raise SetupError(f"vLLM cannot be imported: {_one_line(error)}", where=spec.model) from None
        arguments = _engine_arguments(name, spec, {one.name for one in fields(AsyncEngineArgs)})
        if current_platform.is_cpu():
            arguments = {**_ON_CPU, **arguments}
        try:
            engine: _Engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:
            # Whatever vLLM finds wrong with arguments, files or memory; nothing of ours runs in there.
            raise SetupError(f"vLLM's engine cannot be started: {_one_line(error)}", where=spec.model) from None
    return engine


def _engine_arguments(name: str, spec: ModelSpec, known: Collection[str]) -> dict[str, JsonValue]:
    folder = local_folder(name, spec.model)
    arguments: dict[str, JsonValue] = {"model": str(folder or name), **_QUIET}
    if spec.revision is not None and folder is None:
        arguments["revision"] = spec.revision
    for written, value in spec.extra.items():
        argument = written.replace("-", "_")
        if argument not in known:
            raise SetupError(
                f"`{written}` in `extra` is not an argument of vLLM's engine",
                where=spec.model,
                suggestion=nearest(argument, known),
            )
        arguments[argument] = value
    return arguments


def _parameters(request: Request, seed: int, whole: bool) -> object:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        n=1,
        seed=seed,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        stop=[stop for stop in request.stop if stop],
        logprobs=request.logprobs,
        structured_outputs=StructuredOutputsParams(json=request.schema) if request.schema is not None else None,
        output_kind=RequestOutputKind.FINAL_ONLY if whole else RequestOutputKind.DELTA,
    )


def _completion(draw: _Draw, prompter: Prompter, prompt: Sequence[int], request: Request) -> Completion:
    stop = draw.stop_reason if isinstance(draw.stop_reason, str) else None
    ended = draw.finish_reason == "stop" and stop is None
    logprobs: tuple[TokenLogprob, ...] | None = None
    if request.logprobs is not None:
        # The token that ends an answer, and those of the stop string, are not part of the text.
        writer = Writer(prompter, prompt, request.stop, stream=True)
        tokens = draw.tokens[:-1] if ended else draw.tokens
        if all(writer.push(token) is None for token in tokens):
            writer.flush()
        pairs = zip(tokens, draw.logprobs[: writer.tokens_in_text()], strict=False)
        logprobs = tuple(_logprob(prompter, token, place, request.logprobs) for token, place in pairs)
    text, reasoning = split_reasoning(draw.text)
    return Completion(
        text=text,
        finish_reason=_FINISH.get(draw.finish_reason, "other"),
        stop_reason=stop,
        completion_tokens=len(draw.tokens),
        logprobs=logprobs,
        reasoning=reasoning,
    )


def _logprob(prompter: Prompter, token: int, place: Mapping[int, _Logprob], count: int) -> TokenLogprob:
    likeliest = sorted(place.items(), key=lambda item: (-item[1].logprob, item[0]))[:count]
    top = tuple((prompter.shown(other), max(_LEAST_LOGPROB, one.logprob)) for other, one in likeliest)
    return TokenLogprob(prompter.shown(token), max(_LEAST_LOGPROB, place[token].logprob), top)


def _on_loop(loop: asyncio.AbstractEventLoop, sink: TokenSink) -> TokenSink:
    """The sink, called on its own loop."""

    def call(index: int, text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody looks any more
            loop.call_soon_threadsafe(sink, index, text)

    return call


def _one_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        text = str(error.errors(include_url=False, include_input=False)[0]["msg"])
    else:
        text = str(error) or type(error).__name__
    # Which processes failed is left empty by vLLM itself.
    return " ".join(text.partition(" Failed core proc")[0].split())[:300]
