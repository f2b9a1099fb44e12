"""Opening: what can be opened is brought up to date, what cannot is left byte for byte as it was."""

from __future__ import annotations

import random
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import inferloom.store
from inferloom.core.errors import DatabaseError
from inferloom.store import Store
from inferloom.store.engine import REVISIONS, VERSION_TABLE
from inferloom.store.tables import Base
from tests.store.store_samples import ADDRESS, COMPLETION, STUDY, call, run

FROZEN = Path(__file__).with_name("frozen")


def refused(database: Path, match: str) -> None:
    """Check that a file is refused with a sentence that names it, and stays as it is."""
    before = database.read_bytes()
    with pytest.raises(DatabaseError, match=match) as caught:
        Store.open(str(database))
    assert str(database) in caught.value.message
    assert "\n" not in caught.value.sentence
    assert caught.value.exit_code == 2
    assert database.read_bytes() == before


def made(path: Path) -> Path:
    """A database with a few rows in it."""
    with Store.open(str(path)) as store:
        store.write_sync(*(call(f"c{number}") for number in range(200)), run())
    return path


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    noise = tmp_path / "noise.db"
    noise.write_bytes(random.Random(1).randbytes(20_000))
    refused(noise, "is no SQLite database")
    notes = tmp_path / "notes.txt"
    notes.write_text("steps:\n- sample\n")
    refused(notes, "is no SQLite database")


@pytest.mark.parametrize("start", [16, 100])
def test_a_corrupt_database(tmp_path: Path, start: int) -> None:
    database = made(tmp_path / "s.db")
    data = bytearray(database.read_bytes())
    data[start:4_096] = random.Random(1).randbytes(4_096 - start)
    database.write_bytes(data)
    refused(database, "is corrupt or cannot be read")


def test_a_truncated_database(tmp_path: Path) -> None:
    database = made(tmp_path / "s.db")
    database.write_bytes(database.read_bytes()[:6_000])
    refused(database, "is corrupt or cannot be read")


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    database = made(tmp_path / "s.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9001'")
        connection.commit()
    refused(database, r"was written by a newer inferloom \(schema 9001\)")


def test_a_database_whose_tables_are_somebody_elses(tmp_path: Path) -> None:
    database = tmp_path / "theirs.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE runs (distance REAL)")
        connection.commit()
    with pytest.raises(DatabaseError, match=r"has a table `runs` that inferloom did not make"):
        Store.open(str(database))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/missing/s.db", r"the folder `.*missing` does not exist"),
        ("sqlite:///{}/missing/s.db", r"the folder `.*missing` does not exist"),
        ("{}", "is a folder"),
        ("", "needs a name"),
        ("mysql://root@localhost/x", "is of a kind that is not supported; allowed is"),
        ("sqlite:///{}/s.db?mode=ro", "has settings after"),
        ("oracle+what://x", "is of a kind that is not supported; allowed is"),
    ],
)
def test_a_place_where_no_database_can_be(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message):
        Store.open(url.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_server_out_of_reach() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(
        DatabaseError, match=r"`postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x.*cannot be used: "
    ) as caught:
        Store.open("postgresql://me:secret@127.0.0.1:1/x?connect_timeout=2")
    assert "secret" not in caught.value.sentence


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "odd é ?#%41.db").touch()
    made(tmp_path / "odd é ?#%41.db")
    with Store.open(str(tmp_path / "odd é ?#%41.db")) as store:
        assert len(store.calls("run-1")) == 200
        with Store.open(store.url) as same:
            assert len(same.calls("run-1")) == 200


def test_stores_are_opened_from_many_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        urls = ["sqlite://" if number % 2 else str(tmp_path / f"{number % 4}.db") for number in range(16)]
        stores = list(pool.map(Store.open, urls))
    for store in stores:
        assert store.runs() == []
        store.close()


def test_databases_in_memory_are_apart() -> None:
    with Store.open("sqlite://") as one, Store.open(":memory:") as other:
        one.write_sync(run())
        assert len(one.runs()) == 1
        assert other.runs() == []


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_frozen_database_of_each_revision_is_opened_and_upgraded(tmp_path: Path, revision: str) -> None:
    database = tmp_path / "s.db"
    shutil.copy(FROZEN / f"rev_{revision}.sqlite", database)
    with Store.open(str(database)) as store:
        assert store.run("run-1") == run(status="done", answer="15", ended=2.0)
        assert await store.banked(ADDRESS, [0]) == {0: COMPLETION}
        assert store.calls("run-1") == [call("c1"), call("c2", outcome="unknown", error="cut", started=1.5)]
        assert store.study("first") == STUDY
        store.write_sync(call("c3"))
    assert_schema(database)


def test_migrations_make_the_tables_that_the_code_has(tmp_path: Path) -> None:
    assert_schema(made(tmp_path / "s.db"))
    script = ScriptDirectory(str(Path(inferloom.store.__file__).parent / "migrations"))
    assert tuple(reversed([found.revision for found in script.walk_revisions()])) == REVISIONS


def assert_schema(database: Path) -> None:
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "include_name": ours}
        )
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
    engine.dispose()


def ours(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or name != VERSION_TABLE


@pytest.mark.parametrize("first", ["optuna", "inferloom"])
def test_optuna_lives_in_the_same_database(tmp_path: Path, first: str) -> None:
    import optuna

    database = tmp_path / "s.db"

    def search(url: str) -> None:
        storage = optuna.storages.RDBStorage(url)
        study = optuna.create_study(storage=storage, study_name="first", load_if_exists=True)
        study.add_trial(optuna.trial.create_trial(value=1.0))
        storage.remove_session()
        storage.engine.dispose()

    if first == "optuna":
        search(f"sqlite:///{database}")
    with Store.open(str(database)) as store:
        store.write_sync(STUDY)
        search(store.optuna_url)
        assert store.study("first") == STUDY
    with Store.open(str(database)) as store:
        assert store.studies() == [STUDY]
    loaded = optuna.load_study(study_name="first", storage=f"sqlite:///{database}")
    assert len(loaded.trials) == (2 if first == "optuna" else 1)
