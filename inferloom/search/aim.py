"""What a study looks for: quality, beside it costs that are kept low, limits that must hold, or one utility of all.

Costs are nominal means of an item. A utility is quality less so much for each unit of a cost, and the study has that
one objective. A limit is no objective: a trial that passes it wins nothing, samplers are told by how much it does, and
a point whose least number of calls is over a limit on calls is never tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from inferloom.search.racing import Standing
from inferloom.search.result import MeanUsage

if TYPE_CHECKING:
    from inferloom.evaluation.evaluate import Evaluation
    from inferloom.pipelines.spec import PipelineSpec
    from inferloom.search.trial import Trial

Measure: TypeAlias = Literal["tokens", "calls", "usd", "seconds"]
"""A nominal cost, the mean of one item."""
Direction: TypeAlias = Literal["maximize", "minimize"]

T = TypeVar("T")


def cost(usage: MeanUsage, measure: Measure) -> float:
    """A mean usage as one number."""
    return float(getattr(usage, measure))


@dataclass(frozen=True, slots=True)
class Aim:
    """What is better."""

    costs: tuple[Measure, ...] = ()
    """The objectives beside quality."""
    prices: Mapping[Measure, float] = field(default_factory=dict)
    """What a unit of each cost takes off the quality, where the objective is a utility."""
    limits: Mapping[Measure, float] = field(default_factory=dict)
    """The most that an item may cost on average."""

    @property
    def measure(self) -> Measure:
        """The cost that the front is drawn over: the first that matters, else tokens."""
        return next(iter((*self.costs, *self.prices)), "tokens")

    @property
    def directions(self) -> list[Direction]:
        """Quality or utility up, costs down."""
        down: list[Direction] = ["minimize"] * len(self.costs)
        return ["maximize", *down]

    def worth(self, quality: float, usage: MeanUsage) -> float:
        """The quality, or the utility where that is the objective."""
        return quality - sum(price * cost(usage, measure) for measure, price in self.prices.items())

    def value(self, trial: Trial) -> float:
        """What a trial is worth on dev, or what is taken for it where it was stopped."""
        assert trial.dev is not None
        return self.worth(trial.dev.mean.mean, trial.nominal) if trial.estimate is None else trial.estimate

    def objectives(self, trial: Trial) -> tuple[float, ...]:
        """What a sampler is told."""
        return (self.value(trial), *(cost(trial.nominal, measure) for measure in self.costs))

    def excess(self, trial: Trial) -> tuple[float, ...]:
        """By how much a trial passes each limit, as a share of it; 0 or less where it holds."""
        return tuple(cost(trial.nominal, measure) / limit - 1 for measure, limit in self.limits.items())

    def holds(self, trial: Trial) -> bool:
        """Whether a trial keeps every limit."""
        return all(excess <= 0 for excess in self.excess(trial))

    def standing(self, trial: Trial) -> Standing:
        """How a trial does on the items so far: worth and costs of each."""
        assert trial.dev is not None
        usages = [MeanUsage.of([one]) for one in trial.dev.nominal]
        worths = [self.worth(score, usage) for score, usage in zip(trial.dev.scores, usages, strict=True)]
        return Standing(worths, [[cost(usage, measure) for usage in usages] for measure in self.costs])

    def rank(self, trial: Trial) -> tuple[float, float, int]:
        """Sorts trials, the best first; of equals the cheaper, then the earlier."""
        return -self.value(trial), cost(trial.nominal, self.measure), trial.number

    def rank_afresh(self, trial: Trial) -> tuple[float, float, float, int]:
        """The same over dev and confirm items together.

        These estimate best which is better. That the dev scores of the chosen are lucky is no matter here: they are not
        reported as the winner's quality, those on the test split are.
        """
        found: list[Evaluation] = [each for each in (trial.dev, trial.confirm) if each is not None]
        scores = [score for each in found for score in each.scores]
        usage = MeanUsage.of([one for each in found for one in each.nominal])
        return -self.worth(sum(scores) / len(scores), usage), *self.rank(trial)

    def front(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that no other one beats in quality and every cost that matters, the cheapest first."""
        wanted = self.costs or (self.measure,)
        return pareto(
            [
                (trial, trial.dev.mean.mean, tuple(cost(trial.nominal, measure) for measure in wanted))
                for trial in trials
                if trial.dev is not None
            ]
        )

    def fits(self, make: Callable[[], PipelineSpec]) -> bool:
        """Whether a pipeline can keep a limit on calls at all; it is made only where there is one."""
        if "calls" not in self.limits:
            return True
        from inferloom.pipelines.plan import plan

        return plan(make()).calls[0] <= self.limits["calls"]


def pareto(points: Sequence[tuple[T, float, tuple[float, ...]]]) -> list[T]:
    """The things that no other one beats: (thing, quality, costs), higher quality and lower costs are better.

    The cheapest in the first cost first. Of several with the same quality and costs the first stays.
    """
    ordered = sorted(points, key=lambda point: (point[2], -point[1]))
    front: list[tuple[T, float, tuple[float, ...]]] = []
    for point in ordered:
        if not any(map(partial(_as_good, point), front)):
            front.append(point)
    return [thing for thing, _, _ in front]


def _as_good(point: tuple[T, float, tuple[float, ...]], other: tuple[T, float, tuple[float, ...]]) -> bool:
    """Whether another one is at least as good in everything; it comes before this one in the order of costs."""
    return other[1] >= point[1] and all(theirs <= ours for theirs, ours in zip(other[2], point[2], strict=True))
