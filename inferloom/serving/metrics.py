"""What Prometheus reads: requests and runs by pipeline. No label names a key or a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inferloom.core.types import total

if TYPE_CHECKING:
    from inferloom.pipelines.run import RunResult

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        by = ["pipeline"]
        self._requests = Counter(
            "inferloom_requests", "Requests for an answer, by HTTP status", [*by, "status"], registry=registry
        )
        self._seconds = Histogram(
            "inferloom_request_seconds", "Seconds until a whole answer", by, buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter(
            "inferloom_tokens", "Tokens of finished runs", [*by, "account", "kind"], registry=registry
        )
        self._calls = Counter("inferloom_calls", "Calls of finished runs", [*by, "account"], registry=registry)
        self._usd = Counter("inferloom_usd", "Cost of finished runs in US dollars", [*by, "account"], registry=registry)
        self._stopped = Counter("inferloom_stopped", "Runs that a budget ended early", by, registry=registry)
        self.running = Gauge("inferloom_requests_running", "Requests being answered", registry=registry)
        self.waiting = Gauge("inferloom_requests_waiting", "Requests waiting for their turn", registry=registry)

    def answered(self, pipeline: str, status: int, seconds: float, results: Sequence[RunResult] = ()) -> None:
        """Count a request and what its runs cost."""
        self._requests.labels(pipeline, str(status)).inc()
        self._seconds.labels(pipeline).observe(seconds)
        accounts = {
            "nominal": total(result.usage for result in results),
            "billed": total(result.billed for result in results),
        }
        for account, usage in accounts.items():
            self._tokens.labels(pipeline, account, "prompt").inc(usage.prompt_tokens)
            self._tokens.labels(pipeline, account, "completion").inc(usage.completion_tokens)
            self._calls.labels(pipeline, account).inc(usage.calls)
            self._usd.labels(pipeline, account).inc(usage.usd)
        self._stopped.labels(pipeline).inc(sum(result.stopped is not None for result in results))

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)
