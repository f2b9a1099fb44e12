"""`inferloom router`: the commands for a router at work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_store, open_to_read
from inferloom.cli.output import count, print_json, print_table, print_text, report
from inferloom.core.errors import SpecError, UserError

if TYPE_CHECKING:
    from inferloom.core.types import Json as JsonValue
    from inferloom.routing.card import RouterCard
    from inferloom.routing.outcomes import Outcomes
    from inferloom.routing.promotion import Shadow
    from inferloom.store import Store
    from inferloom.store.decisions import Decided
    from inferloom.store.routers import RouterRow

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The router's folder, as the pipeline names it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The router's name in the database.")]
Served = Annotated[
    Path | None,
    typer.Option("--folder", metavar="FOLDER", help="Write the champion here too, where pipelines read it."),
]


def add_to(app: typer.Typer) -> None:
    """Hang the commands under `inferloom router`."""
    for name, command in (
        ("export", export),
        ("feedback", feedback),
        ("learn", learn),
        ("monitor", monitor),
        ("promote", promote),
        ("rollback", rollback),
    ):
        app.command(name)(command)


def export(
    router: Annotated[str, typer.Argument(metavar="ROUTER", help="NAME, NAME@VERSION, or a folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The pipeline to write, .yaml.")],
    folder: Annotated[
        str, typer.Option("--folder", metavar="NAME", help="The router's folder, beside the pipeline.")
    ] = "router",
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of a unit of cost, in quality.")] = None,
    share: Annotated[
        float | None, typer.Option("--explore", min=0, max=1, help="The share of traffic that may try other arms.")
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write a routed pipeline: one YAML file, and the router's folder beside it."""
    from inferloom.cli.router import load_router
    from inferloom.routing.export import export_system

    if out.suffix not in (".yaml", ".yml"):
        raise SpecError(f"`{out.name}` must end in .yaml", where="router export --out")
    policy: dict[str, JsonValue] = {} if price is None else {"price": price}
    if share is not None:
        policy["explore"] = {"share": share, "random": min(0.01, share)}
    loaded = load_router(router, db)
    spec = export_system(loaded, out, out.parent / folder, policy)
    arms = [arm.label for arm in loaded.arms]
    report(
        {"pipeline": str(out), "folder": str(out.parent / folder), "hash": spec.hash, "arms": arms},
        f"wrote {out} and {out.parent / folder}: {count(len(arms), 'arm')}; try: inferloom run {out} QUESTION",
        json,
    )


def feedback(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its first characters.")],
    score: Annotated[float, typer.Argument(metavar="SCORE", min=0, max=1, help="From 0, wrong, to 1, right.")],
    grader: Annotated[str, typer.Option("--grader", metavar="NAME", help="Who says so.")] = "user",
    comment: Annotated[str | None, typer.Option("--comment", metavar="TEXT", help="Anything else.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Score a run, now or whenever its worth is known; a grader's later score replaces the earlier one."""
    from inferloom.core.digest import digest
    from inferloom.store import FeedbackRow

    store = open_store(db)
    try:
        row = store.run(run)
        store.write_sync(
            FeedbackRow(
                id=digest(f"{row.id}|{grader}"),
                run=row.id,
                score=score,
                grader=grader,
                comment=comment,
                owner="",
                created=time.time(),
            )
        )
        decisions = store.decisions(run=row.id)
    finally:
        store.close()
    told = f"; it belongs to {count(len(decisions), 'decision')}" if decisions else ""
    report(
        {"run": row.id, "score": score, "decisions": len(decisions)}, f"run {row.id[:12]} scored {score:g}{told}", json
    )


def learn(folder: Folder, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Learn from the scores of all decisions so far; the router itself stays as it is."""
    from inferloom.routing.card import read_card
    from inferloom.routing.online import Online

    card = read_card(folder)
    online = Online.load(folder)
    store = open_to_read(db)
    try:
        records = _of_version(store, card)
    finally:
        store.close()
    scored = online.learn(records, list(card.ids))
    path = online.save(folder)
    report(
        {"decisions": len(records), "scored": scored, "file": str(path)},
        f"learned from {count(scored, 'score')} of {count(len(records), 'decision')}; wrote {path}",
        json,
    )


def with_served(outcomes: Outcomes, folder: Path, db: str) -> Outcomes:
    """Outcomes with the scored decisions of a router added to them."""
    from inferloom.routing.card import read_card
    from inferloom.routing.online import served_outcomes
    from inferloom.routing.outcomes import merged

    card = read_card(folder)
    store = open_to_read(db)
    try:
        records = _of_version(store, card)
    finally:
        store.close()
    return merged([outcomes, served_outcomes(card.online.router, records, list(card.ids))])


def monitor(folder: Folder, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Look for changes since the router was trained: questions, calibration, costs, errors, shares."""
    from inferloom.routing.card import read_card
    from inferloom.routing.promotion import monitor as read_monitors

    card = read_card(folder)
    store = open_to_read(db)
    try:
        records = _of_version(store, card)
    finally:
        store.close()
    readings = read_monitors(card, records)
    if json:
        print_json({"decisions": len(records), "readings": [reading.to_json() for reading in readings]})
        return
    if not readings:
        print_text(f"{count(len(records), 'decision')} of this version: too few to say anything")
        return
    print_table(
        ["", "monitor", "about", "what it says"],
        [["!" if one.alarm else "", one.monitor, one.about, one.told] for one in readings],
    )
    alarms = sum(reading.alarm for reading in readings)
    print_text(f"{count(alarms, 'alarm')} of {count(len(readings), 'reading')} on {count(len(records), 'decision')}")


def _of_version(store: Store, card: RouterCard) -> list[Decided]:
    return [record for record in store.decided(card.name) if record.decision.version == card.version]


def promote(
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The challenger.")],
    folder: Served = None,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the records say.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and change nothing.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Make a version the champion, if the champion's own records show that it is better."""
    from inferloom.routing.promotion import promote as install

    store = open_store(db)
    try:
        champion, challenger = store.routers.get(name), store.routers.get(name, version)
        if champion.version == version:
            raise UserError(f"version {version} of the router `{name}` is the champion already")
        shadow = None if force and not dry_run else _shadow(store, champion, challenger)
        if not dry_run:
            install(store, name, version, shadow, folder)
    finally:
        store.close()
    told = "" if shadow is None else f": {shadow.verdict.standing}, {shadow.verdict.why}"
    if shadow is not None and not json:
        _print_shadow(shadow)
    done = "compared" if dry_run else "promoted"
    report(
        {"router": name, "version": version, "promoted": not dry_run} | ({} if shadow is None else shadow.to_json()),
        f"{done} {name}@{version} against {name}@{champion.version}{told}",
        json,
    )


def _print_shadow(shadow: Shadow) -> None:
    estimates = {"challenger": shadow.challenger, "champion": shadow.champion}
    print_table(
        ["", "by the model", "IPS", "SNIPS", "doubly robust", "effective records", "clipped", "never had a chance"],
        [
            [
                name,
                *(f"{value:.4f}" for value in (one.direct, one.ips, one.snips, one.doubly_robust)),
                f"{one.ess:,.0f}",
                f"{one.clipped:.1%}",
                f"{one.unsupported:.1%}",
            ]
            for name, one in estimates.items()
        ],
        title=f"reward per question, from {count(shadow.scored, 'scored decision')} of {shadow.decisions:,}",
    )


def _shadow(store: Store, champion: RouterRow, challenger: RouterRow) -> Shadow:
    from inferloom.routing.promotion import card_of, shadow

    mine = card_of(store, champion)
    return shadow(mine, card_of(store, challenger), _of_version(store, mine))


def rollback(name: Name, folder: Served = None, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Make the version the champion again that was it before."""
    from inferloom.routing.promotion import roll_back

    store = open_store(db)
    try:
        row = roll_back(store, name, folder)
    finally:
        store.close()
    report({"router": name, "version": row.version}, f"{name}@{row.version} is the champion again", json)
