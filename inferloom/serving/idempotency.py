"""`Idempotency-Key`: one request, however often it is sent.

A key belongs to the API key that it came with. Its draws come from a stream of its own, so a request that broke off is
taken up again by sending it once more: what was committed comes from the bank. An answer that is there is sent again as
it is.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from inferloom.core.digest import digest
from inferloom.serving.errors import ApiError
from inferloom.store.rows import ServedRow, ServedStatus

if TYPE_CHECKING:
    from inferloom.store import Store

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_key(key: str) -> str:
    """The key itself.

    Raises:
        ApiError: 400; it cannot be one.
    """
    if not _KEY.fullmatch(key):
        raise ApiError(
            400,
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters without spaces",
            param="Idempotency-Key",
        )
    return key


def stream_of(owner: str, kind: str, name: str) -> str:
    """The stream for what an owner asks under a name; no two owners share one."""
    return digest(f"serve\x1f{owner}\x1f{kind}\x1f{name}")


class Claims:
    """Requests under an `Idempotency-Key` in one database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._active: set[str] = set()

    async def take(self, owner: str, key: str, body: str, run: str, stream: str) -> ServedRow:
        """Claim a key for a request, or find its answer.

        Args:
            owner: The name of the API key.
            key: The `Idempotency-Key`.
            body: The hash of the request's body.
            run: The run that is to answer it.
            stream: Where its draws come from.

        Returns:
            A row with the status `done` and the answer, or one with the status `running`: then the caller answers, and
            calls `end`.

        Raises:
            ApiError: 409 while the same request is running; 422 where the key was used for another body.
        """
        id = digest(f"{owner}\x1f{key}")
        if id in self._active:
            raise ApiError(
                409,
                "a request with this `Idempotency-Key` is still running; ask again when it is done",
                param="Idempotency-Key",
                code="still_running",
                headers={"retry-after": "1"},
            )
        self._active.add(id)
        try:
            known = await asyncio.to_thread(self._store.served.row, id)
            if known is not None and known.request != body:
                raise ApiError(
                    422,
                    "this `Idempotency-Key` was used for a request with another body; take a new key",
                    param="Idempotency-Key",
                    code="key_reused",
                )
            if known is not None and known.status == "done":
                self._active.discard(id)
                return known
            now = time.time()
            row = ServedRow(
                id=id,
                owner=owner,
                idempotency=key,
                request=body,
                run=run,
                stream=stream,
                status="running",
                created=known.created if known is not None else now,
                updated=now,
            )
            await self._store.write(row)
        except BaseException:
            self._active.discard(id)
            raise
        return row

    def end(self, row: ServedRow, response: str | None) -> None:
        """Keep the answer, or None where there is none and the same request may be taken up again."""
        self._active.discard(row.id)
        status: ServedStatus = "failed" if response is None else "done"
        self._store.submit(replace(row, status=status, response=response, updated=time.time()))
