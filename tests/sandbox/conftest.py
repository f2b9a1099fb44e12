"""Which engines this machine has."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from inferloom.sandbox import IsolatedSandbox, MontySandbox


def has_namespaces() -> bool:
    """Whether the kernel gives namespaces; asked of another program, so that a broken jail does not skip its tests."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return subprocess.run([unshare, "-Urnm", "true"], capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="session", params=[MontySandbox, IsolatedSandbox], ids=["monty", "isolated"])
def engine(request: pytest.FixtureRequest) -> type[MontySandbox | IsolatedSandbox]:
    """Each engine in turn; `isolated` where the machine can shut off a process."""
    if request.param is IsolatedSandbox and not has_namespaces():
        pytest.skip("this machine cannot shut off files and network")
    chosen: type[MontySandbox | IsolatedSandbox] = request.param
    return chosen
