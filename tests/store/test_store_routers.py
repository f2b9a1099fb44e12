"""Routers in the database: versions, one champion, promotion."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.store import Store


def test_versions_count_up_and_the_first_is_the_champion(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'x.db'}") as store:
        first, second = (store.routers.add("r", f'{{"n": {number}}}', bytes([number])) for number in (1, 2))
        assert (first.version, first.status, second.version, second.status) == (1, "champion", 2, "trained")
    with Store.open(f"sqlite:///{tmp_path / 'x.db'}") as store:
        assert store.routers.get("r").version == 1
        assert store.routers.weights(store.routers.get("r", 2)) == b"\x02"
        assert [row.version for row in store.routers.all()] == [2, 1]


def test_promoting_retires_the_former_champion() -> None:
    with Store.open("sqlite://") as store:
        for _ in range(2):
            store.routers.add("r", "{}", b"")
        store.routers.add("other", "{}", b"")
        made = store.routers.set_status("r", 2, "champion")
        assert made.status == "champion"
        assert made.promoted is not None
        assert store.routers.get("r", 1).status == "retired"
        assert store.routers.get("other").status == "champion"
        store.routers.set_status("r", 2, "retired")
        with pytest.raises(UserError, match="no version of the router `r` is the champion"):
            store.routers.get("r")


def test_a_router_that_is_not_there_is_one_error_with_the_nearest_name() -> None:
    with Store.open("sqlite://") as store:
        store.routers.add("maths", "{}", b"")
        with pytest.raises(UnknownNameError, match="did you mean `maths`"):
            store.routers.get("math")
        with pytest.raises(UnknownNameError, match="unknown version"):
            store.routers.get("maths", 7)
