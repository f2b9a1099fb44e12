"""`inferloom scaling`: what more samples buy, from those that were drawn already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.evaluation import GraderOption, load_data
from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import count, print_json, print_table, print_text

if TYPE_CHECKING:
    from inferloom.evaluation.scaling import Scaling


def scaling(
    data: Annotated[str, typer.Option("--data", metavar="FILE|pocket[:FAMILY]", help="The items that were sampled.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="FIELD=NAME", help="What the file calls a field, e.g. answer=target."),
    ] = None,
    grader: GraderOption = None,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only the runs of this study.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="FILE|NAME|HASH", help="Only the runs of this pipeline.")
    ] = None,
    at_least: Annotated[
        int, typer.Option("--at-least", metavar="N", min=1, help="Leave out items with fewer samples.")
    ] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many items.")] = None,
    count_: Annotated[int, typer.Option("--count", min=1, help="How many items to make (made tasks only).")] = 200,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Draw it, as a page of its own.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show how coverage (pass@k) grows with samples, from those in the database; no model is called."""
    from inferloom.evaluation.samples import scalings

    loaded = load_data(data, fields or [], grader, limit, count_, where="scaling")
    store = open_to_read(db)
    try:
        found = scalings(store, loaded.items, loaded.grader, study=study, pipeline=_hash(pipeline), at_least=at_least)
    finally:
        store.close()
    if html is not None:
        from inferloom.search.reporting.scaling import write_scaling

        write_scaling(found, html)
    if json:
        print_json({"data": loaded.name, "settings": [each.to_json() for each in found]})
        return
    for each in found:
        _print(each)
    if html is not None:
        print_text(f"wrote {html}")


def _hash(pipeline: str | None) -> str | None:
    """A pipeline's hash, from its file or preset, or as it was given."""
    if pipeline is None:
        return None
    from inferloom.pipelines.presets import names
    from inferloom.pipelines.spec import PipelineSpec

    if pipeline.endswith((".yaml", ".yml")) or pipeline in names():
        return PipelineSpec.load(pipeline).hash
    return pipeline


def _print(scaling: Scaling) -> None:
    law, most = scaling.law, scaling.samples
    print_table(
        ["k", "pass@k", "95% interval", "power law", "from pass@1"],
        [
            [
                f"{k:,}",
                f"{share.mean:.1%}",
                f"{share.low:.1%} to {share.high:.1%}",
                "-" if law is None else f"{law(k):.1%}",
                f"{scaling.beta(k):.1%}",
            ]
            for k, share in scaling.curve
        ]
        + [
            [
                f"{10 * most:,}",
                "-",
                "-",
                "-" if law is None else f"{law(10 * most):.1%}",
                f"{scaling.beta(10 * most):.1%}",
            ]
        ],
        title=f"{scaling.label}: {count(len(scaling.counts), 'item')}, {count(most, 'sample')} each",
    )
    if law is None:
        print_text("power law: no fit; fewer than three points lie between 0% and 100%")
    else:
        a, b = (
            f"{value:.3g}" + (f" ({pair[0]:.3g} to {pair[1]:.3g})" if pair else "")
            for value, pair in ((law.a, law.a_bounds), (law.b, law.b_bounds))
        )
        print_text(f"power law: log c(k) = a k^b with a = {a}, b = {b}; at most {law.worst:.1%} off")
    beta = scaling.beta
    print_text(f"pass@1 of the items: Beta({beta.alpha:.3g}, {beta.beta:.3g}); {scaling.never:,} never right")
    tenths = " ".join(f"{items:,}" for items in scaling.bins)
    print_text(f"items by tenths of pass@1, from 0-10% to 90-100%: {tenths}")
