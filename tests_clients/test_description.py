"""The OpenAPI description is true: a fuzzer that believes it finds nothing that it does not say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests_clients.conftest import KEY


def test_replies_are_as_described(server: str, tmp_path: Path) -> None:
    """`positive_data_acceptance` is left out: what a pipeline can take, such as a temperature, is in no schema."""
    command = [Path(sys.executable).parent / "st", "run", f"{server}/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--exclude-checks", "positive_data_acceptance"]
    command += ["--max-examples", "30", "--seed", "1", "--request-timeout", "60"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
