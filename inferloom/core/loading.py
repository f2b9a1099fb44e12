"""Reading models of the package `transformers`, which must not happen twice at once."""

from __future__ import annotations

import importlib.util
import threading

from inferloom.core.errors import SetupError

LOADING = threading.Lock()
"""One model at a time: transformers fills its modules when asked, and changes torch's defaults while it reads."""


def need_packages(where: str) -> None:
    """See that torch and transformers are installed.

    Raises:
        SetupError: One is not; it names the extra that brings it.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise SetupError(f"needs the package `{package}`; run `pip install 'inferloom[pocket]'`", where=where)
