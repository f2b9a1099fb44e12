"""Spans follow the GenAI conventions, hold no text unless it is asked for, and are not made at all by default."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from inferloom.core.errors import RateLimitedError, RequestRejectedError
from inferloom.core.types import Request
from inferloom.models import telemetry
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.models.otlp_receiver import receiving

SECRET = "the-question-nobody-may-see"
_busy: list[int] = []


def _say(request: Request, seed: int) -> str:
    said = request.messages[-1].content
    if "break" in said:
        raise RequestRejectedError(f"no: {said}")
    if "busy" in said and not _busy:
        _busy.append(1)
        raise RateLimitedError("later", retry_after=0.01)
    if "single digit from 0" in said:
        return str(seed % 10)
    return f"thought {seed}\nA: {seed % 3}"


register_backend("traced", ScriptedBackend(_say, name="traced"))

VOTE = """
name: traced-vote
models: {m: scripted:traced}
nodes:
  left: {sample: {model: m, n: 3, temperature: 0.5, max_tokens: 77}}
  right: {sample: {model: m}}
  grade: {score: {model: m}}
  pick: {vote: {weight: judge}}
edges:
  - [left, grade, pick]
  - [right, grade]
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "t.db")) as opened:
        yield opened


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.enable(provider)
    yield exporter
    telemetry.disable()
    provider.shutdown()


def pipeline(store: Store, text: str = VOTE) -> Pipeline:
    return Pipeline(PipelineSpec.parse(text), Gateway(store))


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_calls_stand_under_nodes_and_nodes_under_the_run(store: Store, exported: InMemorySpanExporter) -> None:
    result = await pipeline(store).ainvoke(SECRET)
    spans = exported.get_finished_spans()
    (run,) = named(spans, "invoke_workflow traced-vote")
    assert run.parent is None
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.agent.name": "traced-vote",
        "inferloom.run.id": result.run_id,
        "inferloom.nominal.calls": result.usage.calls,
        "inferloom.nominal.tokens": result.usage.tokens,
        "inferloom.billed.calls": result.billed.calls,
        "inferloom.billed.tokens": result.billed.tokens,
    }
    nodes = {
        str(attributes(span)["inferloom.node.path"]): span
        for span in spans
        if "inferloom.node.path" in attributes(span)
    }
    assert nodes.keys() == {"left", "right", "grade", "pick"}
    assert all(span.parent is not None and span.parent.span_id == run.context.span_id for span in nodes.values())
    calls = named(spans, "chat traced")
    of_node = {
        path: [call for call in calls if call.parent.span_id == node.context.span_id] for path, node in nodes.items()
    }
    assert {path: len(own) for path, own in of_node.items()} == {
        path: sum(call.step == path and call.billed.calls > 0 for call in store.calls(result.run_id)) for path in nodes
    }
    assert len(calls) == result.billed.calls
    # The tokens of the spans are those of the ledger.
    billed = store.usage(result.run_id).billed
    assert sum(int(str(attributes(call)["gen_ai.usage.input_tokens"])) for call in calls) == billed.prompt_tokens
    assert sum(int(str(attributes(call)["gen_ai.usage.output_tokens"])) for call in calls) == billed.completion_tokens


async def test_a_call_says_what_was_asked_and_what_came(store: Store, exported: InMemorySpanExporter) -> None:
    await pipeline(store).ainvoke(SECRET)
    drawn = [
        span
        for span in named(exported.get_finished_spans(), "chat traced")
        if "gen_ai.request.choice.count" in attributes(span)
    ]
    told = attributes(drawn[0])
    assert drawn[0].kind is SpanKind.INTERNAL, "the model is in this process"
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "scripted"
    assert told["gen_ai.request.model"] == "traced"
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.max_tokens"]) == (0.5, 77)
    assert told["gen_ai.request.choice.count"] == 3
    assert told["gen_ai.response.finish_reasons"] == ("stop",) * 3
    assert told["inferloom.model.name"] == "m"


async def test_no_text_is_in_any_span_unless_it_is_asked_for(store: Store, exported: InMemorySpanExporter) -> None:
    await pipeline(store).ainvoke(SECRET)
    whole = "".join(span.to_json() for span in exported.get_finished_spans())
    assert SECRET not in whole and "thought" not in whole
    exported.clear()
    telemetry._content = True
    result = await pipeline(store).ainvoke(SECRET)
    spans = exported.get_finished_spans()
    (run,) = named(spans, "invoke_workflow traced-vote")
    asked, said = (json.loads(str(attributes(run)[f"gen_ai.{way}.messages"])) for way in ("input", "output"))
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
    assert said[0]["parts"][0]["content"] == result.answer
    call = named(spans, "chat traced")[0]
    assert "thought" in str(attributes(call)["gen_ai.output.messages"])
    assert SECRET in str(attributes(call)["gen_ai.input.messages"])


async def test_what_the_bank_serves_is_no_call(store: Store, exported: InMemorySpanExporter) -> None:
    await pipeline(store).ainvoke("q", stream="s")
    exported.clear()
    await pipeline(store).ainvoke("q", stream="s")
    assert len(exported.get_finished_spans()) == 1 + 4


async def test_retries_are_one_span_and_failures_are_errors_without_words(
    store: Store, exported: InMemorySpanExporter
) -> None:
    _busy.clear()
    single = "models: {m: scripted:traced}\nsteps: [sample: {model: m}]\n"
    await pipeline(store, single).ainvoke("busy")
    (call,) = named(exported.get_finished_spans(), "chat traced")
    assert call.status.status_code is StatusCode.UNSET
    assert [row.outcome for row in store.calls(store.runs()[0].id)] == ["failed", "ok"]
    exported.clear()
    with pytest.raises(RequestRejectedError):
        await pipeline(store, single).ainvoke(f"break {SECRET}")
    spans = exported.get_finished_spans()
    assert [attributes(span)["error.type"] for span in spans] == ["RequestRejectedError"] * 3
    assert all(span.status.status_code is StatusCode.ERROR for span in spans)
    assert SECRET not in "".join(span.to_json() for span in spans)


async def test_a_spent_budget_is_no_error(store: Store, exported: InMemorySpanExporter) -> None:
    result = await pipeline(store, VOTE + "budget: {calls: 5}\n").ainvoke("q")
    assert result.stopped == "budget"
    spans = exported.get_finished_spans()
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)
    (run,) = named(spans, "invoke_workflow traced-vote")
    assert attributes(run)["inferloom.stopped"] == "budget"


def test_off_needs_nothing_and_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('models: {m: "scripted:constant:A: 1"}\nsteps: [sample: {model: m}]\n')
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None  # any import of it fails\n"
        "import inferloom\n"
        "assert inferloom.load('p.yaml', store='sqlite://').invoke('q').answer == '1'\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != telemetry.ON}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=60)
    telemetry.disable()
    with telemetry.node_span("a", "b") as span:
        assert span is None
    assert telemetry.node_span("a", "b") is telemetry.run_span("p", "r", ())


def test_a_collector_gets_the_spans_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('models: {m: "scripted:constant:A: 1"}\nsteps: [sample: {model: m, n: 2}, vote]\n')
    command = "import sys; from inferloom.cli import main; main()"
    with receiving() as received:
        environment = {**os.environ, "INFERLOOM_OTEL": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": received.url}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", command, "run", "p.yaml", SECRET],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert received.services == {"inferloom"}
    assert sorted(span.name for span in received.spans) == [
        "chat constant:A: 1",
        "invoke_workflow p",
        "sample steps/0",
        "vote steps/1",
    ]
    assert len({span.trace_id for span in received.spans}) == 1
    assert SECRET not in str(received.spans)


def test_without_the_packages_one_sentence_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('models: {m: "scripted:constant:A: 1"}\nsteps: [sample: {model: m}]\n')
    command = "import sys; sys.modules['opentelemetry'] = None; from inferloom.cli import main; main()"
    environment = {**os.environ, "INFERLOOM_OTEL": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", command, "run", "p.yaml", "q"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "inferloom[otel]" in done.stderr
    assert done.stderr.count("\n") == 1
