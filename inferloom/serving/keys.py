"""API keys: who asks, what they may spend, how often they may ask.

    keys:
      - name: alice                       # the runs of a key belong to its name
        env: ALICE_KEY                    # the variable that holds the key, or `sha256:` with the key's hash
        budget: {usd: 5, per: day}        # also tokens, calls, seconds; per day, month, or total
        requests_per_minute: 60
        concurrent: 4                     # requests at once
        pipelines: [self_consistency]     # the only ones it may ask; all of them by default
        metrics: true                     # may read /metrics

Keys are kept and compared as hashes only. What a key has spent is the sum of its ledger rows, what was billed and,
where the outcome is unknown, the upper bound; each call is reserved before it is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inferloom.core.errors import SetupError, SpecError, nearest
from inferloom.core.memory import DEFAULT_NAMESPACE
from inferloom.core.types import Usage
from inferloom.models.budget import Budget, Purse, measures
from inferloom.pipelines.document import Document, load_document
from inferloom.serving.errors import ApiError

if TYPE_CHECKING:
    from inferloom.store import Store

VARIABLE = "INFERLOOM_API_KEYS"
"""Keys from the environment: `NAME=KEY` pairs, separated by commas; without budgets and rates."""
OPEN = "open"
"""The owner of runs on a server without keys."""
_MINUTE = 60.0
_SHORTEST = 16
"""Characters that a key must have at least."""

Limit = Annotated[float, Field(gt=0)]


class KeyBudget(BaseModel):
    """The most that a key may spend in a period."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd: Limit | None = None
    tokens: Limit | None = None
    calls: Limit | None = None
    seconds: Limit | None = None
    per: Literal["day", "month", "total"] = "total"

    def since(self, now: float) -> float:
        """When the current period began (Unix seconds); days and months are those of UTC."""
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        begun = {"day": today, "month": today.replace(day=1)}.get(self.per)
        return 0.0 if begun is None else begun.timestamp()

    def limits(self) -> Budget:
        """The limits themselves."""
        return Budget(calls=self.calls, tokens=self.tokens, usd=self.usd, seconds=self.seconds)


class ApiKey(BaseModel):
    """One entry of the file of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    budget: KeyBudget = KeyBudget()
    requests_per_minute: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)
    pipelines: tuple[str, ...] | None = None
    metrics: bool = False


class Account:
    """One key at work."""

    def __init__(self, key: ApiKey, store: Store) -> None:
        self.name = key.name
        self.key = key
        self._store = store
        self._asked: deque[float] = deque()
        self._running = 0
        self._purse: tuple[float, Purse] | None = None
        self._opening = asyncio.Lock()

    @property
    def tag(self) -> str:
        """What the runs of this key carry."""
        return f"serve:{self.name}"

    @property
    def namespace(self) -> str:
        """Where its memories are: each key has its own."""
        return DEFAULT_NAMESPACE if self.name == OPEN else f"serve:{self.name}"

    async def purse(self) -> Purse | None:
        """What is left of the budget; None where there is none.

        Raises:
            ApiError: 429; nothing is left.
        """
        limits = self.key.budget.limits()
        if not limits.limits():
            return None
        async with self._opening:
            since = self.key.budget.since(time.time())
            if self._purse is None or self._purse[0] != since:
                report = await asyncio.to_thread(self._store.served.spent, self.tag, since)
                self._purse = (since, Purse(limits, report.billed + report.bound, f"{self.name}: "))
        purse = self._purse[1]
        spent = measures(purse.spent)
        for name, limit in purse.limits.items():
            if spent[name] >= limit:
                raise self.exhausted(f"{spent[name]:g} of {limit:g} {name} are spent")
        return purse

    def exhausted(self, told: str) -> ApiError:
        """The error for a budget that does not allow a call."""
        per = self.key.budget.per
        period = "" if per == "total" else f" of this {per}"
        message = f"the budget{period} of key `{self.name}` is exhausted: {told}"
        return ApiError(429, message, type="insufficient_quota", code="insufficient_quota")

    def may_ask(self, pipeline: str) -> bool:
        """Whether the key may use a pipeline."""
        return self.key.pipelines is None or pipeline in self.key.pipelines

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Count one request, from now until it is answered.

        Raises:
            ApiError: 429; the key asks too often or too much at once.
        """
        key, now = self.key, time.monotonic()
        if key.concurrent is not None and self._running >= key.concurrent:
            raise ApiError(
                429,
                f"key `{self.name}` has {self._running} requests running; at most {key.concurrent} at once",
                code="concurrency_limit",
                headers={"retry-after": "1"},
            )
        if key.requests_per_minute is not None:
            while self._asked and self._asked[0] <= now - _MINUTE:
                self._asked.popleft()
            if len(self._asked) >= key.requests_per_minute:
                wait = max(1, round(self._asked[0] + _MINUTE - now))
                raise ApiError(
                    429,
                    f"key `{self.name}` has asked {len(self._asked)} times within a minute; "
                    f"at most {key.requests_per_minute}",
                    code="rate_limit_exceeded",
                    headers={"retry-after": str(wait)},
                )
            self._asked.append(now)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


class Keyring:
    """The keys of a server.

    Args:
        keys: (entry, SHA-256 of the key); none: everybody is the same owner.
        store: Where the ledger is.
    """

    def __init__(self, keys: list[tuple[ApiKey, bytes]], store: Store) -> None:
        self._accounts = [(digest, Account(key, store)) for key, digest in keys]
        self._open = None if keys else Account(ApiKey(name=OPEN, metrics=True), store)

    @property
    def locked(self) -> bool:
        """Whether a key is needed."""
        return self._open is None

    def account(self, authorization: str | None) -> Account:
        """Whose key an `Authorization` header holds.

        Raises:
            ApiError: 401; none of ours.
        """
        if self._open is not None:
            return self._open
        scheme, _, presented = (authorization or "").partition(" ")
        digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        # All are compared, so that the time taken says nothing.
        for known, account in self._accounts:
            if hmac.compare_digest(known, digest):
                found = account
        if found is None or scheme.lower() != "bearer":
            message = "no valid API key; send `Authorization: Bearer KEY`"
            raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return found


def load_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> list[tuple[ApiKey, bytes]]:
    """The keys of a file and of the environment, with their hashes.

    Raises:
        SpecError: The file is wrong.
        SetupError: A variable is not set, or a key is too short. No message repeats a key.
    """
    found = [] if path is None else _of_file(load_document(path), environment)
    for position, pair in enumerate(filter(None, environment.get(VARIABLE, "").split(",")), 1):
        name, _, secret = pair.strip().partition("=")
        try:
            key = ApiKey(name=name)
        except ValidationError:
            raise SetupError(f"pair {position} of {VARIABLE} must be NAME=KEY (it is not repeated here)") from None
        found.append((key, _hashed(secret, VARIABLE)))
    for what, values in (("name", [key.name for key, _ in found]), ("key", [digest for _, digest in found])):
        if len(set(values)) < len(values):
            raise SetupError(f"two API keys have the same {what}")
    return found


def _of_file(document: Document, environment: Mapping[str, str]) -> list[tuple[ApiKey, bytes]]:
    data = document.data
    entries = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(entries, list) or not entries or set(data) != {"keys"}:
        raise document.error((), "a file of API keys must be `keys:` with a list of entries `{name: ..., env: ...}`")
    found = []
    for position, entry in enumerate(entries):
        place = ("keys", position)
        try:
            key = ApiKey.model_validate(entry)
        except ValidationError as error:
            raise _wrong(document, place, error) from None
        if key.name == OPEN:
            raise document.error((*place, "name"), f"`{OPEN}` is the name of those without a key; take another")
        if (key.env is None) == (key.sha256 is None):
            raise document.error(place, "an API key has either `env`, a variable's name, or `sha256`, the key's hash")
        if key.sha256 is not None:
            found.append((key, bytes.fromhex(key.sha256)))
            continue
        secret = environment.get(str(key.env))
        if not secret:
            raise document.error((*place, "env"), f"the environment variable {key.env} is not set")
        found.append((key, _hashed(secret, str(key.env))))
    return found


def _wrong(document: Document, place: tuple[str | int, ...], error: ValidationError) -> SpecError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = (*place, *first["loc"])
    name = str(first["loc"][-1]) if first["loc"] else "key"
    if first["type"] == "extra_forbidden":
        known = KeyBudget.model_fields if len(first["loc"]) > 1 else ApiKey.model_fields
        near = nearest(name, known)
        return document.error(
            where, f"unknown field `{name}`" + ("" if near else f"; known are {', '.join(known)}"), near
        )
    return document.error(where, f"`{name}`: {first['msg'].replace('Input should', 'it must')}")


def _hashed(secret: str, where: str) -> bytes:
    if len(secret) < _SHORTEST:
        raise SetupError(f"the API key in {where} has {len(secret)} characters; at least {_SHORTEST} are needed")
    return hashlib.sha256(secret.encode()).digest()


def spent(usage: Usage) -> str:
    """A usage as headers tell it."""
    return f"calls={usage.calls}; tokens={usage.tokens}; usd={usage.usd:.6f}"
