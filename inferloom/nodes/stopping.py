"""When enough has been drawn: rules on the votes so far, shared by nodes that draw until a rule holds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from inferloom.core.answers import votes_of
from inferloom.core.types import Candidate

VoteRule = Literal["agreement", "beta"]


@lru_cache(maxsize=4096)
def beta_confidence(first: int, second: int) -> Fraction:
    """The chance that the answer with `first` votes stays ahead of the one with `second`, under a flat Beta prior.

    1 - I_0.5(first + 1, second + 1), in its exact form 1 - sum_{j=0..second} C(m, j) / 2^m with m = first + second + 1.
    """
    m = first + second + 1
    term = below = 1
    for j in range(second):
        term = term * (m - j) // (j + 1)
        below += term
    return 1 - Fraction(below, 2**m)


def top_two(candidates: Sequence[Candidate]) -> tuple[int, int]:
    """The votes of the most frequent answer and of the next; those of cut texts never count towards stopping."""
    votes = votes_of([candidate for candidate in candidates if candidate.finished])
    counts = Counter(vote for vote in votes if vote is not None)
    first, second, *_ = [*(count for _, count in counts.most_common(2)), 0, 0]
    return first, second


def enough(rule: VoteRule, threshold: float, first: int, second: int, drawn: int, left: int) -> bool:
    """Whether drawing may stop: the rule holds, or the draws that are left could not change the leader."""
    if first - second > left:
        return True
    return first / drawn >= threshold if rule == "agreement" else beta_confidence(first, second) >= threshold


def fewest_to_stop(threshold: float, first: int, second: int, left: int) -> int:
    """How many more draws it takes at least until the Beta rule can stop: if all of them vote for the leader.

    Drawing so many at once stops exactly where drawing one by one would, in fewer requests.
    """

    def stops(more: int) -> bool:
        return enough("beta", threshold, first + more, second, 0, left - more)

    return min(left, 1 + bisect_left(range(1, left + 1), True, key=stops))


def leader_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in their order, save that the first one with the most frequent answer leads; ties: first seen."""
    votes = votes_of(candidates)
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return list(candidates)
    # `most_common` keeps the order of first sight among equals.
    leader = votes.index(counts.most_common(1)[0][0])
    return [candidates[leader], *candidates[:leader], *candidates[leader + 1 :]]
