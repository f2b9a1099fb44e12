"""A small world with a router that was really trained on it: easy sums, and words to sort, which need the dear arm."""

from __future__ import annotations

from pathlib import Path
from random import Random

from inferloom.core.types import Request
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.routing.outcomes import ArmInfo, Gatherer, Outcomes
from inferloom.routing.router import Router
from inferloom.routing.train import TrainOptions, train_router

CHEAP = "models: {m: scripted:routed-cheap}\nsteps: [sample: {model: m}]\n"
DEAR = "models: {m: scripted:routed-dear}\nsteps:\n  - sample: {model: m, n: 3}\n  - vote\n"
ARMS = (ArmInfo(id="c" * 16, label="cheap", yaml=CHEAP), ArmInfo(id="d" * 16, label="dear", yaml=DEAR))
COSTS = {"cheap": 10.0, "dear": 40.0}
WORDS = ("ant", "bee", "cat", "dog", "eel", "fox")


def _answers(name: str) -> ScriptedBackend:
    def say(request: Request, seed: int) -> str:
        return f"A: {name}"

    return ScriptedBackend(say, name=f"routed-{name}")


for _name in ("cheap", "dear"):
    register_backend(f"routed-{_name}", _answers(_name))


def question(rng: Random, hard: bool) -> str:
    """A question of one of the two kinds."""
    if hard:
        return "sort the words " + " ".join(rng.choices(WORDS, k=6))
    return f"{rng.randrange(10, 99)}+{rng.randrange(10, 99)}"


def chance(arm: str, text: str) -> float:
    """How often an arm is right."""
    return 0.9 if arm == "dear" or "+" in text else 0.2


def outcomes(count: int = 300, seed: int = 0) -> Outcomes:
    """Results of both arms."""
    rng, gatherer = Random(seed), Gatherer(source="a small world")
    for arm in ARMS:
        gatherer.add_arm(arm)
    for number in range(count):
        text = question(rng, hard=number % 2 == 1)
        for arm in ARMS:
            gatherer.add(arm.id, text, float(rng.random() < chance(arm.label, text)), COSTS[arm.label], id=str(number))
    return gatherer.outcomes()


def trained(name: str = "small-world", seed: int = 0) -> Router:
    """A router that was trained on it, without a network."""
    return train_router(outcomes(seed=seed), name=name, options=TrainOptions(embedder="none", network=False))


def exported(folder: Path, **policy: object) -> Path:
    """A routed pipeline in a folder, with its router beside it."""
    from inferloom.routing.export import export_system

    export_system(trained(), folder / "routed.yaml", folder / "router", policy)  # type: ignore[arg-type] # plain JSON
    return folder / "routed.yaml"
