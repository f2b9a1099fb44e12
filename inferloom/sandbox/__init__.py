"""Running code that a model wrote, shut off from files and network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferloom.core.protocols import Sandbox

__all__ = ["default_sandbox"]


def default_sandbox() -> Sandbox:
    """The sandbox that pipelines use."""
    raise NotImplementedError
