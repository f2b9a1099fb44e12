"""`inferloom serve` before it serves: what is wrong is one sentence, and nothing is made."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.http_server import COMMAND, ROOT

BLOCKED = "import sys; sys.modules['{module}'] = None; from inferloom.cli import main; main()"


def refused(folder: Path, *arguments: str, command: list[str] = COMMAND) -> str:
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob("*.db*")), "nothing is made"
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("singel",), "did you mean `single`?"),
        (("single", "single"), "two pipelines would be served as `single`"),
        (("a b=single",), "`a b` cannot name a model"),
        (("single", "--host", "0.0.0.0"), "name API keys with --keys, or say --open"),
        (("single", "--host", "192.0.2.1", "--open"), "cannot listen at 192.0.2.1"),
        (("single", "--keys", "none.yaml"), "none.yaml: no such file"),
        ((), "issing argument"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(tmp_path, *arguments)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1, port {port}" in refused(tmp_path, "single", "--port", port)


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "prometheus_client"])
def test_a_missing_package_is_one_sentence_that_names_the_extra(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-c", BLOCKED.format(module=module), "serve"]
    told = refused(tmp_path, "single", command=command)
    assert f"serving needs {module}: run `pip install 'inferloom[serve]'`" in told
