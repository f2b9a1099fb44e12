"""What a handful of answers look like, and how sure that makes of the leading one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TINY = 0.002


@dataclass(frozen=True, slots=True)
class Look:
    """What answers look like; every field is what a weight of the same name multiplies."""

    leader: str | None
    """The leading answer; None where nothing votes."""
    agreement: float
    lead: float
    logprob: float
    """-ln(0.002 - l) for the mean log-probability l: it tells near certain texts apart, where most right ones are."""
    grade: float


def look(
    votes: Sequence[str | None], weights: Sequence[float], logprobs: Sequence[float], grades: Sequence[float]
) -> Look:
    """What answers look like.

    Args:
        votes: The answer of each candidate, in a form in which equal answers are equal; None: no vote.
        weights: Of each vote.
        logprobs: The mean log-probability of each candidate; 0 where it plays no part.
        grades: The grade of each, likewise.
    """
    sums: dict[str, float] = {}
    for vote, weight in zip(votes, weights, strict=True):
        if vote is not None:
            sums[vote] = sums.get(vote, 0.0) + weight
    if not sums:
        return Look(None, 0.0, 0.0, 0.0, 0.0)
    leader = max(sums, key=sums.__getitem__)  # the first seen among equals
    total = sum(weights)
    second = max((weight for vote, weight in sums.items() if vote != leader), default=0.0)
    mine = [place for place, vote in enumerate(votes) if vote == leader]
    return Look(
        leader,
        sums[leader] / total,
        (sums[leader] - second) / total,
        -math.log(_TINY - min(0.0, sum(logprobs[place] for place in mine) / len(mine))),
        sum(grades[place] for place in mine) / len(mine),
    )


def chance(seen: Look, weights: Mapping[str, float]) -> float:
    """The chance that the leading answer is right; 0 where there is none."""
    if seen.leader is None:
        return 0.0
    odds = weights["bias"] + sum(weights[name] * getattr(seen, name) for name in FEATURES)
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, odds))))


FEATURES = ("agreement", "lead", "logprob", "grade")
"""What is looked at, in the order of `Look`."""
