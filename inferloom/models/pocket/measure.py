"""Measure the pocket models: `python -m inferloom.models.pocket.measure --sizes small large --items 500`.

Everything is asked through the same backend that a pipeline uses. `--sweep` shows one-try accuracy by family and level;
without it, every job of every size is measured and the tables are written for the model card.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from inferloom.models.pocket.asking import ask, is_right, solve
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.pocket.tasks import FAMILIES
from inferloom.models.spec import ModelSpec
from inferloom.models.transformers import POCKET_SIZES, TransformersBackend, open_pocket, open_transformers


def open_size(size: str, weights: dict[str, str]) -> TransformersBackend:
    """The backend of a size: the folder named for it, else the one in the package."""
    if size in weights:
        return open_transformers(
            weights[size], ModelSpec(model=f"transformers:{weights[size]}", extra={"device": "cpu"})
        )
    return open_pocket(size, ModelSpec(model=f"pocket:{size}"))


async def sweep(sizes: Sequence[str], weights: dict[str, str], each: int, families: Sequence[str]) -> None:
    """Show one-try accuracy by family and level."""
    for size in sizes:
        backend = open_size(size, weights)
        show(f"{size}: one-try accuracy (%) by level, {each} items each")
        for family in families:
            cells = []
            for level in range(1, FAMILIES[family].levels + 1):
                items = pocket_items([family], [level], each, seed=0, purpose="sweep")
                replies = await ask(backend, [solve(item) for item in items], salt=f"sweep {family} {level}")
                right = [is_right(item, reply[0].text) for item, reply in zip(items, replies, strict=True)]
                cells.append(f"{100 * sum(right) / len(right):4.0f}")
            show(f"  {family:10s}" + " ".join(cells))
        await backend.aclose()


def show(line: str) -> None:
    """Write a line for whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=POCKET_SIZES, default=list(POCKET_SIZES))
    parser.add_argument("--weights", action="append", default=[], metavar="SIZE=PATH", help="a folder for a size")
    parser.add_argument("--sweep", action="store_true", help="one-try accuracy by family and level, and no more")
    parser.add_argument("--each", type=int, default=40, help="items of each family and level of the sweep")
    parser.add_argument("--families", nargs="+", choices=sorted(FAMILIES), default=list(FAMILIES))
    arguments = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in arguments.weights)
    asyncio.run(sweep(arguments.sizes, weights, arguments.each, arguments.families))


if __name__ == "__main__":
    main()
