"""`inferloom router`: what there is to learn from, learning it, and what came of it."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli import router_online
from inferloom.cli.options import DEFAULT_DB, Db, Json, open_store, open_to_read
from inferloom.cli.output import check_new, count, err, moment, print_json, print_pairs, print_table, print_text, report
from inferloom.core.errors import SpecError

if TYPE_CHECKING:
    from inferloom.evaluation.stats import Interval
    from inferloom.routing.outcomes import Outcomes
    from inferloom.routing.policy import Decision, Policy
    from inferloom.routing.protocol import Report
    from inferloom.routing.router import Router
    from inferloom.store import Store

app = typer.Typer(help="Learn which pipeline each question deserves, from what the database knows.")
router_online.add_to(app)

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="An outcome matrix (.csv, .jsonl, .parquet) instead of the database."),
]
Unit = Annotated[str, typer.Option("--unit", metavar="tokens|usd|calls|seconds", help="In what cost is counted.")]
Study = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only the scored runs of this study.")]
Arms = Annotated[
    list[str] | None, typer.Option("--arm", metavar="ARM", help="An arm by id or label; several may be named.")
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", metavar="FIELD=NAME", help="What the file calls a field: tag=task.")
]
Costs = Annotated[
    list[str] | None, typer.Option("--cost", metavar="ARM=COST", help="The cost of a run, where the file has none.")
]
Embedder = Annotated[
    str | None, typer.Option("--embedder", metavar="NAME", help="As INFERLOOM_EMBEDDER, or minilm, or none.")
]
Named = Annotated[str, typer.Argument(metavar="ROUTER", help="NAME, NAME@VERSION, or a folder that `--out` made.")]


@app.command("list")
def list_routers(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the routers with their versions."""
    store = open_to_read(db)
    try:
        rows = store.routers.all()
    finally:
        store.close()
    if json:
        print_json([{**asdict(row), "manifest": jsonlib.loads(row.manifest)} for row in rows])
        return
    if not rows:
        print_text("no routers yet; `inferloom router train NAME` learns one")
        return
    manifests = [jsonlib.loads(row.manifest) for row in rows]
    print_table(
        ["router", "version", "status", "arms", "trained on", "unit", "made"],
        [
            [
                row.name,
                str(row.version),
                row.status,
                str(len(told["arms"])),
                f"{told['trained_on']:,}",
                told["unit"],
                moment(row.created),
            ]
            for row, told in zip(rows, manifests, strict=True)
        ],
    )


@app.command("data")
def data(
    unit: Unit = "tokens",
    study: Study = None,
    file: Data = None,
    fields: Fields = None,
    costs: Costs = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show what there is to learn from, arm by arm."""
    outcomes = _outcomes(file, fields, costs, None, unit, study, db)
    told = _summary(outcomes)
    if json:
        print_json(told)
        return
    print_table(
        ["arm", "id", "questions", "runs", "score", f"mean {outcomes.unit}"],
        [
            [
                str(arm["label"]),
                str(arm["id"])[:12],
                f"{arm['questions']:,}",
                f"{arm['runs']:,}",
                f"{arm['quality']:.1%}",
                f"{arm['cost']:,.4g}",
            ]
            for arm in told["arms"]  # type: ignore[attr-defined] # a list of what `_summary` makes
        ],
    )
    both = int((outcomes.observed.sum(axis=1) > 1).sum())
    print_text(f"{count(len(outcomes), 'question')}, of which {both:,} were answered by at least two arms")


def _summary(outcomes: Outcomes) -> dict[str, object]:
    import numpy as np

    arms = []
    for place, arm in enumerate(outcomes.arms):
        seen = outcomes.observed[:, place]
        arms.append(
            {
                "id": arm.id,
                "label": arm.label,
                "questions": int(seen.sum()),
                "runs": int(outcomes.count[:, place].sum()),
                "quality": float(np.mean(outcomes.quality[seen, place])) if seen.any() else 0.0,
                "cost": float(np.mean(outcomes.cost[seen, place])) if seen.any() else 0.0,
            }
        )
    return {"source": outcomes.source, "unit": outcomes.unit, "questions": len(outcomes), "arms": arms}


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An outcome matrix: .csv, .csv.gz, .jsonl or .parquet.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the import is called.")],
    fields: Fields = None,
    costs: Costs = None,
    arms: Arms = None,
    unit: Unit = "tokens",
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Put an outside outcome matrix into the database; `--study 'import NAME'` means it."""
    from inferloom.routing.exchange import read_outcomes
    from inferloom.routing.history import keep_imported

    outcomes = read_outcomes(file, fields=_pairs(fields, "--field"), arms=arms or (), costs=_costs(costs), unit=unit)
    store = open_store(db)
    try:
        keep_imported(store, outcomes, name)
    finally:
        store.close()
    cells = int(outcomes.observed.sum())
    report(
        {"questions": len(outcomes), "arms": [arm.label for arm in outcomes.arms], "cells": cells},
        f"{count(len(outcomes), 'question')}, {count(len(outcomes.arms), 'arm')}, {count(cells, 'result')} from {file}",
        json,
    )


@app.command("train")
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The router's name; it gets its next version.")],
    file: Data = None,
    study: Study = None,
    arms: Arms = None,
    unit: Unit = "tokens",
    fields: Fields = None,
    costs: Costs = None,
    embedder: Embedder = None,
    average: Annotated[bool, typer.Option("--average", help="Average the members into one: a smaller router.")] = False,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="What a unit of cost is worth, in quality.")
    ] = None,
    budget: Annotated[float | None, typer.Option("--budget", min=0, help="The mean cost of a question.")] = None,
    floor: Annotated[float | None, typer.Option("--floor", min=0, max=1, help="The least mean quality.")] = None,
    served: Annotated[
        Path | None,
        typer.Option("--served", metavar="FOLDER", help="Learn from the scored decisions of this router too."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed is another split and beginning.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Write the artifact here too.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Learn a router and keep it in the database."""
    if sum(value is not None for value in (price, budget, floor)) > 1:
        raise SpecError("give one of --price, --budget and --floor", where="router train")
    if out is not None:
        check_new(out, where="router train --out")
    from inferloom.routing.train import TrainOptions, train_router, with_policy

    outcomes = _outcomes(file, fields, costs, arms, unit, study, db)
    if served is not None:
        outcomes = router_online.with_served(outcomes, served, db)
    outcomes.check_trainable()
    split = outcomes.split(seed, (0.8, 0.2, 0.0))
    how = TrainOptions(embedder=embedder, average=average, seed=seed)
    with err().status("reading") as status:
        router = train_router(
            outcomes, split, name=name, options=how, say=lambda text: status.update(f"learning: {text}")
        )
    held = outcomes.take(split.calibration)
    router = with_policy(router, _policy(router, held, price, budget, floor))
    if out is not None:
        router.save(out)
    store = open_store(db)
    try:
        row = store.routers.add(name, *router.to_blob())
    finally:
        store.close()
    manifest = router.manifest
    if json:
        print_json({"router": name, "version": row.version, "status": row.status, "manifest": manifest.to_json()})
        return
    loss = manifest.metrics["calibration_log_loss"]
    print_text(
        f"{name}@{row.version} ({row.status}) learned from {count(manifest.trained_on, 'question')};"
        f" log loss on {count(len(held), 'calibration question')}: {loss:.3f}"
    )
    print_text("`inferloom router eval` says what such a router is worth; `router explain` shows single decisions")


def _policy(router: Router, held: Outcomes, price: float | None, budget: float | None, floor: float | None) -> Policy:
    from inferloom.routing.policy import Policy, with_budget, with_floor

    usual = Policy.from_json(router.manifest.policy)
    if price is not None:
        return replace(usual, lam=price)
    if budget is None and floor is None:
        return usual
    prediction = router.predict(held.texts, held.tags)
    if budget is not None:
        return with_budget(router, prediction, usual, budget)
    return with_floor(router, prediction, held, replace(usual, lam=0.0), floor or 0.0)


@app.command("eval")
def evaluate(
    file: Data = None,
    study: Study = None,
    arms: Arms = None,
    unit: Unit = "tokens",
    fields: Fields = None,
    costs: Costs = None,
    embedder: Embedder = None,
    splits: Annotated[int, typer.Option("--splits", min=1, max=100, help="Splits into training and test.")] = 5,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Say what a router learned from these data is worth: five splits, every baseline beside it, intervals."""
    from inferloom.routing.protocol import evaluate as run_protocol
    from inferloom.routing.train import TrainOptions

    outcomes = _outcomes(file, fields, costs, arms, unit, study, db).complete()
    outcomes.check_trainable()
    with err().status("reading") as status:
        found = run_protocol(
            outcomes, options=TrainOptions(embedder=embedder), splits=splits, say=lambda text: status.update(text)
        )
    if json:
        print_json(found.to_json())
    else:
        _print_report(found, outcomes.unit)


def _print_report(found: Report, unit: str) -> None:
    from inferloom.routing.protocol import ROUTER

    print_table(
        ["", "gap closed", "95% interval", "mean score", "cost at parity", "at equal cost", "ahead of it by"],
        [
            [
                one.name,
                f"{one.figures['gap'].mean:.0%}",
                f"{one.figures['gap'].low:.0%} to {one.figures['gap'].high:.0%}",
                f"{one.figures['auc'].mean:.1%}",
                "-"
                if one.figures["parity"].mean != one.figures["parity"].mean
                else f"{one.figures['parity'].mean:.0%}",
                f"{100 * one.figures['equal'].mean:+.1f}",
                "-" if one.name == ROUTER else _points(one.ahead["auc"]),
            ]
            for one in found.contenders
        ],
        title=f"{found.questions:,} questions, about {found.tested:,.0f} of them in each test part; cost in {unit}",
    )
    chosen = found.calibration.chosen
    print_text(f"calibration error of the chosen arm: {100 * chosen.mean:.1f} points")


def _share(value: float) -> str:
    return f"{value:.0%}" if value == value else "-"  # it is not where it is nan: never reached


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


@app.command("explain")
def explain(
    router: Named,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")],
    tag: Annotated[str | None, typer.Option("--tag", help="Its task, where known.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Another price of a unit of cost.")] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", min=0, help="The most it may cost.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Say which arm a question would get, and why; nothing is run."""
    from inferloom.routing.policy import Policy

    loaded = load_router(router, db)
    policy = Policy.from_json(loaded.manifest.policy)
    policy = replace(policy, lam=policy.lam if price is None else price, max_cost=max_cost or policy.max_cost)
    made = loaded.decide(question, policy, tag)
    if json:
        print_json(decision_json(made))
        return
    print_table(
        ["", "arm", "quality", "give or take", loaded.manifest.unit, "worth"],
        [
            [
                ">" if option.arm == made.arm else "",
                option.label,
                f"{option.quality:.1%}",
                f"{option.spread:.1%}",
                f"{option.cost:,.4g}",
                f"{option.utility:.4f}" if option.feasible else "not allowed",
            ]
            for option in made.options
        ],
    )
    for reason in made.reasons:
        print_text(reason)
    print_pairs({"default arm": next(one.label for one in made.options if one.arm == made.default)})


def decision_json(made: Decision) -> dict[str, object]:
    """A decision as plain JSON."""
    told = asdict(made)
    for option in told["options"]:
        option["utility"] = option["utility"] if option["feasible"] else None
    return told | {"reasons": list(made.reasons), "default_used": made.default_used}


def load_router(named: str, db: str) -> Router:
    """A router by name, NAME@VERSION, or folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    from inferloom.routing.router import Router

    if Path(named).is_dir():
        return Router.load(named)
    name, at, version = named.partition("@")
    if at and not version.isdecimal():
        raise SpecError(f"the version is `{version}`; must be a whole number from 1", where=f"router {named}")
    store = open_to_read(db)
    try:
        return _from_store(store, name, int(version) if at else None)
    finally:
        store.close()


def _from_store(store: Store, name: str, version: int | None) -> Router:
    from inferloom.routing.router import Router

    row = store.routers.get(name, version)
    return Router.from_blob(row.manifest, store.routers.weights(row), where=f"router {name}@{row.version}")


def _outcomes(
    file: Path | None,
    fields: list[str] | None,
    costs: list[str] | None,
    arms: list[str] | None,
    unit: str,
    study: str | None,
    db: str,
) -> Outcomes:
    """What the options name: a file, or the database."""
    if file is not None:
        from inferloom.routing.exchange import read_outcomes

        found = read_outcomes(file, fields=_pairs(fields, "--field"), costs=_costs(costs), unit=unit)
        return found.take_arms([found.arm(name) for name in arms]) if arms else found
    if fields or costs:
        raise SpecError("`--field` and `--cost` go with `--data FILE`", where="router")
    from inferloom.routing.history import outcomes_of

    store = open_to_read(db)
    try:
        found = outcomes_of(store, unit=unit, study=study, least=1 if arms else None)
    finally:
        store.close()
    return found.take_arms([found.arm(name) for name in arms]) if arms else found


def _pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    made = {}
    for pair in pairs or ():
        # An arm's name may hold the sign; its value does not.
        name, equals, value = pair.rpartition("=")
        if not equals or not name or not value:
            raise SpecError(f"`{pair}` must be NAME=VALUE", where=f"router {option}")
        made[name] = value
    return made


def _costs(pairs: list[str] | None) -> Mapping[str, float]:
    made = {}
    for name, value in _pairs(pairs, "--cost").items():
        try:
            made[name] = float(value)
        except ValueError:
            raise SpecError(f"the cost of `{name}` is `{value}`; must be a number", where="router --cost") from None
    return made
