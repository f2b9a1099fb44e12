"""A worker of a study: it opens the study's database by itself and answers the chunks that it is given.

`ProcessHand` is one in a process of this machine, which ends with the process that started it, whatever ended that.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from inferloom.core.errors import (
    BudgetExceededError,
    InferloomError,
    ModelError,
    SetupError,
    SpecError,
    StorageError,
    UserError,
)
from inferloom.evaluation.evaluate import ItemResult
from inferloom.evaluation.splits import SplitName, split_items
from inferloom.search.crew import Chunk, Crew, Hand, OnResult, WorkerDiedError

if TYPE_CHECKING:
    from inferloom.search.job import SearchJob
    from inferloom.search.runner import Runner
    from inferloom.store import Store

_ENDING_SECONDS = 20.0
"""How long a worker may take to let go of what it does before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker must know before it can work."""

    url: str
    """The database."""
    study: str
    identity: str
    """The study's job, data and sampler as one hash: a worker that reads another one there does not work."""
    at_once: int
    """Items to answer at once."""
    threads: int
    """Threads for the arithmetic of local models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many work on a study, and where."""

    count: int
    hand: Callable[[Assignment], Hand] | None = None
    """Makes one; None: in a process of this machine."""
    cores: int | None = None
    """Cores that one of them may use; None: its part of this machine's."""

    def check(self, job: SearchJob, url: str) -> None:
        """Check that a study can be split among workers.

        Raises:
            SpecError: Its items must be answered one after the other.
            SetupError: Nobody else can open its database.
        """
        if job.spec.memory == "online":
            raise SpecError(
                "the value is online; a study whose trials learn from one item for the next cannot be split among "
                "workers: search without them, or with `memory: frozen`",
                where=f"{job.document.where(('memory',))}: memory",
            )
        from inferloom.store.engine import is_memory, parse_url

        if is_memory(parse_url(url)):
            raise SetupError("a database in memory cannot be opened by workers; name a file or a server", where="--db")

    def crew(self, runner: Runner, job: SearchJob, *, url: str, study: str, identity: str) -> Crew:
        """The crew for a study's runner."""
        at_once = ceil(job.spec.concurrency / self.count)
        threads = self.cores or max(1, (os.cpu_count() or 1) // self.count)
        assignment = Assignment(url=url, study=study, identity=identity, at_once=at_once, threads=threads)
        make = self.hand or ProcessHand
        return Crew(
            lambda: make(assignment),
            workers=self.count,
            at_once=at_once,
            left=lambda: runner.left,
            on_result=runner.tell,
        )


class Came(NamedTuple):
    """A result, on its way to the study."""

    trial: int
    split: SplitName
    result: ItemResult


class Refused(NamedTuple):
    """Why a worker cannot work."""

    kind: Literal["user", "storage", "internal"]
    message: str
    where: str | None


Report: TypeAlias = Came | Refused | None
"""What a worker sends; None: the chunk is done."""


class Worker:
    """Answers chunks; for use on one event loop.

    Args:
        assignment: The study and its database.

    Raises:
        SpecError: The study in the database is another one.
        InferloomError: The database or the data cannot be read.
    """

    def __init__(self, assignment: Assignment, on_result: OnResult) -> None:
        # Before torch is imported, which reads it once.
        os.environ.setdefault("OMP_NUM_THREADS", str(assignment.threads))
        from inferloom.models.client import Gateway
        from inferloom.store import Store

        self._on_result = on_result
        self.store: Store = Store.open(assignment.url)
        self._gateway = Gateway(self.store)
        self._runner = self._runner_of(assignment)

    def _runner_of(self, assignment: Assignment) -> Runner:
        from inferloom.evaluation.data import load_items
        from inferloom.search.record import StudyRecord
        from inferloom.search.runner import Runner, data_hash

        record = StudyRecord.find(self.store, assignment.study)
        job = record.job
        data = load_items(job.spec.data, base=job.base)
        if job.identity(data_hash(data)) != assignment.identity:
            raise UserError(
                f"the study `{assignment.study}` is another one here: its data or this version of inferloom differ "
                "from those of the process that runs it",
                where="worker",
            )
        return Runner(
            self.store,
            self._gateway,
            study=assignment.study,
            data=data,
            splits=split_items(data.items, job.spec.split, name=data.name),
            seed=job.spec.seed,
            concurrency=assignment.at_once,
            budget=job.spec.max_billed.budget(),
            on_item=self._on_result,
            memory=job.spec.memory,
            began=record.row.created,
        )

    async def answer(self, chunk: Chunk) -> None:
        """Answer a chunk, as far as it goes.

        What a limit, a model or a mistake in a pipeline stopped is left to the study, which meets the same and judges.

        Raises:
            StorageError: The database takes no writes.
        """
        self._runner.allow(chunk.budget)
        outcomes = await asyncio.gather(*map(self._runner.answer, chunk.shares), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, BudgetExceededError | ModelError | UserError
            ):
                raise outcome

    async def aclose(self) -> None:
        """Let go of models and database."""
        await self._gateway.aclose()
        self.store.close()


class ProcessHand:
    """A worker in a process of this machine."""

    def __init__(self, assignment: Assignment) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, assignment), name="inferloom-worker")
        self._process.start()
        # Only the worker may hold its end: when it is gone, this one must read an end of file.
        theirs.close()

    async def work(self, chunk: Chunk, on_result: OnResult) -> None:
        """As `Hand.work`."""
        try:
            self._connection.send(chunk)
            while (report := await self._receive()) is not None:
                if isinstance(report, Refused):
                    raise error_of(report)
                on_result(*report)
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            raise WorkerDiedError(f"exit code {self._process.exitcode}", where="worker") from None

    async def _receive(self) -> Report:
        loop, file = asyncio.get_running_loop(), self._connection.fileno()
        if not self._connection.poll():
            ready = asyncio.Event()
            loop.add_reader(file, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(file)
        report: Report = self._connection.recv()
        return report

    async def aclose(self) -> None:
        """As `Hand.aclose`: an end of file tells the worker to end."""
        self._connection.close()
        await asyncio.to_thread(self._process.join, _ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)


def error_of(refused: Refused) -> InferloomError:
    """The error that a worker could not go on for."""
    kinds: dict[str, type[InferloomError]] = {"user": UserError, "storage": StorageError}
    return kinds.get(refused.kind, InferloomError)(refused.message, where=refused.where)


def _main(connection: Connection, assignment: Assignment) -> None:
    """The process of a worker."""
    import signal

    # An interrupt at the terminal reaches the study, which ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(connection, assignment))


async def _serve(connection: Connection, assignment: Assignment) -> None:
    chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_read, args=(connection, chunks, loop), daemon=True).start()

    def tell(report: Report) -> None:
        # Who is gone hears nothing; the reading thread sees that, too, and ends this process.
        try:
            connection.send(report)
        except OSError:
            return

    try:
        worker = Worker(assignment, lambda trial, split, result: tell(Came(trial, split, result)))
    except InferloomError as error:
        tell(refusal(error))
        return
    try:
        while (chunk := await chunks.get()) is not None:
            working, ending = asyncio.ensure_future(worker.answer(chunk)), asyncio.ensure_future(chunks.get())
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and ending.result() is None:
                working.cancel()
                await asyncio.wait({working})
                return
            ending.cancel()
            tell(_outcome(working))
    finally:
        await worker.aclose()


def _outcome(working: asyncio.Future[None]) -> Report:
    error = working.exception()
    if error is None:
        return None
    if isinstance(error, InferloomError):
        return refusal(error)
    return Refused("internal", f"a worker failed: {type(error).__name__}: {error}", None)


def refusal(error: InferloomError) -> Refused:
    """An error on its way to the study."""
    kind: Literal["user", "storage", "internal"] = "internal"
    if isinstance(error, UserError | StorageError):
        kind = "user" if isinstance(error, UserError) else "storage"
    return Refused(kind, error.message, error.where)


def _read(connection: Connection, chunks: asyncio.Queue[Chunk | None], loop: asyncio.AbstractEventLoop) -> None:
    """Hand chunks over to the loop; an end of file ends the work."""
    while True:
        try:
            chunk: Chunk | None = connection.recv()
        except (EOFError, OSError):
            chunk = None
        loop.call_soon_threadsafe(chunks.put_nowait, chunk)
        if chunk is None:
            return
