"""Simulated traffic: what a router that learns while it serves gains when the world changes, `make bench-traffic`.

The world is made up, from measured figures: for every family and level of the pocket suite the chance that an arm is
right, and its tokens, are those of the pool that `search_pool.py` answers; whether a question comes out right is then
drawn. So the best arm for every question is known, and regret is counted in expected utility, without luck. 20,000
questions come; prices change, an arm gets worse without a word, and a new arm arrives with a hundred probe results.
Four questions in ten are ever scored, and the score comes late. `--card` writes `docs/traffic.md` and its picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush

import numpy as np
from card import DOCS, command_of, show
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from search_pool import SPACE, items_of, load_pool

from inferloom.evaluation.stats import Interval, mean_interval, paired_difference
from inferloom.routing.bandit import Posterior, chances, draw
from inferloom.routing.explore import Explore
from inferloom.routing.online import described
from inferloom.routing.outcomes import Gatherer, names_arm
from inferloom.routing.train import TrainOptions, train_router
from inferloom.search.space import Space

Matrix = NDArray[np.float64]
CARD = DOCS / "traffic.md"
PICTURE = CARD.with_suffix(".svg")
QUERIES = 20_000
DEARER, WORSE, NEW = 5_000, 9_000, 14_000
"""When prices change, an arm gets worse, a new arm arrives."""
ARMS: dict[str, tuple[int, float, float]] = {
    "small": (0, 0.25, 0.0),
    "large": (32, 1.0, 1.0),
    "large, vote of 4": (47, 1.0, 1.0),
    "both, vote of 4": (83, 0.625, 0.8),
    "large, 6 judged": (57, 0.5, 1.0),
}
"""Point of the space, price of a token, share of it that the price change concerns. The last arm comes late."""
PRICE = 0.15 / 1000
"""Utility is the chance of a right answer less this for a unit of cost: a token of the large model at first."""
NEW_PRICE = 2.0
"""Of the large model, against the first."""
LOSS = 0.3
"""What the worse arm loses in quality: the one that the static router takes most often."""
TRAINED, PROBES = 600, 100
SCORED, DELAY = 0.4, 200.0
"""The share of questions whose score ever comes, and after how many questions on the mean."""
BATCH = 25
"""Questions between two times that scores are read."""
STEPS = 200
"""Points of the curves."""


@dataclass(frozen=True)
class World:
    """What is true. All are (questions, arms) but where it says else."""

    texts: tuple[str, ...]
    tags: tuple[str, ...]
    quality: Matrix
    tokens: Matrix

    def at(self, when: int, worse: int) -> tuple[Matrix, Matrix]:
        """Quality and cost at a time; an arm that is not there yet is worth nothing."""
        quality = self.quality.copy()
        if when >= WORSE:
            quality[:, worse] = np.maximum(quality[:, worse] - LOSS, 0.0)
        if when < NEW:
            quality[:, -1] = -np.inf
        return quality, self.tokens * prices(when)


def prices(when: int) -> Matrix:
    """The price of each arm's token at a time."""
    dearer = NEW_PRICE - 1 if when >= DEARER else 0.0
    return np.array([price * (1 + dearer * concerned) for _, price, concerned in ARMS.values()])


def make_world() -> World:
    """The world that the pool's figures make."""
    items, pool = items_of("reference"), load_pool(Space.load(SPACE), "reference")
    points = [point for point, _, _ in ARMS.values()]
    scores, tokens = pool.scores[points].T.astype(float), pool.tokens[points].T.astype(float)
    cells = [f"{item.meta['family']} {item.meta['level']}" for item in items]
    families = np.array([str(item.meta["family"]) for item in items])
    quality, cost = np.empty_like(scores), np.empty_like(tokens)
    for cell in sorted(set(cells)):
        here = np.array([own == cell for own in cells])
        whole = families == families[here][0]
        # A cell of some forty questions is drawn a little towards its family.
        quality[here] = (scores[here].sum(axis=0) + 4 * scores[whole].mean(axis=0)) / (here.sum() + 4)
        cost[here] = tokens[here].mean(axis=0)
    return World(tuple(item.question for item in items), tuple(map(str, families)), quality, cost)


@dataclass(frozen=True)
class Known:
    """What a policy goes by: what was learned before the traffic came."""

    quality: Matrix
    """(questions, arms): predicted."""
    tokens: Matrix
    about: Matrix
    """(questions, width)."""
    single: int
    """The best arm for all alike."""
    worse: int
    """The arm that will get worse."""


def learn(world: World, rng: np.random.Generator, seed: int) -> Known:
    """Train a router on some questions and probe the arm that comes late on some others."""
    names = list(ARMS)[:-1]
    gatherer = Gatherer(source="simulated")
    arms = [names_arm(name) for name in names]
    for arm in arms:
        gatherer.add_arm(arm)
    for row in rng.choice(len(world.texts), TRAINED, replace=False):
        for place, arm in enumerate(arms):
            right = float(rng.random() < world.quality[row, place])
            gatherer.add(arm.id, world.texts[row], right, world.tokens[row, place], tag=world.tags[row])
    options = TrainOptions(embedder="none", network=False, seed=seed)
    router = train_router(gatherer.outcomes(), options=options)
    x = router.featurizer.transform(world.texts, world.tags)
    prediction = router.predict_features(x)
    probes = rng.choice(len(world.texts), PROBES, replace=False)
    late = float((rng.random(PROBES) < world.quality[probes, -1]).mean())
    quality = np.column_stack([prediction.quality, np.full(len(x), late)])
    tokens = np.column_stack([prediction.cost, np.full(len(x), world.tokens[probes, -1].mean())])
    utility = quality[:, :-1] - PRICE * tokens[:, :-1] * prices(0)[:-1]
    taken = np.bincount(utility.argmax(axis=1), minlength=len(names))
    worse = int(taken.argmax())
    return Known(quality, tokens, described(router, x, prediction), int(utility.mean(axis=0).argmax()), worse)


@dataclass
class Policy:
    """Chooses an arm; the base class never learns."""

    known: Known
    rng: np.random.Generator
    tried: int = 0
    """Questions that did not go to the arm expected to be best."""

    def utility(self, row: int, when: int) -> Matrix:
        """(arms): what it expects, with the prices of the day."""
        expected: Matrix = self.known.quality[row] - PRICE * self.known.tokens[row] * prices(when)
        return expected

    def choose(self, row: int, when: int) -> int:
        """The arm for a question."""
        return int(self.utility(row, when)[:-1].argmax())

    def read(self, when: int, scores: Sequence[tuple[int, int, int, float]]) -> None:
        """Take in scores: (row, arm, when decided, score)."""


class Single(Policy):
    """Always the arm that was best for all alike."""

    def choose(self, row: int, when: int) -> int:
        """The arm for a question."""
        return self.known.single


@dataclass
class Learning(Policy):
    """A router that learns while it serves."""

    explore: Explore | None = None
    warm: bool = True
    """Whether it begins from the router; else from nothing, and tries out without limits."""
    posterior: Posterior = field(init=False)

    def __post_init__(self) -> None:
        prior = {"prior": 0.15} if self.warm else {"prior": 0.5}
        self.posterior = Posterior(list(ARMS)[:-1], self.known.about.shape[1], **prior)

    def base(self, row: int) -> Matrix:
        """(arms): what is expected before anything is learned."""
        return self.known.quality[row] if self.warm else np.full(len(ARMS), 0.5)

    def choose(self, row: int, when: int) -> int:
        """The arm for a question."""
        if when >= NEW and len(self.posterior.arms) < len(ARMS):
            self.posterior = self.posterior.with_arm(list(ARMS)[-1])
        shift, deviation = self.posterior.about(self.known.about[row])
        count = len(shift)
        cost = (self.known.tokens[row] * prices(when))[:count]
        value = np.clip(self.base(row)[:count] + shift, 0, 1) - PRICE * cost
        best = int(value.argmax())
        if not self.warm:
            return int(self.rng.normal(value, deviation).argmax())
        if self.explore is None:
            return best
        allowed = np.ones(count, dtype=bool)
        limits = self.explore
        arm = draw(
            chances(value, deviation, cost, allowed=allowed, incumbent=best, explore=limits, rng=self.rng), self.rng
        )
        self.tried += arm != best
        return arm

    def read(self, when: int, scores: Sequence[tuple[int, int, int, float]]) -> None:
        """Take in scores: (row, arm, when decided, score)."""
        self.posterior.tick(when - self.posterior.clock)
        for row, arm, decided, score in scores:
            self.posterior.fold(arm, self.known.about[row], score - self.base(row)[arm], decided)


MAKERS: dict[str, Callable[[Known, np.random.Generator], Policy]] = {
    "best single arm": Single,
    "static router": Policy,
    "Thompson without a router": lambda known, rng: Learning(known, rng, warm=False),
    "router that learns, nothing tried out": lambda known, rng: Learning(known, rng),
    "router that learns": lambda known, rng: Learning(known, rng, explore=Explore()),
}
STATIC, OURS = "static router", "router that learns"


@dataclass(frozen=True)
class Served:
    """What became of the traffic under one policy."""

    regret: Matrix
    """(queries): expected utility lost against the best arm of the moment."""
    utility: Matrix
    tried: float
    """The share of questions that did not go to the arm expected to be best."""


def serve(world: World, known: Known, make: str, seed: int) -> Served:
    """Let the traffic come."""
    # The same questions, luck and delays for every policy; chance of its own for what it tries out.
    rng = np.random.default_rng([seed, 1])
    rows = rng.integers(len(world.texts), size=QUERIES)
    luck, comes, delays = rng.random(QUERIES), rng.random(QUERIES) < SCORED, rng.exponential(DELAY, QUERIES)
    policy = MAKERS[make](known, np.random.default_rng([seed, 2]))
    pending: list[tuple[float, int, int, int, float]] = []
    regret, gained = np.empty(QUERIES), np.empty(QUERIES)
    quality, cost = world.at(0, known.worse)
    for when, row in enumerate(rows):
        if when in (DEARER, WORSE, NEW):
            quality, cost = world.at(when, known.worse)
        if when % BATCH == 0:
            due = []
            while pending and pending[0][0] <= when:
                due.append(heappop(pending)[1:])
            policy.read(when, due)
        arm = policy.choose(int(row), when)
        utility = quality[row] - PRICE * cost[row]
        regret[when], gained[when] = utility.max() - utility[arm], utility[arm]
        if comes[when]:
            heappush(pending, (when + delays[when], int(row), arm, when, float(luck[when] < quality[row, arm])))
    return Served(regret, gained, policy.tried / QUERIES)


PHASES = {
    "as trained": (0, DEARER),
    "dearer": (DEARER, WORSE),
    "one arm worse": (WORSE, NEW),
    "a new arm": (NEW, QUERIES),
    "all": (0, QUERIES),
}


@dataclass
class Results:
    """Regret per policy and seed."""

    mean: dict[str, dict[str, list[float]]]
    """[policy][phase]: per seed, lost utility per question."""
    curves: dict[str, list[Matrix]]
    """[policy]: per seed, cumulative regret at `STEPS` points."""
    gained: dict[str, list[float]]
    tried: list[float]
    """Per seed, what our policy tried out."""


def measure(seeds: int, progress: Progress) -> Results:
    """Every policy on every seed."""
    world = make_world()
    task = progress.add_task("traffic", total=seeds * len(MAKERS))
    results = Results(
        {name: {phase: [] for phase in PHASES} for name in MAKERS},
        {name: [] for name in MAKERS},
        {name: [] for name in MAKERS},
        [],
    )
    for seed in range(seeds):
        known = learn(world, np.random.default_rng([seed, 0]), seed)
        for name in MAKERS:
            served = serve(world, known, name, seed)
            for phase, (first, last) in PHASES.items():
                results.mean[name][phase].append(float(served.regret[first:last].mean()))
            results.curves[name].append(served.regret.cumsum()[QUERIES // STEPS - 1 :: QUERIES // STEPS])
            results.gained[name].append(float(served.utility.mean()))
            if name == OURS:
                results.tried.append(served.tried)
            progress.advance(task)
    progress.remove_task(task)
    return results


def told(interval: Interval, digits: int = 1) -> str:
    """Utility in points, with its interval."""
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def page(results: Results, seeds: int, date: str) -> str:
    """The measured part of the page."""
    lines = [
        f"Measured on {date} with `{command_of('bench-traffic')}`: {QUERIES:,} questions, {seeds} seeds (each with"
        " training data and traffic of its own). Utility lost per question against the best arm of the moment,"
        " in points (a hundredth of a right answer), with 95% intervals over seeds.",
        "",
        f"| | {' | '.join(PHASES)} |",
        f"|---|{'---|' * len(PHASES)}",
    ]
    for name in MAKERS:
        cells = [told(mean_interval(results.mean[name][phase])) for phase in PHASES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Differences in utility per question, paired by seed, in points:", ""]
    for name in MAKERS:
        if name != OURS:
            difference = paired_difference(results.gained[OURS], results.gained[name])
            verdict = "ahead" if difference.low > 0 else "behind" if difference.high < 0 else "no difference shown"
            lines.append(f"- {OURS} less {name}: {told(difference, 2)}; {verdict}")
    share = mean_interval(results.tried)
    lines += ["", f"It tried out another arm on {share.mean:.1%} of the questions; its limit is {Explore().share:.0%}."]
    lines += ["", "![Utility lost so far, against the best arm of the moment](traffic.svg)", ""]
    return "\n".join(lines)


COLOURS = ("#8c8c8c", "#b4632d", "#7a5195", "#3a7ca5", "#2a7f3f")


def picture(results: Results) -> str:
    """Cumulative regret of every policy, with the range over seeds, as an SVG."""
    left, top, width, height = 60, 40, 560, 300
    ends = {name: np.array(curves) for name, curves in results.curves.items()}
    most = max(float(np.quantile(curve[:, -1], 0.975)) for curve in ends.values()) * 1.05

    def x(query: float) -> float:
        return left + width * query / QUERIES

    def y(value: float) -> float:
        return top + height * (1 - value / most)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {top + height + 130}"'
        ' font-family="sans-serif" font-size="12" fill="currentColor">',
        "<title>Utility lost so far, against the best arm of the moment</title>",
        f'<text x="{left}" y="18" font-weight="600">utility lost so far, in right answers, by questions served</text>',
    ]
    for value in np.arange(0, most, 10 ** np.floor(np.log10(most)) / 2):
        parts.append(f'<path d="M{left} {y(value):.1f} h{width}" stroke="currentColor" stroke-opacity="0.15"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    for when, word in ((DEARER, "dearer"), (WORSE, "one arm worse"), (NEW, "a new arm")):
        parts.append(
            f'<path d="M{x(when):.1f} {top} v{height}" stroke="currentColor" stroke-opacity="0.5"'
            ' stroke-dasharray="3 3"/>'
        )
        parts.append(f'<text x="{x(when) + 4:.1f}" y="{top + 12}" opacity="0.8">{word}</text>')
    queries = np.arange(1, STEPS + 1) * (QUERIES / STEPS)
    for place, (name, curves) in enumerate(ends.items()):
        mean, low, high = curves.mean(axis=0), np.quantile(curves, 0.025, axis=0), np.quantile(curves, 0.975, axis=0)
        there = [f"{x(q):.1f} {y(v):.1f}" for q, v in zip(queries, high, strict=True)]
        back = [f"{x(q):.1f} {y(v):.1f}" for q, v in zip(queries[::-1], low[::-1], strict=True)]
        line = "L".join(f"{x(q):.1f} {y(v):.1f}" for q, v in zip(queries, mean, strict=True))
        colour = COLOURS[place]
        parts.append(f'<path d="M{"L".join([*there, *back])}Z" fill="{colour}" fill-opacity="0.15"/>')
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = top + height + 40 + 17 * place
        parts.append(f'<path d="M{left} {row - 4} h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 32}" y="{row}">{name}: {mean[-1]:,.0f}</text>')
    for query in range(0, QUERIES + 1, 5_000):
        parts.append(f'<text x="{x(query):.1f}" y="{top + height + 16}" text-anchor="middle">{query:,}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Measure, print, and with `--card` write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--card", action="store_true", help="write docs/traffic.md and its picture")
    args = parser.parse_args()
    with Progress(console=Console(stderr=True)) as progress:
        results = measure(args.seeds, progress)
    if args.card:
        PICTURE.write_text(picture(results), encoding="utf-8")
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    show(page(results, args.seeds, date), CARD if args.card else None, __file__)


if __name__ == "__main__":
    main()
