"""The store: one object that opens a database, writes rows durably and reads them back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sqlalchemy import URL, Engine

from inferloom.core.types import Completion
from inferloom.store.access import Access
from inferloom.store.bank import Bank
from inferloom.store.decisions import Decided, Decisions
from inferloom.store.engine import is_memory, open_engine, parse_url, place
from inferloom.store.forget import forget
from inferloom.store.ledger import Ledger
from inferloom.store.memories import Memories
from inferloom.store.routers import Routers
from inferloom.store.rows import (
    Address,
    BankSize,
    CallRow,
    CandidateRow,
    DecisionRow,
    EvaluationRow,
    ForgetReport,
    RequestRow,
    Row,
    RunRow,
    SplitScore,
    StepRow,
    StudyRow,
    UsageReport,
)
from inferloom.store.scored import Scored
from inferloom.store.served import Served
from inferloom.store.studies import Studies
from inferloom.store.writer import Writer


class Store:
    """A database of inferloom. Safe to use from several threads and event loops; not across a fork.

    Every reading method raises `DatabaseError` where the database cannot be read.
    """

    def __init__(self, engine: Engine, url: URL) -> None:
        self._engine = engine
        self._url = url
        # A database in memory has one connection, which readers and the writer take turns on.
        exclusive = threading.RLock() if is_memory(url) else None
        access = Access(engine, place(url), exclusive)
        self._writer = Writer(engine, place(url), exclusive)
        self._bank = Bank(access, self._writer)
        self._ledger = Ledger(access)
        self._studies = Studies(access, self._writer)
        self._decisions = Decisions(access)
        self.memories = Memories(access, self._writer)
        self.routers = Routers(access, self._writer)
        self.scored = Scored(access)
        self.served = Served(access)
        # Runs on `close`, or when the store is dropped, or when Python ends: whatever was handed over is written.
        self._finish = weakref.finalize(self, _finish, self._writer, self._bank, engine)

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a database, making or migrating its tables as needed.

        Args:
            url: A file path, `sqlite:///FILE`, `sqlite://` (in memory) or `postgresql://USER@HOST/NAME`.

        Raises:
            DatabaseError: It is corrupt, no database, of a newer revision, or out of reach; a file stays as it was.
            SetupError: The driver is not installed.
        """
        parsed = parse_url(url)
        return cls(open_engine(parsed), parsed)

    @property
    def url(self) -> str:
        """The URL that opens this database again; it may hold a password."""
        return self._url.render_as_string(hide_password=False)

    @property
    def place(self) -> str:
        """The database as messages may show it: no password."""
        return place(self._url)

    @property
    def optuna_url(self) -> str:
        """The URL for Optuna's storage beside our tables. In memory, Optuna gets a database of its own."""
        return self.url

    async def write(self, *rows: Row) -> None:
        """Write rows and return when they are durable; rows of concurrent callers share a commit.

        Raises:
            StorageError: They are not written. After a full disk or a lost server every later write raises it too.
        """
        if rows:
            await self._writer.write(rows)

    def write_sync(self, *rows: Row) -> None:
        """The same for callers without an event loop."""
        if rows:
            self._writer.write_sync(rows)

    def submit(self, *rows: Row) -> None:
        """Hand rows over without waiting; they are durable no later than any row written afterwards.

        Raises:
            StorageError: The store takes no more writes.
        """
        self._writer.submit(rows)

    def raise_if_failed(self) -> None:
        """Check that the store still takes writes, before something is done that must be recorded.

        Raises:
            StorageError: It does not.
        """
        self._writer.raise_if_failed()

    def flush(self) -> None:
        """Return when everything handed over so far is durable.

        Raises:
            StorageError: It is not.
        """
        self._writer.run(None)

    def close(self) -> None:
        """Write what waits and let go of the database; closing twice does nothing more.

        Raises:
            StorageError: Rows handed over by `submit` could not be written, and no caller was told so far.
        """
        self._finish()
        self._writer.raise_if_untold()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The bank

    async def banked(self, address: Address, indices: Sequence[int]) -> dict[int, Completion]:
        """The completions that the bank has at these indices, by index."""
        return await self._bank.banked(address, indices)

    def completion(self, id: str) -> Completion:
        """A completion by its id (`Address.completion_id`).

        Raises:
            UnknownNameError: The bank has none of this id.
        """
        return self._bank.completion(id)

    def prompts(self, limit: int = 100) -> list[RequestRow]:
        """Stored prompts, the most lately used first."""
        return self._bank.prompts(limit)

    def request_bodies(self, hashes: Sequence[str]) -> dict[str, str]:
        """Stored prompts as JSON by the hashes of their requests; what was forgotten or pruned is absent."""
        return self._bank.bodies(hashes)

    def bank_size(self) -> list[BankSize]:
        """What the bank holds of each model, the largest first."""
        return self._bank.size()

    def bank_prune(
        self, *, older_than_days: float | None = None, stream: str | None = None, model: str | None = None
    ) -> int:
        """Delete the completions that meet all conditions given, and prompts left without any; count the completions.

        Raises:
            UserError: No condition is given.
            UnknownNameError: No banked model has this name or fingerprint.
        """
        return self._bank.prune(older_than_days, stream, model)

    def bank_export(self, path: str | Path) -> int:
        """Write the bank to a file, one JSON object a line, and count them. A file that is there is replaced.

        Raises:
            DataError: The file cannot be written.
        """
        return self._bank.export(Path(path))

    def bank_forget(self, text: str) -> ForgetReport:
        """Remove every stored prompt and completion that contains the text, and blank the runs it was part of.

        Raises:
            UserError: The text is empty.
            DatabaseError: The text is deleted, but another process still reads an older state of the file.
        """
        return forget(self._writer, text)

    # Runs

    def runs(self, limit: int = 20, study: str | None = None) -> list[RunRow]:
        """The latest runs, newest first."""
        return self._ledger.runs(limit, study)

    def run(self, id_or_prefix: str) -> RunRow:
        """A run by its id or the beginning of it.

        Raises:
            UnknownNameError: There is none.
            UserError: There are several.
        """
        return self._ledger.run(id_or_prefix)

    def steps(self, run: str) -> list[StepRow]:
        """A run's node executions in the order in which they started."""
        return self._ledger.steps(run)

    def calls(self, run: str) -> list[CallRow]:
        """A run's ledger rows in the order in which they started."""
        return self._ledger.calls(run)

    def prompts_of(self, run: str) -> dict[str, str]:
        """What a run's calls asked, as far as it is still stored: request bodies (JSON) by request hash."""
        return self._ledger.prompts(run)

    def candidates(self, run: str) -> list[CandidateRow]:
        """A run's candidates by (path, ordinal, position)."""
        return self._ledger.candidates(run)

    def usage(self, run: str) -> UsageReport:
        """The sum of a run's ledger rows."""
        return self._ledger.usage(run)

    def usage_by_model(self, run: str) -> dict[str, UsageReport]:
        """The sum of a run's ledger rows by model name."""
        return self._ledger.usage_by_model(run)

    def pipeline(self, hash: str) -> str:
        """The YAML of a pipeline by the hash of its specification.

        Raises:
            UnknownNameError: There is none.
        """
        return self._ledger.pipeline(hash)

    # Routers' decisions

    def decisions(
        self, router: str | None = None, *, run: str | None = None, since: float = 0.0, limit: int | None = None
    ) -> list[DecisionRow]:
        """What routers chose, newest first."""
        return self._decisions.decisions(router, run, since, limit)

    def decided(self, router: str) -> list[Decided]:
        """A router's decisions with what became of them, oldest first."""
        return self._decisions.decided(router)

    # Studies

    def study(self, name: str) -> StudyRow | None:
        """A study by name, or None."""
        return self._studies.study(name)

    def studies(self) -> list[StudyRow]:
        """Every study, newest first."""
        return self._studies.studies()

    def evaluations(self, study: str, split: str | None = None, trial: int | None = None) -> list[EvaluationRow]:
        """A study's scores by (trial, split, item)."""
        return self._studies.evaluations(study, split, trial)

    def split_scores(self, study: str) -> list[SplitScore]:
        """A study's mean scores by (trial, split), over the items that are evaluated so far."""
        return self._studies.split_scores(study)

    def delete_study(self, name: str) -> int:
        """Delete a study and its evaluations, and count these; the bank, its runs and its touches stay.

        Raises:
            StorageError: The database takes no writes; then all of it is still there.
        """
        return self._studies.delete(name)

    def study_usage(self, study: str) -> UsageReport:
        """The sum of the ledger rows of a study's runs."""
        return self._ledger.study_usage(study)

    def touches(self, dataset: str) -> int:
        """How often a test split of a data set was looked at."""
        return self._studies.touches(dataset)


def _finish(writer: Writer, bank: Bank, engine: Engine) -> None:
    writer.close()
    bank.close()
    engine.dispose()
