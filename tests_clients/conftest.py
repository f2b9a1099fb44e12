"""One server on the pocket models for all tests. It runs in `.venv`, the clients in `.venv-clients`."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
KEY = "a-key-of-the-tests-0123456789"
_READY = re.compile(r"at (http://\S+)/v1;")

VOTE = """\
models: {small: pocket:small, large: pocket:large}
steps:
  - sample: {model: small, n: 4}
  - score: {model: large}
  - vote: {weight: judge}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # What the clients' libraries warn of is theirs.
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No client finds a key, a proxy or a cache of the user's; none looks for a network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("OPENAI_", "INFERLOOM_", "INSPECT_"))]:
            patch.delenv(name)
        for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": "hub"}.items():
            patch.setenv(name, value if value == "1" else str(tmp_path_factory.mktemp(value)))
        patch.setenv("LANGSMITH_TRACING", "false")
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the models `single` and `vote`; a key is needed."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "vote.yaml").write_text(VOTE)
    names = ("single", "vote.yaml", "archon_classic")
    process = subprocess.Popen(
        [PYTHON, "-c", "from inferloom.cli import main; main()", "serve", *names, "--port", "0", "--db", "s.db"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "INFERLOOM_API_KEYS": f"tests={KEY}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if _READY.search(line):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(120)
        found = next((match for line in lines if (match := _READY.search(line))), None)
        assert found is not None, "".join(lines)
        yield found[1]
        assert process.poll() is None, "the server is still there when all clients are done"
        assert "Traceback" not in "".join(lines)
    finally:
        process.terminate()
        process.wait(60)
        reader.join(10)
