"""Stopping trials that are beaten before they have answered every item.

All trials answer the items in one fixed random order. After an eighth, a quarter and half of them the trials of a batch
are held against one another and against the complete trials of finished batches, item by item; one that is worse than
another, which costs no more, by a one-sided exact test is stopped. The level is divided by the number of looks and of
rivals (Bonferroni), so that of trials as good as their best rival no more than `ALPHA` are stopped, however often one
looks; plain intervals looked at after every item would stop many more. What is decided depends on scores alone, so it
is the same whatever the timing, the number of workers or a restart.

The test: paired scores of 0 and 1 by the sign test (McNemar, Psychometrika 12, 1947); others by flipping the signs of
the differences at random (Fisher's randomisation test). Fixed looks follow Pocock's idea of group-sequential trials
(Biometrika 64, 1977), with Bonferroni's level instead of his. Racing of configurations: Maron and Moore (NIPS 1993),
irace (López-Ibáñez et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

ALPHA = 0.05
"""How many of the trials that are as good as their best rival may be stopped."""
FEWEST = 12
"""Items before the first look."""
_FLIPS = 4_000
_SPREAD = 0.02
"""The variance that true qualities are taken to have while too few trials are complete to tell."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a pipeline does on the items so far, in their order."""

    scores: Sequence[float]
    costs: Sequence[Sequence[float]] = ()
    """What each item costs, a list for every cost that is an objective."""

    def to(self, items: int) -> Standing:
        """The same on the first items only."""
        return Standing(self.scores[:items], [costs[:items] for costs in self.costs])

    def costs_no_more(self, other: Standing) -> bool:
        """Whether it is no dearer than another on as many items."""
        pairs = zip(self.costs, other.costs, strict=True)
        return all(sum(ours) / len(ours) <= sum(theirs) / len(theirs) for ours, theirs in pairs)

    @property
    def quality(self) -> float:
        """The mean score."""
        return sum(self.scores) / len(self.scores)


def looks(items: int) -> list[int]:
    """After how many items trials are compared; the last is all of them."""
    early = {max(FEWEST, items // part) for part in (8, 4, 2)}
    return [*sorted(look for look in early if look < items), items]


def beaten_by(trial: Standing, rivals: Sequence[Standing], looks: int) -> int | None:
    """The rival that shows the trial to be worse, by its place; None where none does.

    Args:
        trial: How the trial does on the items so far.
        rivals: Others on the same items or more.
        looks: How often it is looked at in all, the last time not counted.
    """
    items = len(trial.scores)
    fair = [place for place, rival in enumerate(rivals) if rival.to(items).costs_no_more(trial)]
    if not fair or looks < 1:
        return None
    chances = {place: chance_if_equal(trial.scores, rivals[place].scores[:items]) for place in fair}
    least = min(fair, key=lambda place: (chances[place], place))
    return least if chances[least] <= ALPHA / looks / len(fair) else None


def chance_if_equal(scores: Sequence[float], others: Sequence[float]) -> float:
    """How likely the others would be ahead by as much or more if the two were equally good (one-sided)."""
    differences = np.asarray(others, dtype=float) - np.asarray(scores, dtype=float)
    if set(np.unique(differences)) <= {-1.0, 0.0, 1.0}:
        ahead, behind = int((differences > 0).sum()), int((differences < 0).sum())
        apart = ahead + behind
        return float(sum(comb(apart, wins) for wins in range(ahead, apart + 1)) / 2**apart)
    # The flips are the same for the same items, so that the decision is, too.
    signs = np.random.default_rng(len(differences)).choice((-1.0, 1.0), size=(_FLIPS, len(differences)))
    as_much = int((signs @ differences >= differences.sum() - 1e-9).sum())
    return (1 + as_much) / (1 + _FLIPS)


def estimate(trial: Standing, rival: Standing, complete: Sequence[float]) -> float:
    """The quality that a sampler is told of a stopped trial.

    The rival's quality over all its items plus the paired difference so far, drawn towards none by as much as the
    difference is noise (empirical Bayes): who is stopped looks worse than it is.

    Args:
        trial: The stopped trial.
        rival: What beat it.
        complete: The qualities of complete trials, whose variance says how far apart pipelines are.
    """
    items = len(trial.scores)
    differences = np.asarray(trial.scores, dtype=float) - np.asarray(rival.scores[:items], dtype=float)
    # One item without a difference more, or a few equal differences would be believed without a doubt.
    noise = float(np.append(differences, 0.0).var(ddof=1)) / items
    spread = float(np.var(complete, ddof=1)) if len(complete) > 2 else _SPREAD
    kept = spread / (spread + noise) if spread + noise > 0 else 1.0
    return rival.quality + kept * float(differences.mean())
