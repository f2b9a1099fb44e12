"""Workers on a Ray cluster: each is an actor, and opens the study's database from where it runs.

So the database must be one that every machine of the cluster reaches (PostgreSQL), or all of it one machine.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from inferloom.core.errors import InferloomError, SetupError
from inferloom.evaluation.evaluate import ItemResult
from inferloom.evaluation.splits import SplitName
from inferloom.search.crew import Chunk, OnResult, WorkerDiedError
from inferloom.search.worker import Assignment, Came, Refused, Worker, Workers, error_of, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable


def ray_workers(address: str, count: int | None) -> Workers:
    """The workers of a cluster: as many as asked for, else one per core that it has.

    Args:
        address: `auto` for the cluster that this machine belongs to, `HOST:PORT` where there are several, or `local`
            for a new one on this machine.
        count: How many.

    Raises:
        SetupError: The package is missing, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise SetupError(
            "the package ray is not installed; run: pip install 'inferloom[ray]'", where="search --ray"
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SetupError(
            f"no Ray cluster is reached at `{address}` ({_first_sentence(error)}); must be auto or HOST:PORT for one "
            "that this machine belongs to, or local for a new one",
            where="search --ray",
        ) from None
    cores = int(ray.cluster_resources().get("CPU", 1))
    return Workers(count=count or cores, hand=partial(RayHand, per_worker=cores / (count or cores)), cores=1)


class _Remote(Protocol):
    """The handle of an actor."""

    answer: _Method
    aclose: _Method


class _Method(Protocol):
    def remote(self, *arguments: object) -> Awaitable[list[Came] | Refused]: ...


class RayHand:
    """A worker in an actor.

    Args:
        assignment: What it works on.
        per_worker: Cores of the cluster for each worker; a part of one where they are more than the cores.
    """

    def __init__(self, assignment: Assignment, *, per_worker: float) -> None:
        import ray

        made = ray.remote(num_cpus=min(1.0, per_worker), max_restarts=0)(_Actor)
        self._actor: _Remote = made.remote(assignment)

    async def work(self, chunk: Chunk, on_result: OnResult) -> None:
        """As `Hand.work`; the results come all at once at the end."""
        from ray.exceptions import RayError

        try:
            said = await self._actor.answer.remote(chunk)
        except RayError as error:
            raise WorkerDiedError(_first_sentence(error), where="worker") from None
        if isinstance(said, Refused):
            raise error_of(said)
        for came in said:
            on_result(*came)

    async def aclose(self) -> None:
        """As `Hand.aclose`."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError, TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(self._actor.aclose.remote()), 20)
        ray.kill(self._actor)


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].partition(". ")[0].rstrip(".")


class _Actor:
    """What runs on the cluster."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._worker: Worker | None = None
        self._came: list[Came] = []

    async def answer(self, chunk: Chunk) -> list[Came] | Refused:
        """Answer a chunk; errors are told as data, since they are not what Ray would try again."""
        self._came = []
        try:
            if self._worker is None:
                self._worker = Worker(self._assignment, self._note)
            await self._worker.answer(chunk)
        except InferloomError as error:
            return refusal(error)
        return self._came

    def _note(self, trial: int, split: SplitName, result: ItemResult) -> None:
        self._came.append(Came(trial, split, result))

    async def aclose(self) -> None:
        """Let go of the database."""
        if self._worker is not None:
            await self._worker.aclose()
