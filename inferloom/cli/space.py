"""`inferloom space`: how large a search space is, and what its points look like."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.output import count as counted
from inferloom.cli.output import print_json, print_pairs, print_table, print_text

if TYPE_CHECKING:
    from inferloom.search.constraints import Scalar
    from inferloom.search.space import Space

app = typer.Typer(help="Count the pipelines of a search space, and draw some.")

SpaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPACE", help="A file with a space or a search job, or a space that comes along, such as archon."
    ),
]


@app.command("list")
def list_spaces(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the spaces that come along."""
    from inferloom.search.space import SPACES, load_space

    found = [
        {"name": name, "description": _description(load_space(name))}
        for name in sorted(entry.stem for entry in SPACES.glob("*.yaml"))
    ]
    if json:
        print_json(found)
    else:
        print_table(["space", "what it is"], [[space["name"], space["description"]] for space in found])


@app.command("show")
def show(space: SpaceArgument, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Print a space as it is written, to copy and change; with --json its holes."""
    from inferloom.search.space import SPACES, load_space, shipped_document

    loaded = load_space(space)
    if json:
        holes = [{"name": name, "values": _values(loaded, name)} for name in loaded.holes]
        print_json({"space": space, "holes": holes, "rules": [rule.text for rule in loaded.rules]})
        return
    path = shipped_document(space, SPACES, "space").path
    assert path is not None, "it was read from a file"
    print_text(path.read_text(encoding="utf-8-sig"))


@app.command("count")
def count(
    space: SpaceArgument,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The most ways to fill the holes that are gone through.")
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Count the ways to fill the holes, and those that are valid pipelines and keep the rules; exactly."""
    from inferloom.search.space import COUNT_LIMIT, load_space

    loaded, most = load_space(space), limit or COUNT_LIMIT
    found = loaded.count(most)
    if found.raw is None or found.valid is None:
        raise loaded.uncounted(most)
    if json:
        print_json({"space": space, "raw": found.raw, "valid": found.valid})
        return
    print_pairs(
        {
            "raw": f"{counted(found.raw, 'way')} to fill {counted(len(loaded.holes), 'hole')}",
            "valid": f"{found.valid:,} of them are pipelines that keep the rules",
        }
    )
    example = None if found.valid else loaded.why_not(loaded.draw(Random(0)))
    if example is not None:
        print_text(f"none is valid; for example, {example.sentence}")


@app.command("sample")
def sample(
    space: SpaceArgument,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="How many points to draw.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds draw equal points.")] = 0,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print each point's pipeline too.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Draw valid points, each independently of the others: the values of their holes."""
    from inferloom.pipelines.document import dump
    from inferloom.search.space import load_space

    loaded, rng = load_space(space), Random(seed)
    points = [loaded.sample(rng) for _ in range(count)]
    if json:
        print_json(
            {
                "space": space,
                "seed": seed,
                "points": [
                    {"values": values} | ({"pipeline": dump(loaded.point(values))} if yaml else {}) for values in points
                ],
            }
        )
        return
    for position, values in enumerate(points):
        line = ", ".join(f"{name}: {_written(value)}" for name, value in values.items())
        if not yaml:
            print_text(line)
            continue
        # One stream of YAML documents, so that what is printed can be saved and run.
        print_text(("---\n" if position else "") + f"# {line}\n{dump(loaded.point(values))}")


def _description(space: Space) -> str:
    data = space.document.data
    return str(data.get("description", "-")) if isinstance(data, dict) else "-"


def _values(space: Space, name: str) -> dict[str, object]:
    """What a hole may hold, as the space writes it."""
    from inferloom.search.template import Choice, IntRange

    hole = space.holes[name]
    if isinstance(hole, Choice):
        return {"choice": list(hole.options)}
    kind = "int" if isinstance(hole, IntRange) else "float"
    return {kind: [hole.low, hole.high], "step": hole.step, "log": hole.log}


def _written(value: Scalar) -> str:
    from inferloom.pipelines.document import dump

    return dump(value).strip()
