"""The streams that memory is measured on: questions with an operator that they do not explain, and a check.

All questions of a stream are of one hidden world: the same symbol always means the same private rule. One question in
five comes explained, with its rule in the notes; for those alone there is a check, which works out the answer from the
rule that came with the question. It never sees the right answers and says nothing of other questions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inferloom.core.types import Candidate, Json
from inferloom.evaluation.item import Item
from inferloom.models.pocket.suite import stream_items
from inferloom.nodes.scorers import register_scorer

LEVELS = (1, 2)
EXPLAINED = 5
"""One question in so many comes with its rule."""
UNKNOWN = 0.5
_RULE = re.compile(r"a(?P<symbol>.)b=(?:(?P<first>\d+)\*)?a(?P<sign>[+-])(?:(?P<second>\d+)\*)?b(?:\+(?P<add>\d+))?")
_RULES: dict[str, str] = {}
"""The rules that came with questions."""


def world(count: int, seed: int, levels: Sequence[int] = LEVELS) -> list[Item]:
    """`count` questions of one world; their positions in the list say which come explained."""
    made = stream_items("operator", levels, count, seed)
    items = []
    for index, one in enumerate(made):
        notes = one.notes if index % EXPLAINED == 0 else ()
        _RULES.update(dict.fromkeys([one.question] if notes else [], one.notes[0]))
        meta: dict[str, Json] = {"family": one.family, "level": one.level, "solution": one.solution}
        items.append(Item(id=f"{seed}-{index}", question=one.question, answer=one.answer, meta=meta, notes=notes))
    return items


@register_scorer("bench/rule")
def follows_the_rule(question: str, candidate: Candidate) -> float:
    """1 where the answer follows from the rule that came with the question, 0 where not, 0.5 where none came."""
    rule = _RULES.get(question)
    if rule is None:
        return UNKNOWN
    parts = _RULE.fullmatch(rule)
    assert parts is not None, rule
    first, second, add = (int(parts[name] or other) for name, other in (("first", 1), ("second", 1), ("add", 0)))
    total, *others = map(int, question.removesuffix("=?").split(parts["symbol"]))
    for other in others:
        total = first * total + (second * other if parts["sign"] == "+" else -second * other) + add
    return float(candidate.answer == str(total))
