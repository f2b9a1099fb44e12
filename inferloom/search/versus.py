"""The winners of two studies against each other, item by item, where they were tested on the same items."""

from __future__ import annotations

from dataclasses import dataclass

from inferloom.core.types import Json
from inferloom.evaluation.stats import Interval, paired_difference
from inferloom.search.conclude import in_points
from inferloom.search.record import StudyRecord
from inferloom.search.result import StudyResult, interval_json
from inferloom.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Two studies' winners."""

    first: str
    second: str
    """The studies' names."""
    difference: Interval | None
    """First minus second on the test split, paired bootstrap; None where the items are not the same."""
    sentence: str

    def to_json(self) -> dict[str, Json]:
        """The shape of `differences[]` in `study compare --json`."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": interval_json(self.difference),
            "sentence": self.sentence,
        }


def versus(store: Store, first: StudyRecord, second: StudyRecord) -> Versus:
    """Compare the winners of two finished studies."""
    scores = _winner_scores(store, first), _winner_scores(store, second)
    reason = _why_not(first, second, *scores)
    if reason is not None:
        sentence = f"The winners of `{first.name}` and `{second.name}` cannot be paired: {reason}."
        return Versus(first=first.name, second=second.name, difference=None, sentence=sentence)
    a, b = scores
    items = sorted(a)
    difference = paired_difference([a[item] for item in items], [b[item] for item in items], seed=0)
    sentence = _sentence(first.name, second.name, difference)
    return Versus(first=first.name, second=second.name, difference=difference, sentence=sentence)


def _winner_scores(store: Store, record: StudyRecord) -> dict[str, float]:
    """The winner's score by test item."""
    winner = _finished(record).winner
    rows = store.evaluations(record.name, split="test", trial=winner.trial)
    return {row.item: row.score for row in rows if row.pipeline == winner.pipeline_hash}


def _finished(record: StudyRecord) -> StudyResult:
    result = record.result
    assert result is not None, "only studies with a result are compared"
    return result


def _why_not(first: StudyRecord, second: StudyRecord, a: dict[str, float], b: dict[str, float]) -> str | None:
    for record, scores in ((first, a), (second, b)):
        if record.data_hash is None:
            return f"`{record.name}` was run by an older version, which did not record which items it used"
        if not scores:
            return f"the database has no test scores of the winner of `{record.name}`"
    if first.data_hash != second.data_hash:
        return "they were searched on different data sets, or graded differently"
    if a.keys() != b.keys():
        shared = len(a.keys() & b.keys())
        return f"they were tested on different items ({len(a)} and {len(b)}, {shared} of them in both)"
    return None


def _sentence(first: str, second: str, difference: Interval) -> str:
    points = in_points(difference)
    if not difference.excludes_zero:
        return f"No difference between the winners of `{first}` and `{second}`: {points}; the interval includes zero."
    won = "beats" if difference.low > 0 else "loses to"
    return f"The winner of `{first}` {won} the winner of `{second}`: {points}."
