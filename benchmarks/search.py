"""How many calls a search needs, and how honest its end is: `make bench-search`.

Searches over `search_space.yaml` are replayed on the pool of `search_pool.py`: samplers, the rule of races and the
choice of a winner are the search's own; only the answers come from the pool, and a virtual meter charges the draws,
with a bank (a draw is paid once a study) and without (every draw of every trial is paid). Measured is what a study has
been charged when its choice, the complete trial with the best score on its own items, first is within two points of the
best quality of the space, by the 2,000 items of the reference, which no study sees.

The second part draws 1,000 studies from a made world with known qualities and ends them by the search's own rules.
Tables and picture go to standard output and, with `--card`, into `docs/search.md`.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import numpy as np
import pytest
from card import DOCS, command_of, show
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from rich.console import Console
from rich.progress import Progress
from search_pool import SPACE, Pool, load_pool, points_of

from inferloom.evaluation.stats import mean_interval, paired_difference
from inferloom.pipelines.document import content_hash
from inferloom.search import samplers
from inferloom.search.aim import Aim
from inferloom.search.racing import Standing, beaten_by, estimate, looks
from inferloom.search.samplers import SAMPLERS, Proposer, Setting, Told, derived_seed
from inferloom.search.space import Space
from inferloom.search.template import Values

CARD = DOCS / "search.md"
PICTURE = CARD.with_suffix(".svg")
WITHIN = 0.02
DEV = 180
"""Items of a study, drawn from those of the pool."""
BATCH, STARTUP = 4, 8
OURS = "tpe"
COMPARED = (OURS, "random", "greedy", "archon")


@dataclass
class World:
    """What the studies are replayed on."""

    space: Space
    pool: Pool
    truth: NDArray[np.float64]
    """The quality of every point, by the reference."""

    def __post_init__(self) -> None:
        self.places = {
            content_hash(self.space.point(values)): place for place, values in enumerate(points_of(self.space))
        }


@dataclass(frozen=True)
class Reached:
    """What a study was charged until it had found a good point."""

    with_bank: int
    without: int
    trials: int
    found: bool


class Meter:
    """Charges draws."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._paid: dict[int, Counter[int]] = {}
        self.with_bank = self.without = 0

    def charge(self, point: int, item: int) -> None:
        """A run of a point on an item."""
        paid = self._paid.setdefault(item, Counter())
        for address, count in self._pool.draws[item][point]:
            self.without += count
            self.with_bank += max(0, count - paid[address])
            paid[address] = max(count, paid[address])


def study(world: World, sampler: str, racing: bool, seed: int, most: int) -> Reached:
    """Replay one study until it has found a good point, or has tried `most`."""
    pool, meter = world.pool, Meter(world.pool)
    items = Random(derived_seed(seed, "items")).sample(range(pool.scores.shape[1]), DEV)
    proposer = Proposer(world.space, sampler, seed, Aim(), STARTUP)
    stages = looks(DEV) if racing else [DEV]
    told: list[Told] = []
    complete: dict[int, Standing] = {}
    while len(told) < most:
        asked = proposer.batch(len(told), min(BATCH, most - len(told)), told)
        if not asked:
            break
        running = {one.number: world.places[one.key] for one in asked}
        values: dict[int, float] = {}
        done = 0
        for look in stages:
            for point in running.values():
                for item in items[done:look]:
                    meter.charge(point, item)
            done = look
            standings = {
                number: Standing(pool.scores[point, items[:look]].tolist()) for number, point in running.items()
            }
            if look == DEV:
                for number, standing in standings.items():
                    complete[running[number]] = standing
                    values[number] = standing.quality
                break
            for number, standing in standings.items():
                rivals = [*complete.values(), *(other for key, other in standings.items() if key != number)]
                beater = beaten_by(standing, rivals, len(stages) - 1)
                if beater is not None:
                    values[number] = estimate(standing, rivals[beater], [one.quality for one in complete.values()])
            running = {number: point for number, point in running.items() if number not in values}
        told += [Told(one.values, (values[one.number],)) for one in asked]
        choice = max(complete, key=lambda point: (complete[point].quality, -pool.tokens[point].mean()))
        if world.truth[choice] >= world.truth.max() - WITHIN:
            return Reached(meter.with_bank, meter.without, len(told), True)
    return Reached(meter.with_bank, meter.without, len(told), False)


@dataclass(frozen=True)
class Arm:
    """A way to search, over all seeds."""

    sampler: str
    bank: bool
    racing: bool
    calls: list[int]
    trials: list[int]
    missed: int

    @property
    def label(self) -> str:
        """What it is called."""
        extras = [word for word, there in (("bank", self.bank), ("races", self.racing)) if there]
        return f"{self.sampler}, {' and '.join(extras) if extras else 'neither'}"


def arms(world: World, seeds: int, progress: Progress) -> list[Arm]:
    """Every sampler with and without bank and races."""
    made: list[Arm] = []
    for sampler in COMPARED:
        for racing in (True, False):
            task = progress.add_task(f"{sampler}{', races' if racing else ''}", total=seeds)
            runs = []
            for seed in range(seeds):
                runs.append(study(world, sampler, racing, 1000 + seed, len(world.truth)))
                progress.advance(task)
            progress.remove_task(task)
            missed = sum(not run.found for run in runs)
            trials = [run.trials for run in runs]
            made.append(Arm(sampler, True, racing, [run.with_bank for run in runs], trials, missed))
            made.append(Arm(sampler, False, racing, [run.without for run in runs], trials, missed))
    return made


@SAMPLERS.register("bench/univariate")
def univariate(setting: Setting) -> BaseSampler:
    """TPE that looks at one hole at a time."""
    return TPESampler(seed=setting.seed, n_startup_trials=setting.startup, multivariate=False)


@SAMPLERS.register("bench/group")
def grouped(setting: Setting) -> BaseSampler:
    """TPE that groups the holes that stand together."""
    return TPESampler(seed=setting.seed, n_startup_trials=setting.startup, multivariate=True, group=True)


def trials_to_good(world: World, sampler: str, seed: int) -> int:
    """How many trials a sampler needs to try a point within two points of the best, where it is told true qualities."""
    proposer = Proposer(world.space, sampler, seed, Aim(), STARTUP)
    told: list[Told] = []
    while len(told) < len(world.truth):
        asked = proposer.batch(len(told), BATCH, told)
        truths = [float(world.truth[world.places[one.key]]) for one in asked]
        told += [Told(one.values, (truth,)) for one, truth in zip(asked, truths, strict=True)]
        if max(truths) >= world.truth.max() - WITHIN:
            break
    return len(told)


def without_noise(world: World, seeds: int) -> str:
    """The samplers by themselves, and TPE in other ways."""
    ways = {
        "tpe": "tpe",
        "tpe, univariate": "bench/univariate",
        "tpe, grouped": "bench/group",
        "greedy": "greedy",
        "nsga2": "nsga2",
        "random": "random",
    }
    found = {label: [trials_to_good(world, name, seed) for seed in range(seeds)] for label, name in ways.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "ordered", lambda hole: None)
        label = "tpe, numbers as categories"
        found[label] = [trials_to_good(world, "tpe", seed) for seed in range(seeds)]
    lines = [
        f"| {label} | {interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f}) |"
        for label, interval in ((label, mean_interval(trials)) for label, trials in found.items())
    ]
    return (
        "Trials until a point within two points of the best was tried, where samplers are told true qualities; means"
        f" of {seeds} seeds.\n\n| sampler | trials |\n|---|---:|\n" + "\n".join(lines) + "\n"
    )


def ratio(ours: Sequence[int], others: Sequence[int]) -> tuple[float, float, float]:
    """The geometric mean of ours / theirs over the seeds, with its paired bootstrap interval."""
    logs = [math.log(own) - math.log(other) for own, other in zip(ours, others, strict=True)]
    difference = paired_difference(logs, [0.0] * len(logs))
    return math.exp(difference.mean), math.exp(difference.low), math.exp(difference.high)


def table(made: Sequence[Arm]) -> str:
    """The arms beside ours."""
    [ours] = [arm for arm in made if arm.sampler == OURS and arm.bank and arm.racing]
    lines = [
        "| sampler | bank | races | calls billed, median (least to most) | trials, median | ours needs of that |",
        "|---|---|---|---:|---:|---:|",
    ]
    for arm in made:
        mean, low, high = ratio(ours.calls, arm.calls)
        share = "(ours)" if arm is ours else f"{mean:.2f} ({low:.2f} to {high:.2f})"
        missed = f", {arm.missed} never" if arm.missed else ""
        lines.append(
            f"| {arm.sampler} | {_mark(arm.bank)} | {_mark(arm.racing)} | {np.median(arm.calls):,.0f}"
            f" ({min(arm.calls):,} to {max(arm.calls):,}{missed}) | {np.median(arm.trials):.0f} | {share} |"
        )
    return "\n".join(lines) + "\n"


def least(world: World, made: Sequence[Arm]) -> str:
    """What no study can go below: one good point on all items of a study, and nothing else."""
    good = [point for point in range(len(world.truth)) if world.truth[point] >= world.truth.max() - WITHIN]
    per_item = [[sum(count for _, count in draws[point]) for point in good] for draws in world.pool.draws]
    cheapest = DEV * float(np.mean(per_item, axis=0).min())
    [theirs] = [arm for arm in made if arm.sampler == "archon" and not arm.bank and not arm.racing]
    share = cheapest / float(np.median(theirs.calls))
    return (
        f"Answering a study's items once costs {cheapest:,.0f} calls for the cheapest point that counts as found: "
        f"{share:.2f} of the median of `archon` with neither, and the least that any search can come to.\n"
    )


def _mark(there: bool) -> str:
    return "yes" if there else "no"


def picture(made: Sequence[Arm]) -> str:
    """Every study as a dot, every arm as a row; the calls stand on a logarithmic scale."""
    low, high = min(min(arm.calls) for arm in made), max(max(arm.calls) for arm in made)
    left, width, row = 190, 560, 22

    def place(calls: float) -> float:
        return left + width * (math.log(calls) - math.log(low)) / (math.log(high) - math.log(low))

    height = row * len(made) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {height}" font-family="sans-serif"'
        ' font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        x = place(10**power)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 34}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 18}" text-anchor="middle" fill="#555555">{10**power:,}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{height - 3}" text-anchor="middle">calls billed</text>')
    for number, arm in enumerate(made):
        y = 20 + row * number
        ours = arm.sampler == OURS and arm.bank and arm.racing
        colour = "#c2410c" if ours else "#1d4ed8" if arm.bank else "#64748b"
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" fill="{colour}">{arm.label}</text>')
        parts += [
            f'<circle cx="{place(calls):.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.45"/>'
            for calls in arm.calls
        ]
        middle = place(float(np.median(arm.calls)))
        parts.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{colour}" stroke-width="2"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def ends(studies: int, *, ahead: float) -> tuple[float, float]:
    """(how often the winner's interval holds its true quality, how often it is said to beat self-consistency).

    A made world: 32 points with qualities around 0.65, items that are hard for all of them, dev of 72 items, confirm of
    48 for the best four, test of 240; self-consistency has the best point's quality less `ahead`.
    """
    rng = np.random.default_rng(7)
    covered = claimed = 0
    for _ in range(studies):
        level = rng.normal(0.55, 0.25, size=32)
        level = np.append(level, level.max() - ahead)
        truth = [_share(one) for one in level]

        def draw(points: Sequence[int], items: int, level: NDArray[np.float64] = level) -> NDArray[np.float64]:
            hard = rng.normal(size=items)
            own = rng.normal(size=(len(points), items))
            return (level[list(points), None] + hard + own > 0).astype(float)

        dev = draw(range(32), 72)
        best = sorted(range(32), key=lambda point: (-dev[point].mean(), point))[:4]
        confirm = draw(best, 48)
        pooled = [np.concatenate([dev[point], confirm[place]]).mean() for place, point in enumerate(best)]
        winner = best[int(np.argmax(pooled))]
        test = draw([winner, 32], 240)
        interval = mean_interval(test[0].tolist())
        covered += interval.low <= truth[winner] <= interval.high
        claimed += paired_difference(test[0].tolist(), test[1].tolist(), resamples=1000).low > 0
    return covered / studies, claimed / studies


def _share(level: float) -> float:
    """The share of items that a level gets right, of which half the spread is the items'."""
    return 0.5 * (1 + math.erf(level / 2))


def honest(studies: int) -> str:
    """Both promises about the end of a study."""
    covered, _ = ends(studies, ahead=0.05)
    _, claimed = ends(studies, ahead=0.0)
    rounding = 1.96 * math.sqrt(0.05 * 0.95 / studies)
    return (
        f"{studies:,} studies in a made world: the interval that is reported for the winner holds its true quality in"
        f" {covered:.1%} of them (bar: 92%). Where no point is better than self-consistency, 'beats' is claimed in"
        f" {claimed:.1%} (bar: 5% and {rounding:.1%} for the number of studies).\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="studies of every kind")
    parser.add_argument("--studies", type=int, default=1000, help="studies of the made world")
    parser.add_argument("--card", action="store_true", help="write the page's tables and picture")
    arguments = parser.parse_args()
    space = Space.load(SPACE)
    reference = load_pool(space, "reference").scores.astype(float)
    world = World(space, load_pool(space, "dev"), reference.mean(axis=1))
    with Progress(console=Console(stderr=True)) as progress:
        made = arms(world, arguments.seeds, progress)
    good = int((world.truth >= world.truth.max() - WITHIN).sum())
    best = int(world.truth.argmax())
    command = command_of("bench-search")
    text = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command}`: {len(world.truth)} valid points, the best at"
        f" {world.truth[best]:.1%} on {reference.shape[1]:,} items"
        f" (`{_described(points_of(space)[best])}`), {good} within two points of it; {arguments.seeds} seeds, {DEV}"
        f" items a study, batches of {BATCH}. In brackets the 95% interval of the ratio, paired by seed.\n\n"
        f"{table(made)}\n{least(world, made)}\n"
        "![Calls billed until a study has found a point within two points of the best](search.svg)\n\n"
        f"### Samplers by themselves\n\n{without_noise(world, 2 * arguments.seeds)}\n"
        f"### Honest ends\n\n{honest(arguments.studies)}"
    )
    show(text, CARD if arguments.card else None, __file__)
    if arguments.card:
        PICTURE.write_text(picture(made), encoding="utf-8")


def _described(values: Values) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


if __name__ == "__main__":
    main()
