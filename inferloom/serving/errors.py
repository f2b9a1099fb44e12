"""Errors as an OpenAI client reads them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping

from inferloom.core.errors import (
    InferloomError,
    ModelError,
    ModelTimeoutError,
    RateLimitedError,
    RequestRejectedError,
    StorageError,
    UnreachableError,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(InferloomError):
    """A request that is not answered; `status` is the HTTP status."""

    kind = "api"

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        suggestion: str | None = None,
    ) -> None:
        self.status = status
        self.param = param
        self.code = code
        self.type = type or _TYPES.get(status, "server_error")
        self.headers = dict(headers or {})
        super().__init__(message, suggestion=suggestion)

    def document(self) -> dict[str, dict[str, str | None]]:
        """The body of the reply."""
        return {"error": {"message": self.sentence, "type": self.type, "param": self.param, "code": self.code}}


def api_error(error: BaseException, run: str | None = None) -> ApiError:
    """What a client is told of an error: what it is and where more stands, never where our models live."""
    if isinstance(error, ApiError):
        return error
    more = f"; /runs/{run} says more" if run else ""
    if isinstance(error, ModelError):
        status, what = _of_model(error)
        waits = {"retry-after": "5"} if status == 503 else None
        message = f"a model of the pipeline {what}{more}"
        return ApiError(status, message, type="model_error", code=error.kind, headers=waits)
    if isinstance(error, StorageError):
        return ApiError(503, "the server's database takes no writes, so no calls are made", code=error.kind)
    if isinstance(error, TimeoutError):
        return ApiError(504, f"the answer took too long and was given up{more}", type="timeout_error", code="timeout")
    if isinstance(error, InferloomError):
        return ApiError(500, f"the pipeline could not be run: {error.message}{more}", code=error.kind)
    return ApiError(500, f"unexpected {type(error).__name__}{more}", code="internal")


def _of_model(error: ModelError) -> tuple[int, str]:
    """The status for a failure of a model, and what happened."""
    if isinstance(error, ModelTimeoutError):
        return 504, "did not answer in time"
    if isinstance(error, RateLimitedError):
        return 503, "is overloaded"
    if isinstance(error, UnreachableError):
        return 503, "cannot be reached"
    if isinstance(error, RequestRejectedError):
        return 502, "refused the request"
    return 502, f"failed ({error.kind})"
