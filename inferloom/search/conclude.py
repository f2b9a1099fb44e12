"""From scores to conclusions: the front, the winner, the comparisons and their plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from inferloom.core.types import Usage
from inferloom.evaluation.evaluate import Evaluation
from inferloom.evaluation.stats import Interval, paired_difference
from inferloom.search.baselines import SELF_CONSISTENCY, Baseline
from inferloom.search.result import Comparison, Entry
from inferloom.search.trial import Tested

T = TypeVar("T")

FRONT_LIMIT = 8
"""Points of the front that are taken to the test split; the cheapest, the best, and those spread evenly between."""


def thinned(front: Sequence[T], limit: int = FRONT_LIMIT) -> list[T]:
    """At most `limit` of a front, both ends among them."""
    if len(front) <= limit:
        return list(front)
    last = len(front) - 1
    return [front[round(position * last / (limit - 1))] for position in range(limit)]


def compare(winner: Evaluation, baseline: Evaluation, label: str, *, same: bool, seed: int) -> Comparison:
    """The winner against a baseline, item by item.

    Args:
        winner: The winner on the test split.
        baseline: The baseline there.
        label: What the baseline is called.
        same: Whether both are one pipeline.
        seed: Seeds the bootstrap.
    """
    difference = paired_difference(winner.scores, baseline.scores, seed=seed)
    return Comparison(name=label, difference=difference, verdict=_sentence(label, difference, same))


def verdict(comparisons: Sequence[Comparison], baselines: Sequence[Baseline]) -> str:
    """One sentence for the whole study: where the winner stands against self-consistency at equal tokens."""
    labels = {baseline.label for baseline in baselines if baseline.family == SELF_CONSISTENCY}
    found = next((comparison for comparison in comparisons if comparison.name in labels), None)
    if found is None:
        return "The winner was not compared with self-consistency: the study ran no baselines on the test split."
    points = in_points(found.difference)
    if found.difference.low > 0:
        return f"The search beat self-consistency at equal tokens ({found.name}) on the test split: {points}."
    worse = " and lost to it" if found.difference.high < 0 else ""
    return (
        f"The search did NOT beat self-consistency at equal tokens ({found.name}){worse} on the test split: {points}. "
        "Self-consistency is the simpler choice."
    )


def worth(winner: Evaluation, rest: Evaluation, label: str, *, seed: int) -> Comparison:
    """The winner against itself without a step.

    Args:
        winner: The winner on the test split.
        rest: The same without the step.
        label: What is left out, such as "without `vote`".
        seed: Seeds the bootstrap.
    """
    difference = paired_difference(winner.scores, rest.scores, seed=seed)
    points = in_points(difference)
    if difference.low > 0:
        said = f"The winner is better than itself {label}: {points}."
    elif difference.high < 0:
        said = f"The winner is worse than itself {label}: {points}."
    else:
        said = f"No difference is shown between the winner and itself {label}: {points}."
    return Comparison(name=label, difference=difference, verdict=said)


def against_baselines(tested: Sequence[Tested], *, seed: int) -> list[Comparison]:
    """The winner, which stands first, against every baseline that was tested."""
    winner = tested[0]
    if winner.test is None:
        return []
    return [
        compare(winner.test, one.test, one.label, same=one.spec.hash == winner.spec.hash, seed=seed)
        for one in tested
        if one.kind == "baseline" and one.test is not None
    ]


def without_each(tested: Sequence[Tested], *, seed: int) -> list[Comparison]:
    """The winner, which stands first, against itself without each of its steps."""
    winner = tested[0].test
    rest = [(one.label, one.test) for one in tested if one.kind == "ablation"]
    return [worth(winner, test, label, seed=seed) for label, test in rest if winner is not None and test is not None]


def break_even(winner: Entry, baselines: Sequence[Entry], billed: Usage) -> str:
    """After how many questions the winner has saved the tokens that the search was billed.

    Against the baseline that does best on the test split, the cheaper of equals; a winner that does worse or costs more
    saves nothing.
    """
    tested = [entry for entry in baselines if entry.test is not None]
    if winner.test is None or not tested:
        return ""
    best = max(tested, key=lambda entry: (entry.test.mean if entry.test else 0.0, -entry.nominal.tokens))
    assert best.test is not None
    saved = best.nominal.tokens - winner.nominal.tokens
    if winner.test.mean < best.test.mean:
        return f"The search does not pay for itself: `{best.label}` does better."
    if saved <= 0:
        return (
            f"The winner saves no tokens: it costs {-saved:,.0f} more a question than `{best.label}`, the best"
            f" baseline, for {100 * (winner.test.mean - best.test.mean):+.1f} points."
        )
    return (
        f"The search has paid for itself after {math.ceil(billed.tokens / saved):,} questions: the winner saves"
        f" {saved:,.0f} tokens on each against `{best.label}`, the best baseline."
    )


def _sentence(label: str, difference: Interval, same: bool) -> str:
    if same:
        return f"The winner is itself `{label}`."
    points = in_points(difference)
    if difference.low > 0:
        return f"The winner beats `{label}`: {points}."
    if difference.high < 0:
        return f"The winner loses to `{label}`: {points}."
    return f"The winner does not beat `{label}`: {points}; the interval touches zero."


def in_points(difference: Interval) -> str:
    """A difference in percentage points with its interval."""
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} points (95% interval {low:+.1f} to {high:+.1f}, {difference.n} items)"
