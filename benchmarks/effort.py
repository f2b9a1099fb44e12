"""Adaptive effort on the pocket suite: learned cascades beside fixed numbers of samples, `make bench-effort`.

Draws of both pocket models on the same questions (`draws.py`) are replayed. Cascades are learned on four fifths of the
questions and tried on the rest, five times, so that every question is tried once; the price at which a cascade costs
what a fixed arm costs is found on the four fifths too. A token of the large model costs as many of the small one as it
has times its weights. `--card` writes `docs/effort.md` and its picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from card import DOCS, command_of, show
from draws import draw_items, load_draws
from numpy.typing import NDArray

from inferloom.evaluation.stats import Interval, mean_interval, paired_difference
from inferloom.routing.cascade import Cascade, Drawn, Looks, Stage, learn_from, looks_of, vote_weights

Matrix = NDArray[np.float64]
CARD = DOCS / "effort.md"
PICTURE = CARD.with_suffix(".svg")
LARGE = 5.9
"""Tokens of the small model that one of the large costs: 907 thousand weights to 154 thousand."""
FOLDS = 5
PRICES = np.geomspace(5e-6, 6e-3, 60)
"""Of a unit of cost (a token of the small model), in right answers."""
PRICE = 2.5e-4
"""One draw of the large model is worth a tenth of a right answer."""
LADDER = (*(Stage("small", n) for n in (1, 2, 4)), *(Stage("large", n) for n in (1, 2, 4)))
LOOKS: dict[str, tuple[str, ...]] = {
    "agreement": ("agreement", "lead"),
    "agreement, log-probability": ("agreement", "lead", "logprob"),
    "agreement, log-probability, self-score": ("agreement", "lead", "logprob", "grade"),
}
BEST = "agreement, log-probability"
FIXED = (*(("small", n) for n in (1, 2, 4, 8)), *(("large", n) for n in (1, 2, 4)))
BINS = ((0.0, 0.0), (0.01, 0.34), (0.35, 0.65), (0.66, 0.99), (1.0, 1.0))
"""Of the share of the small model's eight draws that are right."""


@dataclass(frozen=True)
class Tried:
    """What an arm did on every question."""

    right: Matrix
    cost: Matrix


def drawn() -> dict[str, Drawn]:
    """The recorded draws, with their cost."""
    made = {}
    for model, draws in load_draws().items():
        rate = LARGE if model == "large" else 1.0
        made[model] = Drawn(
            answer=draws.answer.astype(int),
            right=draws.right.astype(float),
            cost=rate * (draws.prompt_tokens + draws.completion_tokens).astype(float),
            logprob=draws.logprob.astype(float),
            grade=draws.grade.astype(float),
            judging=rate * draws.judge_tokens.astype(float),
        )
    return made


def fixed(everything: Mapping[str, Drawn], model: str, n: int) -> Tried:
    """A fixed number of draws of one model, and a vote."""
    looks = looks_of({model: everything[model]}, [Stage(model, n)], ("agreement",), {model: 1.0})
    return Tried(looks.right[0], looks.cost[0])


def folds(count: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(training rows, test rows), five times."""
    order = np.random.default_rng(7).permutation(count)
    return [(np.setdiff1d(order, test), np.sort(test)) for test in np.array_split(order, FOLDS)]


def rows_of(looks: Looks, rows: NDArray[np.intp]) -> Looks:
    """Some of the questions."""
    return Looks(
        features=looks.features[:, rows],
        leads=looks.leads[:, rows],
        right=looks.right[:, rows],
        cost=looks.cost[:, rows],
    )


@dataclass(frozen=True)
class Fold:
    """Cascades at every price, learned without the test questions."""

    cascades: list[Cascade]
    spent: list[float]
    """Mean cost of each on the training questions."""
    test: NDArray[np.intp]
    looks: Looks


def learned(everything: Mapping[str, Drawn], features: Sequence[str]) -> list[Fold]:
    """The cascades of one kind of look."""
    made = []
    for train, test in folds(len(everything["small"].answer)):
        votes = vote_weights({model: draws.take(train) for model, draws in everything.items()})
        looks = looks_of(everything, LADDER, features, votes)
        mine = rows_of(looks, train)
        cascades = [learn_from(mine, LADDER, votes, price=price, features=features) for price in PRICES]
        spent = [float(cascade.replay(mine).cost.mean()) for cascade in cascades]
        made.append(Fold(cascades, spent, test, rows_of(looks, test)))
    return made


def at_price(parts: Sequence[Fold], place: int) -> tuple[Tried, Matrix]:
    """The cascades of one price on the questions that they were not learned on, and how sure they were."""
    count = sum(len(part.test) for part in parts)
    right, cost, sure = np.empty(count), np.empty(count), np.empty(count)
    for part in parts:
        replay = part.cascades[place].replay(part.looks)
        right[part.test], cost[part.test], sure[part.test] = replay.right, replay.cost, replay.sure
    return Tried(right, cost), sure


def at_cost(parts: Sequence[Fold], cost: Sequence[float]) -> Tried:
    """Cascades that cost so much on the training questions, per fold: two neighbouring prices, mixed to that end."""
    count = sum(len(part.test) for part in parts)
    right, spent = np.empty(count), np.empty(count)
    for part, limit in zip(parts, cost, strict=True):
        order = np.argsort(part.spent)
        above = int(np.searchsorted(np.array(part.spent)[order], limit))
        low, high = order[max(above - 1, 0)], order[min(above, len(order) - 1)]
        gap = part.spent[high] - part.spent[low]
        share = float(np.clip((limit - part.spent[low]) / gap, 0, 1)) if gap > 0 else 0.0
        one, two = (part.cascades[place].replay(part.looks) for place in (low, high))
        right[part.test] = (1 - share) * one.right + share * two.right
        spent[part.test] = (1 - share) * one.cost + share * two.cost
    return Tried(right, spent)


def hull(arms: Sequence[Tried], train: NDArray[np.intp], cost: float) -> tuple[int, int, float]:
    """The best mixture of two fixed arms at a mean cost, by the training questions: the two, share of the second."""
    points = [(float(arm.cost[train].mean()), float(arm.right[train].mean())) for arm in arms]
    best = (0, 0, 0.0)
    value = -1.0
    for one, (cost_one, right_one) in enumerate(points):
        for two, (cost_two, right_two) in enumerate(points):
            if cost_one <= cost <= cost_two:
                share = (cost - cost_one) / (cost_two - cost_one) if cost_two > cost_one else 0.0
                if (1 - share) * right_one + share * right_two > value:
                    value, best = (1 - share) * right_one + share * right_two, (one, two, share)
    return best


def told(difference: Interval) -> str:
    """A difference in points with its interval."""
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def equal_cost(everything: Mapping[str, Drawn], parts: Sequence[Fold]) -> list[str]:
    """The table of paired differences at equal cost."""
    arms = {name: fixed(everything, *name) for name in FIXED}
    lines = [
        "| at the cost of | quality | cost | cascade's quality | cost | difference | against the best mixture of two |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, n), arm in arms.items():
        limits = [float(np.delete(arm.cost, part.test).mean()) for part in parts]
        mine = at_cost(parts, limits)
        gain = paired_difference(mine.right.tolist(), arm.right.tolist())
        mixed = np.empty(len(mine.right))
        for part in parts:
            train = np.setdiff1d(np.arange(len(mixed)), part.test)
            # The mixture may spend what the cascade really spends on these very questions.
            one, two, share = hull(list(arms.values()), train, float(mine.cost[part.test].mean()))
            first, second = list(arms.values())[one], list(arms.values())[two]
            mixed[part.test] = (1 - share) * first.right[part.test] + share * second.right[part.test]
        over = paired_difference(mine.right.tolist(), mixed.tolist())
        lines.append(
            f"| {model}, {n} | {arm.right.mean():.1%} | {arm.cost.mean():,.0f} | {mine.right.mean():.1%} |"
            f" {mine.cost.mean():,.0f} | {told(gain)} | {told(over)} |"
        )
    return lines


def by_look(everything: Mapping[str, Drawn], found: Mapping[str, list[Fold]]) -> list[str]:
    """The table of what is looked at, at one price."""
    lines = [
        "| looks at | quality | cost | calibration error | utility against agreement alone |",
        "|---|---|---|---|---|",
    ]
    place = int(np.abs(np.log(PRICES / PRICE)).argmin())
    base: Matrix | None = None
    for name, parts in found.items():
        mine, sure = at_price(parts, place)
        utility = mine.right - PRICE * mine.cost
        base = utility if base is None else base
        lines.append(
            f"| {name} | {mine.right.mean():.1%} | {mine.cost.mean():,.0f} | {calibration(sure, mine.right):.1%} |"
            f" {told(paired_difference(utility.tolist(), base.tolist()))} |"
        )
    return lines


def calibration(sure: Matrix, right: Matrix, bins: int = 10) -> float:
    """The expected calibration error over ten bins of equal size."""
    parts = np.array_split(np.argsort(sure), bins)
    return float(sum(len(part) * abs(sure[part].mean() - right[part].mean()) for part in parts) / len(sure))


def by_difficulty(everything: Mapping[str, Drawn], parts: Sequence[Fold]) -> list[str]:
    """What each arm does on easy and on hard questions, at the price at which the cascade costs one large draw."""
    limit = fixed(everything, "large", 1)
    mine = at_cost(parts, [float(np.delete(limit.cost, part.test).mean()) for part in parts])
    share = everything["small"].right.mean(axis=1)
    arms = {f"{model}, {n}": fixed(everything, model, n) for model, n in FIXED}
    lines = [
        f"| small right in | questions | {' | '.join(arms)} | cascade | its cost |",
        f"|---|---|{'---|' * (len(arms) + 2)}",
    ]
    for low, high in BINS:
        here = (share >= low) & (share <= high)
        cells = [f"{arm.right[here].mean():.0%}" for arm in arms.values()]
        words = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
        lines.append(
            f"| {words} | {int(here.sum())} | {' | '.join(cells)} | {mine.right[here].mean():.0%} |"
            f" {mine.cost[here].mean():,.0f} |"
        )
    return lines


def page(everything: Mapping[str, Drawn], found: Mapping[str, list[Fold]], date: str) -> str:
    """The measured part of the page."""
    count = len(everything["small"].answer)
    one = mean_interval(fixed(everything, "small", 1).right.tolist())
    return "\n".join(
        [
            f"Measured on {date} with `{command_of('bench-effort')}`: {count:,} questions of the pocket suite, of all"
            f" families and levels. One draw of the small model is right in {one.mean:.1%} ({one.low:.1%} to"
            f" {one.high:.1%}). Costs are in tokens of the small model; differences are in points, with 95% intervals"
            " paired by question.",
            "",
            "### At equal cost",
            "",
            *equal_cost(everything, found[BEST]),
            "",
            "### What is looked at",
            "",
            f"At the price of {PRICE:g} right answers for a unit of cost. The self-score is paid for: the small model"
            " judges every answer of its own once. The calibration error is that of the chance with which an answer"
            " was given.",
            "",
            *by_look(everything, found),
            "",
            "### By difficulty",
            "",
            "Quality on questions that are hard or easy for the small model (its eight draws), and what the cascade of"
            " the first table's row `large, 1` spends there. Which questions are hard is not known beforehand; the"
            " cascade finds out.",
            "",
            *by_difficulty(everything, found[BEST]),
            "",
            "![Quality by mean cost of cascades and of fixed numbers of samples](effort.svg)",
            "",
        ]
    )


def picture(everything: Mapping[str, Drawn], parts: Sequence[Fold]) -> str:
    """Quality by cost, as an SVG."""
    left, top, width, height = 60, 40, 560, 300
    curve = [at_price(parts, place)[0] for place in range(len(PRICES))]
    line = sorted((float(arm.cost.mean()), float(arm.right.mean())) for arm in curve)
    dots = {name: fixed(everything, *name) for name in FIXED}
    places = {name: (float(arm.cost.mean()), float(arm.right.mean())) for name, arm in dots.items()}
    costs = [cost for cost, _ in (*line, *places.values())]
    low, high = np.log(min(costs) * 0.9), np.log(max(costs) * 1.15)
    bottom, most = 0.4, 0.05 * np.ceil(max(right for _, right in (*line, *places.values())) / 0.05 + 0.3)

    def x(cost: float) -> float:
        return float(left + width * (np.log(cost) - low) / (high - low))

    def y(right: float) -> float:
        return float(top + height * (1 - (right - bottom) / (most - bottom)))

    parts_ = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {top + height + 60}"'
        ' font-family="sans-serif" font-size="12" fill="currentColor">',
        "<title>Quality by mean cost of cascades and of fixed numbers of samples</title>",
        f'<text x="{left}" y="18" font-weight="600">share of right answers, by mean cost of a question</text>',
    ]
    for value in np.arange(bottom, most + 1e-9, 0.05):
        parts_.append(f'<path d="M{left} {y(value):.1f} h{width}" stroke="currentColor" stroke-opacity="0.15"/>')
        parts_.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    for cost in (100, 200, 400, 800, 1600):
        parts_.append(f'<text x="{x(cost):.1f}" y="{top + height + 18}" text-anchor="middle">{cost:,}</text>')
    parts_.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">tokens of the small model</text>'
    )
    way = "L".join(f"{x(cost):.1f} {y(right):.1f}" for cost, right in line)
    parts_.append(f'<path d="M{way}" fill="none" stroke="#2a7f3f" stroke-width="2.5"/>')
    last = line[len(line) // 2]
    parts_.append(
        f'<text x="{x(last[0]):.1f}" y="{y(last[1]) - 12:.1f}" text-anchor="end" fill="#2a7f3f">learned cascade</text>'
    )
    for (model, n), (cost, right) in places.items():
        parts_.append(f'<circle cx="{x(cost):.1f}" cy="{y(right):.1f}" r="4.5" fill="#b4632d"/>')
        parts_.append(f'<text x="{x(cost) + 8:.1f}" y="{y(right) + 14:.1f}">{model}, {n}</text>')
    return "\n".join([*parts_, "</svg>"]) + "\n"


def main() -> None:
    """Measure, print, and with `--card` write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", action="store_true", help="write docs/effort.md and its picture")
    args = parser.parse_args()
    everything = drawn()
    assert len(draw_items()) >= len(everything["small"].answer)
    found = {name: learned(everything, features) for name, features in LOOKS.items()}
    if args.card:
        PICTURE.write_text(picture(everything, found[BEST]), encoding="utf-8")
    text = page(everything, found, datetime.now(UTC).strftime("%Y-%m-%d"))
    show(text, CARD if args.card else None, __file__)


if __name__ == "__main__":
    main()
