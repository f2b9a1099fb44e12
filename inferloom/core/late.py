"""Parts of rooms above, reached by a name that the package binds when it is imported.

A room that may not import another can still call a function of it: the package says once which one, and it is imported
when first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_PLACES: dict[str, str] = {}


def bind(name: str, place: str) -> None:
    """Let a name stand for `module:function`."""
    _PLACES[name] = place


def bound(name: str) -> Callable[..., Any]:  # what it takes and gives is said where the name is
    """The function that a name stands for."""
    module, _, function = _PLACES[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
