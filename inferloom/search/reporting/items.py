"""Item by item: what each pipeline of the final table scored, and every candidate, critique and score of the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferloom.core.errors import UnknownNameError
from inferloom.pipelines.step_view import StepView, Text, Texts, step_views
from inferloom.search.result import Entry
from inferloom.store import EvaluationRow, Store

ITEMS = 300
"""Items that are shown; those that the winner got wrong come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one pipeline made of an item."""

    key: str
    label: str
    score: float
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLine:
    """An item with the winner's run and everybody's score."""

    id: str
    question: Text
    expected: str | None
    score: float
    answer: str | None
    run: str
    said: list[Said]
    """The pipelines of the final table, in its order."""
    steps: list[StepView]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """The items of a split."""

    lines: list[ItemLine]
    left_out: int


def item_table(
    store: Store,
    study: str,
    split: str,
    entries: Sequence[tuple[str, Entry]],
    winner: Entry,
    expected: Mapping[str, str],
) -> ItemTable | None:
    """The items that the winner was measured on; None where the database has none of them any more.

    Args:
        store: The database.
        study: The study's name.
        split: Of whose items.
        entries: The pipelines of the final table with their keys.
        winner: The one whose runs are shown.
        expected: Right answers by item, as far as they are known.
    """
    rows: dict[str, dict[str, EvaluationRow]] = {}
    for row in store.evaluations(study, split):
        rows.setdefault(row.item, {})[row.pipeline] = row
    own = [scored[winner.pipeline_hash] for scored in rows.values() if winner.pipeline_hash in scored]
    if not own:
        return None
    own.sort(key=lambda row: (row.score, row.item))
    texts = Texts()
    lines = []
    for row in own[:ITEMS]:
        said = [
            Said(key=key, label=entry.label, score=found.score, answer=found.answer)
            for key, entry in entries
            if (found := rows[row.item].get(entry.pipeline_hash)) is not None
        ]
        lines.append(
            ItemLine(
                id=row.item,
                question=texts.take(_question(store, row.run)),
                expected=expected.get(row.item),
                score=row.score,
                answer=row.answer,
                run=row.run,
                said=said,
                steps=step_views(store, row.run, store.steps(row.run), store.calls(row.run), texts),
            )
        )
    return ItemTable(lines=lines, left_out=len(own) - len(lines))


def _question(store: Store, run: str) -> str:
    try:
        return store.run(run).question
    except UnknownNameError:
        return ""
