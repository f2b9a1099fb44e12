"""One row of each kind for the tests of the store."""

from __future__ import annotations

from inferloom.core.types import Candidate, Completion, TokenLogprob, Usage
from inferloom.store import (
    Address,
    CallRow,
    CandidateRow,
    CompletionRow,
    EvaluationRow,
    PipelineRow,
    RequestRow,
    RunRow,
    StepRow,
    StudyRow,
    TouchRow,
)

ADDRESS = Address(stream="dev/item-1", fingerprint="f" * 32, request="0123456789abcdef" * 2)
USAGE = Usage(calls=1, prompt_tokens=11, cached_tokens=4, completion_tokens=7, usd=0.25, seconds=0.5)

COMPLETION = Completion(
    text="12+3=15\nA: 15 — fünfzehn 🎲",
    finish_reason="stop",
    stop_reason="\n\n",
    prompt_tokens=11,
    cached_tokens=4,
    completion_tokens=7,
    logprobs=(
        TokenLogprob("12", -0.1234567890123456, (("12", -0.1234567890123456), ("13", -2.5))),
        TokenLogprob("é", float("-inf")),
    ),
    reasoning="twelve and three",
    id=ADDRESS.completion_id(0),
)

CANDIDATE = Candidate(
    id="abcdefabcdef",
    text="A: 15",
    answer="15",
    parents=("p1", "p2"),
    origin={"node": "sample", "model": "small", "completion": ADDRESS.completion_id(0)},
    scores={"judge": 0.75},
    critiques=("fine",),
    tests=(True, False),
    finished=False,
)


def address(number: int, stream: str = "dev") -> Address:
    return Address(stream=stream, fingerprint="f" * 32, request=f"{number:032x}")


def banked(where: Address, index: int = 0, text: str = "A: 15", created: float = 1.0) -> CompletionRow:
    made = Completion(text=text, finish_reason="stop", prompt_tokens=5, completion_tokens=3)
    return CompletionRow(address=where, index=index, completion=made, created=created)


def call(id: str, run: str = "run-1", **other: object) -> CallRow:
    fields: dict[str, object] = {
        "id": id,
        "run": run,
        "step": "steps/0",
        "ordinal": 0,
        "attempt": 0,
        "model": "small",
        "fingerprint": "f" * 32,
        "request": ADDRESS.request,
        "completions": 1,
        "nominal": USAGE,
        "billed": USAGE,
        "outcome": "ok",
        "started": 1.0,
        "ended": 2.0,
    }
    return CallRow(**{**fields, **other})  # type: ignore[arg-type]  # the fields are spelled out above


def run(id: str = "run-1", **other: object) -> RunRow:
    fields: dict[str, object] = {
        "id": id,
        "pipeline": "p" * 16,
        "stream": "dev/item-1",
        "question": "What is 12+3?",
        "status": "running",
        "started": 1.0,
    }
    return RunRow(**{**fields, **other})  # type: ignore[arg-type]  # the fields are spelled out above


STEP = StepRow(
    run="run-1",
    path="steps/0",
    ordinal=0,
    node="sample",
    started=1.0,
    ended=2.0,
    status="done",
    candidates_in=0,
    candidates_out=1,
)
CANDIDATE_ROW = CandidateRow(run="run-1", path="steps/0", ordinal=0, position=0, candidate=CANDIDATE)
PIPELINE = PipelineRow(hash="p" * 16, yaml="steps:\n- sample\n", created=1.0)
REQUEST = RequestRow(hash=ADDRESS.request, model="small", body='{"messages": [["user", "What is 12+3?"]]}')
STUDY = StudyRow(name="first", spec="{}", spec_hash="s", status="running", created=1.0, updated=1.0)
EVALUATION = EvaluationRow(
    study="first",
    trial=3,
    split="search",
    item="item-1",
    pipeline="p" * 16,
    run="run-1",
    score=1.0,
    answer="15",
    nominal=USAGE,
    created=1.0,
)
TOUCH = TouchRow(dataset="sums", split="test", study="first", created=1.0)
