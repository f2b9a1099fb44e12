"""Running code that a model wrote, shut off from files and network.

The engine is chosen by the environment variable `INFERLOOM_SANDBOX`: `monty` (the default) runs a part of Python in an
interpreter of its own; `isolated` runs all of CPython's language in a process without files and network, on Linux.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from inferloom.core.errors import UnknownNameError
from inferloom.sandbox.isolated import IsolatedSandbox
from inferloom.sandbox.limits import Limits
from inferloom.sandbox.monty import MontySandbox

if TYPE_CHECKING:
    from inferloom.core.protocols import Sandbox

__all__ = ["IsolatedSandbox", "Limits", "MontySandbox", "default_sandbox"]

VARIABLE = "INFERLOOM_SANDBOX"
"""The environment variable that chooses the engine."""
_ENGINES: dict[str, type[MontySandbox | IsolatedSandbox]] = {"monty": MontySandbox, "isolated": IsolatedSandbox}


def default_sandbox() -> Sandbox:
    """The sandbox that pipelines use.

    Raises:
        UnknownNameError: `INFERLOOM_SANDBOX` names no engine.
    """
    name = os.environ.get(VARIABLE, "").strip() or "monty"
    if name not in _ENGINES:
        raise UnknownNameError("sandbox", name, _ENGINES, where=VARIABLE)
    return _made(name)


@cache
def _made(name: str) -> Sandbox:
    return _ENGINES[name]()
