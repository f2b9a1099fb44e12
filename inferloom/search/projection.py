"""Our trials shown to Optuna's own ecosystem: a copy in Optuna's storage, in the same database.

Our tables are the truth. Whatever the tables of Optuna say otherwise (after a kill, or because somebody changed them)
is made again from ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferloom.core.errors import StorageError
from inferloom.search.aim import Direction
from inferloom.search.samplers import Told, frozen_trial
from inferloom.search.space import Space

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

_IN_MEMORY = ("sqlite://", "sqlite:///:memory:")
"""Databases that nobody else could read a projection from."""

_ATTEMPTS = 10


class Projection:
    """The study in Optuna's storage.

    Args:
        url: The database (`Store.optuna_url`).
        name: The study's name, here and there.
        space: For the distributions of the holes.
        directions: One per objective.
    """

    def __init__(self, url: str, name: str, space: Space, directions: Sequence[Direction]) -> None:
        self._url, self._name, self._space, self._directions = url, name, space, list(directions)
        self._storage: RDBStorage | None = None

    def mirror(self, finished: Sequence[Told]) -> None:
        """Bring Optuna's copy to these trials, in the order of their numbers. Blocks; call it from a thread.

        Raises:
            StorageError: The database takes no writes.
        """
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        if self._url in _IN_MEMORY:
            return
        # Optuna reads and then writes in one transaction: SQLite refuses that, without waiting, where our writer
        # committed in between. What was half copied is found and made again.
        attempts = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception_type((StorageInternalError, SQLAlchemyError)),
            reraise=True,
        )
        try:
            attempts(self._mirror, finished)
        except (StorageInternalError, SQLAlchemyError) as error:
            first = str(error).strip().splitlines()[0]
            raise StorageError(f"Optuna's copy of the study `{self._name}` cannot be written ({first})") from error

    def _mirror(self, finished: Sequence[Told]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self._storage is None:
            self._storage = _open(self._url)
        self._storage.remove_session()
        ours = [frozen_trial(self._space, told) for told in finished]
        known = [each for each in optuna.get_all_study_summaries(self._storage) if each.study_name == self._name]
        if len(known) > 1:
            # A kill while Optuna made its tables can leave them without the index that keeps names apart.
            for each in known:
                self._storage.delete_study(each._study_id)
            known = []
        if known:
            directions = [direction.name.lower() for direction in known[0].directions]
            theirs = optuna.load_study(study_name=self._name, storage=self._storage).trials
            if directions != self._directions or not _agree(theirs, ours):
                optuna.delete_study(study_name=self._name, storage=self._storage)
        study = optuna.create_study(
            study_name=self._name, storage=self._storage, directions=self._directions, load_if_exists=True
        )
        study.add_trials(ours[len(study.trials) :])

    def close(self) -> None:
        """Let go of the database."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None


def remove_projection(url: str, name: str) -> bool:
    """Delete a study from Optuna's storage, where it is there; whether it was. Makes no tables.

    Raises:
        StorageError: The database takes no writes.
    """
    if url in _IN_MEMORY:
        return False
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage: RDBStorage | None = None
    try:
        if not _has_tables(url):
            return False
        storage = _open(url)
        known = [each for each in optuna.get_all_study_summaries(storage) if each.study_name == name]
        for each in known:
            storage.delete_study(each._study_id)
    except (StorageInternalError, SQLAlchemyError) as error:
        first = str(error).strip().splitlines()[0]
        raise StorageError(f"Optuna's copy of the study `{name}` cannot be deleted ({first})") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
    return bool(known)


def _has_tables(url: str) -> bool:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _open(url: str) -> RDBStorage:
    """Optuna's storage; it makes its tables, and waits its turn where our writer holds the database."""
    from optuna.storages import RDBStorage

    arguments: dict[str, object] = {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        # SQLAlchemy's and Alembic's notes on Optuna's own tables are nothing that a user could act on.
        warnings.simplefilter("ignore")
        return RDBStorage(url, engine_kwargs=arguments)


def _agree(theirs: Sequence[FrozenTrial], ours: Sequence[FrozenTrial]) -> bool:
    """Whether what Optuna has is the beginning of what we have."""
    if len(theirs) > len(ours):
        return False
    return all(
        their.state == our.state and their.params == our.params and their.values == our.values
        for their, our in zip(theirs, ours, strict=False)
    )
