"""A router of a made world, trained once; the world knows the chances of every arm."""

from __future__ import annotations

import pytest

from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.router import Router
from inferloom.routing.synthetic import made_world
from inferloom.routing.train import Training, TrainOptions

PLAIN = TrainOptions(embedder="none", use_tags=False, epochs=60)


@pytest.fixture(scope="session")
def seen() -> Outcomes:
    return made_world(900, 0)[0]


@pytest.fixture(scope="session")
def split(seen: Outcomes) -> Split:
    return seen.split(0)


@pytest.fixture(scope="session")
def training(seen: Outcomes, split: Split) -> Training:
    return Training(seen, split, PLAIN)


@pytest.fixture(scope="session")
def router(training: Training) -> Router:
    return training.router("made")
