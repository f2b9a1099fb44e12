"""OpenTelemetry spans for runs, nodes and model calls, by the GenAI semantic conventions; off unless asked for.

A run is an `invoke_workflow` span, a node an internal span under it, a model call a `chat` or `text_completion` span
under its node, which covers every retry of it, as the conventions want. What the bank serves makes no call and no span.
Texts stay out of all of them unless they are asked for too. The conventions are those of the GenAI repository's v0.1.0
(2026); they are not stable yet.

On: `INFERLOOM_OTEL=1` in the environment, with OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, ...) for
the rest; or `enable()` in a program, which uses the provider that the program has set up. Texts as well:
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true`, or `enable(content=True)`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from inferloom.core.errors import BudgetExceededError, SetupError
from inferloom.core.types import Completion, Message, Request, Usage
from inferloom.models.spec import ModelSpec

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

Attributes: TypeAlias = "Mapping[str, str | bool | int | float | Sequence[str]]"

ON = "INFERLOOM_OTEL"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_YES = ("1", "true", "yes", "on")
_IN_PROCESS = ("pocket", "transformers", "vllm", "scripted")

tracer: Tracer | None = None
"""None: tracing is off, which is all that is looked at then."""
_content = False
_configured = False
_OFF: AbstractContextManager[None] = nullcontext()


def enable(provider: TracerProvider | None = None, *, content: bool = False) -> None:
    """Make spans from now on.

    Args:
        provider: Where they go; None: the one that the program has set up, or else a new one that sends them by OTLP
            over HTTP to where OpenTelemetry's environment variables say.
        content: Put questions, prompts and answers into them.

    Raises:
        SetupError: OpenTelemetry is not installed.
    """
    global tracer, _content, _configured
    try:
        from opentelemetry import trace
    except ImportError:
        raise SetupError(
            "tracing needs OpenTelemetry, which is not installed; install it with: pip install 'inferloom[otel]'"
        ) from None
    if provider is None:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            provider = _sender()
    tracer = trace.get_tracer("inferloom", tracer_provider=provider)
    _content, _configured = content, True


def disable() -> None:
    """Make no spans any more, whatever the environment says."""
    global tracer, _configured
    tracer, _configured = None, True


def configure() -> None:
    """Do once what the environment says; a program that has said something itself stays in the right.

    Raises:
        SetupError: It says so, and OpenTelemetry is not installed.
    """
    global _configured
    if _configured:
        return
    _configured = True
    if os.environ.get(ON, "").lower() in _YES:
        enable(content=os.environ.get(CONTENT, "").lower() in _YES)


def run_span(pipeline: str, run: str, messages: Sequence[Message]) -> AbstractContextManager[Span | None]:
    """The span of a run of a pipeline."""
    if tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind

    attributes: dict[str, str] = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.agent.name": pipeline,
        "inferloom.run.id": run,
    }
    if _content:
        attributes["gen_ai.input.messages"] = _said(messages)
    return _span(f"invoke_workflow {pipeline}", SpanKind.INTERNAL, attributes)


def node_span(path: str, node: str) -> AbstractContextManager[Span | None]:
    """The span of one execution of a node."""
    if tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind

    return _span(f"{node} {path}", SpanKind.INTERNAL, {"inferloom.node.name": node, "inferloom.node.path": path})


def call_span(name: str, spec: ModelSpec, request: Request, count: int) -> AbstractContextManager[Span | None]:
    """The span of one model call with all its attempts.

    Args:
        name: The model's name in the pipeline.
        spec: The model.
        request: What is asked.
        count: How many completions are wanted.
    """
    if tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind

    scheme, _, model = spec.model.partition(":")
    operation = "chat" if request.prefix is None else "text_completion"
    attributes: dict[str, str | bool | int | float | Sequence[str]] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": scheme,
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "inferloom.model.name": name,
    }
    if count > 1:
        attributes["gen_ai.request.choice.count"] = count
    if request.stop:
        attributes["gen_ai.request.stop_sequences"] = request.stop
    if request.schema is not None:
        attributes["gen_ai.output.type"] = "json"
    if spec.base_url:
        address = urlsplit(spec.base_url)
        attributes["server.address"] = address.hostname or ""
        attributes["server.port"] = address.port or (443 if address.scheme == "https" else 80)
    if _content:
        prompt = request.messages if request.prefix is None else (Message("user", request.prefix),)
        attributes["gen_ai.input.messages"] = _said(prompt)
    kind = SpanKind.INTERNAL if scheme in _IN_PROCESS else SpanKind.CLIENT
    return _span(f"{operation} {model}", kind, attributes)


def answered(span: Span | None, completions: Iterable[Completion]) -> None:
    """Note what a model call brought; the prompt counts once."""
    if span is None:
        return
    made = list(completions)
    span.set_attributes(
        {
            "gen_ai.response.finish_reasons": [completion.finish_reason for completion in made],
            "gen_ai.usage.input_tokens": max((completion.prompt_tokens for completion in made), default=0),
            "gen_ai.usage.cache_read.input_tokens": max((completion.cached_tokens for completion in made), default=0),
            "gen_ai.usage.output_tokens": sum(completion.completion_tokens for completion in made),
        }
    )
    if _content:
        span.set_attribute(
            "gen_ai.output.messages",
            json.dumps([_message("assistant", one.text, finish_reason=one.finish_reason) for one in made]),
        )


def finished(span: Span | None, answer: str | None, nominal: Usage, billed: Usage, stopped: str | None) -> None:
    """Note how a run ended. Its tokens carry names of our own: those of the calls would be counted twice."""
    if span is None:
        return
    span.set_attributes(
        {
            "inferloom.nominal.calls": nominal.calls,
            "inferloom.nominal.tokens": nominal.tokens,
            "inferloom.billed.calls": billed.calls,
            "inferloom.billed.tokens": billed.tokens,
            **({} if stopped is None else {"inferloom.stopped": stopped}),
        }
    )
    if _content and answer is not None:
        span.set_attribute("gen_ai.output.messages", json.dumps([_message("assistant", answer, finish_reason="stop")]))


@contextmanager
def _span(name: str, kind: SpanKind, attributes: Attributes) -> Iterator[Span]:
    """A span that what happens inside stands under; an error leaves its class, and its words with the texts only."""
    from opentelemetry.trace import Status, StatusCode

    assert tracer is not None
    started = tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=_content, set_status_on_exception=False
    )
    with started as span:
        try:
            yield span
        except BudgetExceededError as error:
            # The best answer so far comes out; that is no error.
            span.set_attributes({"inferloom.stopped": error.limit})
            raise
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _said(messages: Iterable[Message]) -> str:
    return json.dumps([_message(message.role, message.content) for message in messages], ensure_ascii=False)


def _message(role: str, text: str, **more: str) -> dict[str, object]:
    """A message as the conventions write it."""
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def _sender() -> TracerProvider:
    """A provider that sends spans by OTLP over HTTP, as OpenTelemetry's environment variables say."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SdkProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SetupError(
            "sending spans needs OpenTelemetry's SDK and exporter; install them with: pip install 'inferloom[otel]'"
        ) from None
    # `Resource.create` lets OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word only where it names none.
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "inferloom"}
    provider = SdkProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
