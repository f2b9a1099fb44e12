"""The database: what is written (`rows`), and the one place that opens it (`Store`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferloom.store import rows
from inferloom.store.rows import (
    Address,
    BankSize,
    CallRow,
    CandidateRow,
    CompletionRow,
    DecisionRow,
    EvaluationRow,
    FeedbackRow,
    ForgetReport,
    PipelineRow,
    RequestRow,
    Row,
    RunRow,
    RunStatus,
    ServedRow,
    SplitScore,
    StepRow,
    StudyRow,
    TouchRow,
    UsageReport,
)

if TYPE_CHECKING:
    from inferloom.store.database import Store

__all__ = [
    "Address",
    "BankSize",
    "CallRow",
    "CandidateRow",
    "CompletionRow",
    "DecisionRow",
    "EvaluationRow",
    "FeedbackRow",
    "ForgetReport",
    "PipelineRow",
    "RequestRow",
    "Row",
    "RunRow",
    "RunStatus",
    "ServedRow",
    "SplitScore",
    "StepRow",
    "Store",
    "StudyRow",
    "TouchRow",
    "UsageReport",
    "rows",
]


def __getattr__(name: str) -> object:
    # SQLAlchemy takes half a second to import, and most of what imports this package needs only the rows.
    if name == "Store":
        from inferloom.store.database import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
