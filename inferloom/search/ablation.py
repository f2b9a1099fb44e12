"""What each step of a winner is worth: the winner without it, on the same items."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from inferloom.core.errors import UserError
from inferloom.core.types import Json
from inferloom.pipelines.spec import KEYS, PipelineSpec
from inferloom.pipelines.words import shape
from inferloom.search.baselines import like


def without_steps(winner: PipelineSpec) -> list[tuple[str, PipelineSpec]]:
    """(what is left out, the pipeline without it), for each step of a list of steps.

    Where another step cannot do without the one that is left out, both go. A step without which no pipeline is left is
    passed over, and so are pipelines with nodes and edges.
    """
    steps = winner.to_data().get("steps")
    if not isinstance(steps, list):
        return []
    words = shape(winner).split(" > ")
    found: dict[str, tuple[str, PipelineSpec]] = {}
    for place in range(len(steps)):
        for gone in _with(place, len(steps)):
            spec = _made([step for at, step in enumerate(steps) if at not in gone], winner)
            if spec is not None:
                label = " and ".join(f"`{words[at]}`" if len(words) == len(steps) else f"step {at}" for at in gone)
                found.setdefault(spec.hash, (f"without {label}", spec))
                break
    return list(found.values())


def _with(place: int, steps: int) -> Iterator[tuple[int, ...]]:
    """A step alone, then with one of those after it, the next first."""
    yield (place,)
    yield from (pair for pair in combinations(range(place, steps), 2) if pair[0] == place)


def _made(steps: list[Json], winner: PipelineSpec) -> PipelineSpec | None:
    if not steps:
        return None
    try:
        return PipelineSpec.from_data(like(winner, {"steps": steps}, *KEYS), "winner without a step")
    except UserError:
        return None
