"""A database server that goes away for a while, as in a restart: what can be done again waits until it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

SECONDS = 60.0
"""How long a server may be away before what needed it fails."""
_AWAY = ("57P01", "57P02", "57P03")
"""SQLSTATEs of a server that shuts down, has crashed, or does not take connections yet."""

T = TypeVar("T")


def is_away(engine: Engine, error: BaseException) -> bool:
    """Whether an error says that the connection is lost or cannot be made, and nothing of what was asked."""
    if engine.dialect.name == "sqlite":
        return False
    said = error.orig if isinstance(error, DBAPIError) else error
    driver = engine.dialect.loaded_dbapi
    assert driver is not None
    if not isinstance(said, driver.OperationalError | driver.InterfaceError):
        return False
    state: str | None = getattr(said, "sqlstate", None)
    return state is None or state.startswith("08") or state in _AWAY


def patiently(engine: Engine, action: Callable[[], T], *, may_repeat: Callable[[], bool] = lambda: True) -> T:
    """Do something on a database, and again while its server is away.

    Args:
        engine: The database.
        action: Leaves the same behind however often it is done.
        may_repeat: Asked before each repetition.

    Raises:
        What `action` raises: at once where it is anything else, after `SECONDS` where the server stays away.
    """
    if engine.dialect.name == "sqlite":
        return action()
    attempts = Retrying(
        stop=stop_after_delay(SECONDS),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        retry=retry_if_exception(lambda error: is_away(engine, error) and may_repeat()),
        reraise=True,
    )
    return attempts(action)
