"""What a pipeline sees of a router: a card to check itself against, and a chooser that decides.

The routers themselves live in a room that pipelines do not import. Who reads them is bound by name (`late.bind`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Protocol

from inferloom.core.late import bound
from inferloom.core.types import Choice, Json

ROUTER_READER = "router reader"
"""The name under which the function that opens a router is bound."""


class Card(Protocol):
    """A router as it lies in its folder: known without loading what it learned."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def version(self) -> str:
        """Hex digits for its content."""
        ...

    @property
    def arms(self) -> Mapping[str, str | None]:
        """The arms by label, each with the YAML of its pipeline; None where it was learned from outside results."""
        ...

    def check_policy(self, policy: Mapping[str, Json]) -> None:
        """See that a policy is one.

        Raises:
            UserError: It is none; the message names the key.
        """
        ...

    def choose(self, question: str, policy: Mapping[str, Json], rng: Random) -> Choice:
        """The arm for a question.

        Args:
            question: The question's text.
            policy: Checked by `check_policy`.
            rng: The only source of chance.
        """
        ...


def open_router(folder: Path) -> Card:
    """The router in a folder.

    Raises:
        UserError: There is none, or it is corrupt.
    """
    reader = bound(ROUTER_READER)
    card: Card = reader(folder)
    return card
