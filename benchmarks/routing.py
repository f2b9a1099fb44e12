"""What learned routing is worth: `make bench-routing`.

The pocket suite: arms are the hull of a study's front and one call of each model, outcomes are made of kept draws
(`routing_pool.py`), every figure is one of `inferloom.routing.protocol`. A router learns from means over all runs of a
training question, or from a single run each; it is judged by the means of test questions, and so is the oracle. Beside
it: each family held out, labels of other questions, a made world whose best arms are known, and what a decision costs.
A section that was measured is kept in `benchmarks/.pool/`, so a run that broke off goes on; `--fresh` measures again.

`--mmlu FILE` adds the outcome matrix of Mixtral-8x7B and GPT-4 on MMLU that RouteLLM published; it is not part of this
repository. Tables and picture go to standard output and, with `--card`, into `docs/routing.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from card import DOCS, command_of, show
from rich.console import Console
from rich.status import Status
from routing_arms import outcomes
from routing_pool import arms_of, load_draws
from search_pool import FOLDER, SPACE, items_of

from inferloom.evaluation.stats import Interval
from inferloom.routing.exchange import read_outcomes
from inferloom.routing.features import embed, open_named
from inferloom.routing.metrics import apgr, cpt, group_weights, routellm
from inferloom.routing.outcomes import Outcomes
from inferloom.routing.policy import Policy, decide
from inferloom.routing.protocol import KNN, LINEAR, RESAMPLES, ROUTER, SPLITS, Report, evaluate, hold_out, shuffled
from inferloom.routing.synthetic import made_world
from inferloom.routing.train import Training, TrainOptions
from inferloom.search.space import Space

CARD = DOCS / "routing.md"
PICTURE = CARD.with_suffix(".svg")
RUNS = 32
PLAIN = TrainOptions(use_tags=False)
Say = Callable[[str], None]


def percent(value: Interval) -> str:
    if np.isnan(value.mean):
        return "-"
    return f"{value.mean:.1%} ({value.low:.1%} to {value.high:.1%})"


def points(value: Interval) -> str:
    if np.isnan(value.mean):
        return "-"
    return f"{100 * value.mean:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def table(found: Report) -> str:
    """The contenders, the router first."""
    rows = [
        "| chooses | gap closed | against the halves' oracle | mean score | cost at parity | at equal cost |"
        " worth at the middle price | router ahead: mean score | router ahead: worth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found.contenders:
        ahead = ("", "") if one.name == ROUTER else (points(one.ahead["auc"]), points(one.ahead["worth middle"]))
        told = one.figures
        rows.append(
            f"| {one.name} | {percent(told['gap'])} | {percent(told['halves'])} | {told['auc'].mean:.1%} |"
            f" {percent(told['parity'])} | {points(told['equal'])} | {100 * told['worth middle'].mean:.1f} |"
            f" {ahead[0]} | {ahead[1]} |"
        )
    return "\n".join(rows) + "\n"


class Suite:
    """The pocket suite's outcomes."""

    def __init__(self) -> None:
        specs, draws, items = arms_of(Space.load(SPACE)), load_draws(), items_of("reference")
        half = draws.key.shape[2] // 2
        parts = (slice(None), slice(0, half), slice(half, None))
        self.averaged, *self.halves = (
            outcomes(specs, items, draws, part, RUNS, seed) for seed, part in enumerate(parts)
        )
        self.single = outcomes(specs, items, draws, slice(None), 1, 3)
        self.vectors = embed(open_named("wordllama"), self.averaged.texts)

    def judge(self, learned: Outcomes, say: Say, resamples: int = RESAMPLES, splits: int = SPLITS) -> Report:
        """The protocol, judged by the means of all runs."""
        first, second = self.halves
        return evaluate(
            learned,
            yardstick=self.averaged,
            halves=(first, second),
            options=PLAIN,
            vectors=self.vectors,
            resamples=resamples,
            splits=splits,
            say=say,
        )


def pocket(say: Say) -> str:
    """Learned from the means of all runs."""
    suite = Suite()
    found = suite.judge(suite.averaged, say)
    arms = "\n".join(f"| {label} | {cost:,.0f} | {quality:.1%} |" for label, cost, quality in found.arms)
    calibration = found.calibration
    families = "\n".join(f"| {tag} | {points(gain)} |" for tag, gain in found.by_tag.items())
    share = ", ".join(f"{part:.0%} `{label}`" for label, part in found.share.items() if part >= 0.005)
    PICTURE.write_text(picture(found), encoding="utf-8")
    return f"""### The pocket suite

{len(suite.averaged):,} questions of nine families, {len(found.arms)} arms, cost in tokens; {RUNS} runs of each arm on
each question. Areas are taken over the logarithm of cost.

| arm | mean tokens | score |
|---|---|---|
{arms}

Learned from the means of all runs of the training questions:

{table(found)}
![Mean score over mean cost of router, tuned kNN, best single arm and oracle](routing.svg)

Calibration error of the chosen arm: {100 * calibration.chosen.mean:.1f} points
({100 * calibration.chosen.low:.1f} to {100 * calibration.chosen.high:.1f}, 200 resamples); of all cells
{100 * calibration.ece:.1f}, Brier {calibration.brier:.3f}. At the middle price the router takes {share}.

What it is worth beyond the best single arm at the middle price, in points, by family:

| family | router ahead |
|---|---|
{families}
"""


def one_run(say: Say) -> str:
    """Learned from one run of each cell."""
    suite = Suite()
    found = suite.judge(suite.single, say, resamples=500)
    return f"Learned from one run of each arm on each training question (500 resamples):\n\n{table(found)}"


def no_signal(say: Say) -> str:
    """Learned from the labels of other questions."""
    suite = Suite()
    found = suite.judge(shuffled(suite.averaged, 0), say, resamples=500, splits=3)
    gap = percent(found.contenders[0].figures["gap"])
    return f"With the labels of other questions the router closes {gap} of the gap (three splits, 500 resamples).\n"


def families(say: Say) -> str:
    """Each family held out."""
    suite = Suite()
    held = hold_out(suite.averaged, options=PLAIN, vectors=suite.vectors, say=say)
    rows = "\n".join(f"| {one.tag} | {points(one.ahead)} | {one.default:.0%} |" for one in held)
    return (
        "The same for a family that the router never saw, with the share of its questions that got the best single"
        f" arm:\n\n| family | router ahead | best single arm |\n|---|---|---|\n{rows}\n"
    )


def known_oracle(say: Say) -> str:
    """A world whose oracle is known."""
    seen, truth = made_world(2400, 0)
    found = evaluate(
        seen,
        yardstick=truth,
        options=TrainOptions(use_tags=False, embedder="none"),
        splits=3,
        resamples=500,
        say=say,
    )
    return (
        "### A world whose oracle is known\n\n2,400 questions of four kinds and three levels, three arms, one run each;"
        f" the chances are known, so the oracle has no luck. Three splits, 500 resamples.\n\n{table(found)}\n"
    )


def mmlu(say: Say, path: Path) -> str:
    """RouteLLM's matrix."""
    costs = {"mixtral-8x7b": 0.0, "gpt-4-1106": 1.0}
    seen = read_outcomes(path, fields={"tag": "task"}, costs=costs, unit="calls")
    vectors = embed(open_named("wordllama"), seen.texts)
    found = evaluate(seen, options=PLAIN, vectors=vectors, say=say)
    own = two_arms(seen, vectors, say)
    return (
        f"### MMLU: Mixtral-8x7B and GPT-4\n\n{found.questions:,} questions, the weak"
        " model free and the strong one a call; areas over the share of"
        f" strong calls.\n\n{table(found)}\nBy the share of strong calls (200 resamples), ours, and RouteLLM's"
        " definitions beside"
        f" them:\n\n{own}\n"
    )


def two_arms(seen: Outcomes, vectors: np.ndarray, say: Say) -> str:
    """APGR and CPT of router, neighbours and linear model over five splits, with intervals."""
    named = {ROUTER: None, KNN: ("neighbours",), LINEAR: ("linear",)}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in named}
    theirs: dict[str, list[list[float]]] = {name: [] for name in named}
    weights = group_weights(seen.groups, 200, 0)
    for seed in range(5):
        say(f"MMLU by share: split {seed + 1} of 5")
        split = seen.split(seed)
        training = Training(seen, split, PLAIN, vectors=vectors)
        test = seen.take(split.test)
        for name, parts in named.items():
            router = training.router() if parts is None else training.router(parts=parts)
            x = router.featurizer.transform(test.texts, vectors=vectors[split.test])
            made = router.predict_features(x).quality.astype(float)
            data = (made[:, 1] - made[:, 0], test.quality[:, 0], test.quality[:, 1])
            rows = []
            for count in (np.ones(len(test), dtype=int), *weights[:, split.test]):
                gain, weak, strong = (np.repeat(values, count) for values in data)
                rows.append([apgr(gain, weak, strong), cpt(gain, weak, strong, 0.5), cpt(gain, weak, strong, 0.8)])
            drawn[name].append(np.array(rows))
            told = routellm(*data)
            theirs[name].append([told["apgr"], told["cpt50"], told["cpt80"]])
    lines = [
        "| chooses | APGR | CPT50 | CPT80 | router ahead: APGR | RouteLLM's APGR | its CPT50 | its CPT80 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = np.mean(drawn[ROUTER], axis=0)
    for name in named:
        mean, other = np.mean(drawn[name], axis=0), np.mean(theirs[name], axis=0)
        cells = [_three(mean[:, place]) for place in range(3)]
        ahead = "" if name == ROUTER else _three((best - mean)[:, 0], "+.3f")
        lines.append(f"| {name} | {' | '.join(cells)} | {ahead} | " + " | ".join(f"{v:.3f}" for v in other) + " |")
    return "\n".join(lines) + "\n"


def _three(values: np.ndarray, form: str = ".3f") -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} ({low:{form}} to {high:{form}})"


def speed(say: Say) -> str:
    """What a decision takes on one core."""
    suite = Suite()
    seen = suite.averaged
    say("training")
    router, policy = Training(seen, seen.split(0), PLAIN, vectors=suite.vectors).router(), Policy(lam=1e-4)
    texts = seen.texts[:300]
    router.decide(texts[0], policy)
    whole, apart = [], []
    for text in texts:
        began = time.perf_counter()
        vector = router.featurizer.embed([text])
        middle = time.perf_counter()
        decide(router, router.predict([text], vectors=vector), policy)
        apart.append(time.perf_counter() - middle)
        whole.append(time.perf_counter() - began)
    size = len(router.to_blob()[1])
    return (
        f"### What a decision takes\n\nMedian of {len(texts)} decisions on one core:"
        f" {1000 * np.median(apart):.2f} ms besides the embedding, {1000 * np.median(whole):.2f} ms with it. The"
        f" weights are {size / 1000:,.0f} kB. A router calls no model: the tokens of its choices are all"
        " that it costs.\n\n"
    )


def picture(found: Report) -> str:
    """Score over cost, as SVG."""
    costs = np.array([cost for cost, _ in found.arms_tested])
    low, high = np.log(costs.min()), np.log(costs.max())
    scores = [q for points_ in found.curves.values() for _, q in points_]
    bottom, top = min(scores) - 0.02, max(scores) + 0.02

    def at(cost: float, quality: float) -> str:
        x = 60 + 540 * (np.log(max(cost, 1e-9)) - low) / (high - low)
        return f"{x:.1f},{320 - 290 * (quality - bottom) / (top - bottom):.1f}"

    lines = []
    colours = (("oracle", "#999999"), (ROUTER, "#c2410c"), (KNN, "#2563eb"), ("best single arm", "#111111"))
    for place, (name, colour) in enumerate(colours):
        path = " ".join(at(*point) for point in sorted(found.curves[name]))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="460" y="{250 + 18 * place}" fill="{colour}">{name}</text>')
    for cost, quality in found.arms_tested:
        x, y = at(cost, quality).split(",")
        lines.append(f'<circle cx="{x}" cy="{y}" r="3" fill="#111111"/>')
        lines.append(f'<text x="{x}" y="338" text-anchor="middle" font-size="10">{cost:,.0f}</text>')
    for quality in np.arange(np.ceil(bottom * 20) / 20, top, 0.05):
        x, y = at(float(np.exp(low)), float(quality)).split(",")
        lines.append(f'<text x="52" y="{y}" text-anchor="end" font-size="11">{quality:.0%}</text>')
        lines.append(f'<line x1="56" x2="604" y1="{y}" y2="{y}" stroke="#dddddd"/>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 370" font-family="sans-serif" font-size="13">'
        '<rect width="640" height="370" fill="#ffffff"/>'
        + "".join(lines)
        + '<text x="330" y="360" text-anchor="middle">mean tokens of a question; dots are the arms</text></svg>\n'
    )


SECTIONS: dict[str, Callable[[Say], str]] = {
    "pocket": pocket,
    "families": families,
    "one-run": one_run,
    "no-signal": no_signal,
    "made-world": known_oracle,
    "speed": speed,
}


def kept(name: str, make: Callable[[], str]) -> str:
    """A section's text: what was measured before it was broken off, or measured now."""
    path = FOLDER / f"bench-routing-{name}.md"
    if not path.exists():
        path.write_text(make(), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _told(status: Status, name: str, text: str) -> None:
    """How far a section is."""
    status.update(f"{name}: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmlu", type=Path, help="RouteLLM's outcomes on MMLU: task, query, and a column per model")
    parser.add_argument("--only", choices=[*SECTIONS, "mmlu"], help="measure one section and keep it")
    parser.add_argument("--fresh", action="store_true", help="measure again what was kept")
    parser.add_argument("--card", action="store_true", help="write the page's tables")
    arguments = parser.parse_args()
    makers: dict[str, Callable[[Say], str]] = dict(SECTIONS)
    if arguments.mmlu is not None:
        makers["mmlu"] = lambda say: mmlu(say, arguments.mmlu)
    if arguments.fresh:
        for name in [arguments.only] if arguments.only else makers:
            (FOLDER / f"bench-routing-{name}.md").unlink(missing_ok=True)
    sections = []
    with Console(stderr=True).status("reading") as status:
        for name, make in makers.items():
            if arguments.only in (None, name):
                sections.append(kept(name, partial(make, partial(_told, status, name))))
    if arguments.mmlu is None and arguments.only is None:
        sections.append("### MMLU: Mixtral-8x7B and GPT-4\n\nNot measured: name the matrix by `--mmlu FILE`.\n")
    command = command_of("bench-routing").replace(str(arguments.mmlu), "FILE")
    head = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command}`; five splits by group and 2,000 paired resamples of the"
        " groups unless said otherwise, 95% intervals in brackets.\n\n"
    )
    show(head + "\n".join(sections), CARD if arguments.card else None, __file__)


if __name__ == "__main__":
    main()
