"""Continuous batching: one thread owns a model and runs every request's rows together, a token at a time.

New rows join between two tokens and finished rows leave, so requests that come at different times share the work.
Prompts that are the same are read once. A row's text depends on its prompt, its seed and its own settings only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import RequestRejectedError, ServerFaultError
from inferloom.core.protocols import TokenSink
from inferloom.core.types import Completion, FinishReason, Request, TokenLogprob
from inferloom.models._prompting import Prompter, Writer
from inferloom.models._sampling import choose, likeliest, log_softmax

if TYPE_CHECKING:
    from inferloom.models._slab import Slab

_PREFILL_TOKENS = 8192
"""The most tokens, padding included, that one reading pass takes."""
_PATIENCE = 6
"""Tokens for which a new request may wait for company while many rows run."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model: its rows, its prompts, the tokens that end an answer, and the most tokens in all."""

    slab: Slab
    prompter: Prompter
    ends: frozenset[int]
    limit: int


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way: where its completions go, and the rows that are not done."""

    request: Request
    seeds: Sequence[int]
    on_token: TokenSink | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Completion]]
    done: dict[int, Completion] = field(default_factory=dict)

    @property
    def dropped(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done() or self.loop.is_closed()

    def finish(self, index: int, completion: Completion) -> None:
        self.done[index] = completion
        if len(self.done) == len(self.seeds):
            result = [self.done[i] for i in range(len(self.seeds))]
            self._call(lambda: None if self.future.done() else self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        self._call(lambda: None if self.future.done() else self.future.set_exception(error))

    def preview(self, index: int, text: str) -> None:
        if self.on_token is not None and text:
            sink = self.on_token
            self._call(lambda: sink(index, text))

    def _call(self, what: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(what)
        except RuntimeError:
            # The caller's loop closed between the check and the call: nobody is left to tell.
            if not self.loop.is_closed():
                raise


@dataclass(eq=False, slots=True)
class _Row:
    job: Job
    index: int
    seed: int
    prompt: list[int]
    room: int
    """The most tokens that may follow."""
    writer: Writer
    count: int = 0
    last: int = 0
    previewed: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Batcher:
    """Runs the rows of one model in a thread of its own, which starts with the first request.

    Args:
        load: Makes the engine; called once, in the thread.
        name: The model, as errors and the thread name it.
        most_rows: The most rows that run together.
    """

    def __init__(self, load: Callable[[], Engine], name: str, most_rows: int) -> None:
        self._load = load
        self._name = name
        self._most_rows = most_rows
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._waiting: list[_Row] = []
        self._rows: list[_Row] = []
        self._waited = 0

    def submit(self, job: Job) -> None:
        """Take a request on; its future is set on its own loop."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"inferloom {self._name}", daemon=True)
                self._thread.start()
            self._inbox.put(job)

    def close(self) -> None:
        """Stop the thread; requests on their way fail. A later request starts it again."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._inbox.put(None)
                thread.join()

    def _run(self) -> None:
        while True:
            if not self._collect():
                self._fail_all(ServerFaultError("the model was closed", where=self._name))
                return
            try:
                self._turn()
            except Exception as error:
                # Out of memory, a broken model: every waiting caller is told, and the thread lives on for the next.
                self._fail_all(error)

    def _collect(self) -> bool:
        """Take new requests in, waiting for one where there is nothing to do; False when told to stop."""
        while True:
            busy = bool(self._rows or self._waiting)
            try:
                job = self._inbox.get(block=not busy)
            except queue.Empty:
                return True
            if job is None:
                return False
            try:
                self._waiting += self._opened(job)
            except Exception as error:
                job.fail(error)  # a missing model, a refused prompt: the caller's to know

    def _opened(self, job: Job) -> list[_Row]:
        """The rows of a request, not yet read."""
        if self._engine is None:
            self._engine = self._load()
        engine, request = self._engine, job.request
        prompt = engine.prompter.encode(request)
        room = engine.limit - len(prompt)
        if room < 1:
            raise RequestRejectedError(
                f"the prompt has {len(prompt)} tokens, and the model reads at most {engine.limit}, the answer included",
                where=self._name,
            )
        stream = job.on_token is not None
        return [
            _Row(
                job,
                index,
                seed,
                prompt,
                min(room, request.max_tokens),
                Writer(engine.prompter, prompt, request.stop, stream),
            )
            for index, seed in enumerate(job.seeds)
        ]

    def _turn(self) -> None:
        """Let rows join if it is time, then write one token to every row."""
        engine = self._engine
        assert engine is not None
        self._waiting = [row for row in self._waiting if not row.job.dropped]
        self._leave([i for i, row in enumerate(self._rows) if row.job.dropped])
        space = self._most_rows - len(self._rows)
        self._waited = self._waited + 1 if self._waiting else 0
        company = len(self._waiting) >= max(1, len(self._rows) // 8) or self._waited > _PATIENCE
        if self._waiting and space > 0 and (not self._rows or company):
            self._waited = 0
            self._join(space)
        if self._rows:
            logits = engine.slab.step([row.last for row in self._rows])
            self._leave(self._advance(self._rows, logits))

    def _join(self, space: int) -> None:
        """Read the prompts of waiting rows, those of like length together, and let the rows in."""
        chosen, self._waiting = self._waiting[:space], self._waiting[space:]
        by_prompt: dict[tuple[int, ...], list[_Row]] = {}
        for row in chosen:
            by_prompt.setdefault(tuple(row.prompt), []).append(row)
        prompts = sorted(by_prompt, key=len)
        while prompts:
            take = len(prompts)
            while take > 1 and take * len(prompts[take - 1]) > _PREFILL_TOKENS:
                take -= 1
            self._read(prompts[:take], by_prompt)
            prompts = prompts[take:]

    def _read(self, prompts: list[tuple[int, ...]], by_prompt: dict[tuple[int, ...], list[_Row]]) -> None:
        engine = self._engine
        assert engine is not None
        read = engine.slab.prefill(prompts)
        rows = [(row, source) for source, prompt in enumerate(prompts) for row in by_prompt[prompt]]
        logits = read.logits[[source for _, source in rows]]
        over = set(self._advance([row for row, _ in rows], logits))
        going = [pair for index, pair in enumerate(rows) if index not in over]
        if going:
            engine.slab.join(read, [source for _, source in going])
            self._rows += [row for row, _ in going]

    def _advance(self, rows: Sequence[_Row], logits: NDArray[np.float32]) -> list[int]:
        """Choose every row's next token and hand in what is finished; the indices of the finished rows."""
        asked = [row.job.request for row in rows]
        tokens = choose(
            logits,
            [request.temperature for request in asked],
            [request.top_p for request in asked],
            [row.seed for row in rows],
            [row.count for row in rows],
        )
        return [i for i, (row, token) in enumerate(zip(rows, tokens, strict=True)) if self._take(row, token, logits[i])]

    def _take(self, row: _Row, token: int, logits: NDArray[np.float32]) -> bool:
        """Give a row its next token; whether that ended it."""
        engine, request = self._engine, row.job.request
        assert engine is not None
        row.last = token
        row.count += 1
        if token in engine.ends:
            stop = row.writer.flush()
            self._finish(row, "stop", stop)
            return True
        if request.logprobs is not None:
            row.logprobs.append(self._logprob(engine.prompter, token, logits, request.logprobs))
        stop = row.writer.push(token)
        last = stop is None and row.count >= row.room
        if last:
            stop = row.writer.flush()
        if stop is not None or last:
            self._finish(row, "length" if stop is None else "stop", stop)
            return True
        if row.job.on_token is not None and row.writer.safe > row.previewed:
            row.job.preview(row.index, row.writer.text[row.previewed : row.writer.safe])
            row.previewed = row.writer.safe
        return False

    @staticmethod
    def _logprob(prompter: Prompter, token: int, logits: NDArray[np.float32], count: int) -> TokenLogprob:
        logprobs = log_softmax(logits)
        top = tuple((prompter.shown(other), float(logprobs[other])) for other in likeliest(logprobs, count))
        return TokenLogprob(prompter.shown(token), float(logprobs[token]), top)

    @staticmethod
    def _finish(row: _Row, reason: FinishReason, stop: str | None) -> None:
        wanted = row.job.request.logprobs is not None
        row.job.preview(row.index, row.writer.text[row.previewed :])
        row.job.finish(
            row.index,
            Completion(
                text=row.writer.text,
                finish_reason=reason,
                stop_reason=stop,
                prompt_tokens=len(row.prompt) if row.index == 0 else 0,
                completion_tokens=row.count,
                logprobs=tuple(row.logprobs[: row.writer.tokens_in_text()]) if wanted else None,
            ),
        )

    def _leave(self, gone: Sequence[int]) -> None:
        """Take finished rows out of the batch."""
        engine = self._engine
        if gone and engine is not None:
            left = engine.slab.drop(gone)
            self._rows = [self._rows[old] for old in left]

    def _fail_all(self, error: Exception) -> None:
        for job in {id(row.job): row.job for row in (*self._rows, *self._waiting)}.values():
            job.fail(error)
        self._rows, self._waiting = [], []
        if self._engine is not None:
            self._engine.slab.clear()
