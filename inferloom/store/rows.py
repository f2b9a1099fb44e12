"""What is written to the database: one frozen dataclass per row of a table, and the reports that reading gives back.

Times are Unix seconds. Hashes are lower-case hex digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from inferloom.core.digest import digest
from inferloom.core.errors import Outcome
from inferloom.core.types import Candidate, Completion, Json, Usage

RunStatus = Literal["running", "done", "failed"]
ServedStatus = Literal["running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where draws of one request live in the bank; the index of a draw completes it."""

    stream: str
    fingerprint: str
    """What identifies the model's answers."""
    request: str
    """32 hex digits: the hash of the rendered request with its sampling parameters."""

    key: str = field(init=False, repr=False, compare=False)
    """The address as 32 hex digits: the key under which the database finds it."""

    def __post_init__(self) -> None:
        text = f"{self.stream}\x1f{self.fingerprint}\x1f{self.request}"
        object.__setattr__(self, "key", digest(text))

    def completion_id(self, index: int) -> str:
        """The id of the index-th draw, by which `Store.completion` finds it again."""
        return f"{self.key[:16]}:{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRow:
    """A completion in the bank. The first one written at (address, index) stays."""

    address: Address
    index: int
    completion: Completion
    created: float
    prompt_text: str | None = None
    """The rendered prompt where it is kept beside the completion; usually it is kept once, in a `RequestRow`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """A stored prompt, kept once per (hash, model)."""

    hash: str
    model: str
    body: str
    """The rendered request as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """A line of the ledger: one attempt to get completions. A later row of the same id replaces the earlier."""

    id: str
    run: str
    step: str
    """The node's path."""
    ordinal: int
    attempt: int
    model: str
    """The model's name in the pipeline."""
    fingerprint: str
    request: str
    """The request's hash, as in `Address`."""
    completions: int
    """How many completions were received."""
    nominal: Usage
    billed: Usage
    bound: Usage = field(default_factory=Usage)
    """The most that an attempt of unknown outcome can have cost; zero for the others."""
    outcome: Outcome
    error: str | None = None
    started: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One execution of a node. A later row of the same (run, path, ordinal) replaces the earlier."""

    run: str
    path: str
    ordinal: int
    node: str
    """The node's registered name."""
    started: float
    ended: float | None = None
    status: str
    candidates_in: int
    candidates_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate as a node handed it on."""

    run: str
    path: str
    ordinal: int
    position: int
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A pipeline applied to one question. A later row of the same id replaces the earlier."""

    id: str
    pipeline: str
    """The hash of the pipeline's specification."""
    stream: str
    question: str
    status: RunStatus
    answer: str | None = None
    stopped: str | None = None
    """Why the run ended early (`budget`), or None."""
    error: str | None = None
    started: float
    ended: float | None = None
    study: str | None = None
    item: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRow:
    """A pipeline's specification, found by the hash of its content."""

    hash: str
    yaml: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """What one trial of a study scored on one item; a later row of the same place replaces the earlier."""

    study: str
    trial: int
    split: str
    item: str
    pipeline: str
    run: str
    score: float
    answer: str | None = None
    nominal: Usage
    stopped: str | None = None
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A search; a later row of the same name replaces the earlier."""

    name: str
    spec: str
    """The search job as JSON."""
    spec_hash: str
    status: str
    created: float
    updated: float
    result: str | None = None
    """The verdict as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchRow:
    """One look at a data set's test split."""

    dataset: str
    split: str
    study: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRow:
    """A request to the server under an `Idempotency-Key`; a later row of the same id replaces the earlier."""

    id: str
    owner: str
    """The name of the API key that it came with."""
    idempotency: str
    request: str
    """The hash of the request's body."""
    run: str
    """The run of its first choice, the latest where it was taken up again."""
    stream: str
    status: ServedStatus
    response: str | None = None
    """The answer as JSON, once it is done."""
    created: float
    updated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """A score that somebody gave to a run."""

    id: str
    run: str
    score: float
    """From 0 to 1."""
    grader: str
    """Who or what judged, such as `user`."""
    decision: str | None = None
    """The decision of a router that is judged; None: the run as a whole."""
    comment: str | None = None
    owner: str
    """The name of the API key that it came with."""
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """What a router chose for a question; written before anything is called."""

    id: str
    router: str
    version: str
    run: str
    query: str
    """32 hex digits that stand for the question's text."""
    arm: str
    propensity: float
    """The chance that the arm had when it was chosen."""
    explored: bool
    reasons: Mapping[str, Json]
    created: float


Row: TypeAlias = (
    CompletionRow
    | RequestRow
    | CallRow
    | StepRow
    | CandidateRow
    | RunRow
    | PipelineRow
    | EvaluationRow
    | StudyRow
    | TouchRow
    | DecisionRow
    | ServedRow
    | FeedbackRow
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Sums over ledger rows."""

    nominal: Usage = field(default_factory=Usage)
    billed: Usage = field(default_factory=Usage)
    bound: Usage = field(default_factory=Usage)
    """The most that attempts of unknown outcome can have cost."""


class SplitScore(NamedTuple):
    """What a trial scored on a split, over the items that it was evaluated on so far."""

    trial: int
    split: str
    items: int
    mean: float
    calls: float
    """Nominal, the mean of an item, as are the others."""
    tokens: float
    usd: float
    seconds: float


class BankSize(NamedTuple):
    """How much of the bank belongs to one model."""

    model: str
    """The names under which the ledger knows the model, joined by commas; empty where it knows none."""
    fingerprint: str
    requests: int
    completions: int
    bytes: int
    """UTF-8 bytes of texts, reasoning, kept prompts, log-probabilities and tool calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetReport:
    """What `bank_forget` removed or blanked."""

    prompts: int
    completions: int
    runs: int
    candidates: int
