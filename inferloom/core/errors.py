"""Every error that inferloom raises on purpose, in one tree, split by who is at fault.

InferloomError
├── UserError                 exit code 2: something the user wrote or set
│   ├── SpecError             a YAML file: carries file, line and field
│   ├── UnknownNameError      a name that is not registered: carries near names
│   ├── CapabilityError       a model cannot do what a node needs
│   ├── DataError             a data file or a data set
│   ├── SetupError            a missing key, package or setting
│   └── DatabaseError         a database that cannot be opened or used
├── ModelError                a model endpoint failed; `retryable` and `outcome` say what is known
│   ├── RateLimitedError      429; `retry_after` seconds if the server said so
│   ├── ServerFaultError      5xx
│   ├── RequestRejectedError  4xx: never retried
│   ├── UnreachableError      no connection could be made (exit code 2)
│   ├── ModelTimeoutError     no answer in time: outcome unknown
│   ├── ConnectionCutError    the connection broke after sending: outcome unknown
│   ├── BadResponseError      the reply could not be read: outcome unknown
│   └── UnsupportedCodeError  the model wrote a program that the sandbox cannot run
├── BudgetExceededError       a limit was reached; a run turns it into `stopped: budget`
└── StorageError              the database stopped taking writes (full disk, lost server)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, Literal, Self

if TYPE_CHECKING:
    from inferloom.core.types import Completion

Outcome = Literal["ok", "failed", "unknown"]


class InferloomError(Exception):
    """One sentence for the user in `message`, the place in `where`, and the nearest right name in `suggestion`."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, suggestion: str | None = None) -> None:
        self.message = message
        self.where = where
        self.suggestion = suggestion
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """Place, message and suggestion as one line."""
        place = f"{self.where}: " if self.where else ""
        hint = f"; did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{place}{self.message}{hint}"

    def placed(self, where: str | None) -> Self:
        """The same error, at a place where it names none yet."""
        if where is not None and self.where is None:
            self.where = where
            self.args = (self.sentence,)
        return self

    def to_json(self) -> dict[str, str | None]:
        """The error as the `error` object of `--json`."""
        return {"kind": self.kind, "message": self.message, "where": self.where, "suggestion": self.suggestion}


class UserError(InferloomError):
    """Something that the user can mend."""

    kind = "user"
    exit_code = 2


class SpecError(UserError, ValueError):
    """A YAML document that does not say what it must; `where` is `file:line: field`."""

    kind = "spec"


class UnknownNameError(UserError, LookupError):
    """A name that stands for nothing; built with the names that exist."""

    kind = "unknown_name"

    def __init__(self, what: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        names = sorted(known)
        near = nearest(name, names)
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        allowed = f"; must be one of the {len(names)} known: {listed}" if names else f"; no {what} is defined"
        super().__init__(f"unknown {what} `{name}`" + ("" if near else allowed), where=where, suggestion=near)


class CapabilityError(UserError):
    """A pipeline needs something that a model's backend does not have."""

    kind = "capability"


class DataError(UserError, ValueError):
    """A data file or data set that cannot be used; `where` is `file:line`."""

    kind = "data"


class SetupError(UserError):
    """A missing key, package or setting; the message says what to set or install."""

    kind = "setup"


class DatabaseError(UserError):
    """A database that is corrupt, newer than this version, or cannot be reached."""

    kind = "database"


class ModelError(InferloomError):
    """A call to a model failed."""

    kind = "model"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = "failed"
    """What is known of the completions: `failed` (none was made) or `unknown` (they may have been made and billed)."""

    def __init__(self, message: str, *, where: str | None = None, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message, where=where)


class RateLimitedError(ModelError):
    """The server asked to slow down (429)."""

    kind = "rate_limited"
    retryable = True


class ServerFaultError(ModelError):
    """The server failed (5xx)."""

    kind = "server_fault"
    retryable = True


class RequestRejectedError(ModelError):
    """The server refused the request (4xx); asking again would not help."""

    kind = "rejected"
    exit_code = 2


class UnreachableError(ModelError):
    """No connection to the endpoint could be made."""

    kind = "unreachable"
    retryable = True
    exit_code = 2


class ModelTimeoutError(ModelError):
    """No answer came in time; the server may have worked all the same."""

    kind = "timeout"
    retryable = True
    outcome = "unknown"


class ConnectionCutError(ModelError):
    """The connection broke after the request was sent."""

    kind = "connection_cut"
    retryable = True
    outcome = "unknown"


class BadResponseError(ModelError):
    """The reply came but could not be read."""

    kind = "bad_response"
    retryable = True
    outcome = "unknown"


class UnsupportedCodeError(ModelError):
    """A program that a model wrote and that the sandbox cannot run: neither right nor wrong."""

    kind = "unsupported_code"


class BudgetExceededError(InferloomError):
    """A limit would be passed by the next call; `received` is the part of the request that still fitted."""

    kind = "budget"

    def __init__(
        self,
        limit: str,
        allowed: float,
        needed: float,
        *,
        received: Sequence[Completion] = (),
        where: str | None = None,
    ) -> None:
        self.limit = limit
        self.received = tuple(received)
        super().__init__(f"budget `{limit}` allows {allowed:g}, the next call could reach {needed:g}", where=where)


class StorageError(InferloomError):
    """The database stopped taking writes; no new calls are made."""

    kind = "storage"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing is close."""
    close = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None
