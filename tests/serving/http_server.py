"""A real `inferloom serve` in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from inferloom.core.types import Json

COMMAND = [sys.executable, "-c", "from inferloom.cli import main; main()", "serve"]
ROOT = Path(__file__).parents[2]
_READY = re.compile(r"at (http://\S+)/v1;")


@dataclass
class Serving:
    """A server that takes requests."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str]
    """What it wrote to standard error so far."""
    key: str | None = None

    def ask(
        self, model: str, question: str = "12+34", *, headers: Mapping[str, str | bytes] | None = None, **body: Json
    ) -> httpx.Response:
        """`POST /v1/chat/completions`."""
        document = {"model": model, "messages": [{"role": "user", "content": question}], **body}
        return self.post("/v1/chat/completions", document, headers=headers)

    def post(self, path: str, body: object, *, headers: Mapping[str, str | bytes] | None = None) -> httpx.Response:
        # As ASCII: what stands for no character at all can be sent that way too.
        return httpx.post(
            self.url + path,
            content=json.dumps(body),
            headers={"Content-Type": "application/json", **self._auth(), **(headers or {})},
            timeout=60,
        )

    def get(self, path: str, *, headers: Mapping[str, str | bytes] | None = None) -> httpx.Response:
        return httpx.get(self.url + path, headers={**self._auth(), **(headers or {})}, timeout=60)

    def run(self, response: httpx.Response) -> dict[str, Json]:
        """What `/runs/{id}` says of a response's run."""
        found: dict[str, Json] = self.get(f"/runs/{response.headers['x-inferloom-run']}").json()
        return found

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def _auth(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


@contextmanager
def serving(
    folder: Path, *arguments: str, db: str = "s.db", env: Mapping[str, str] | None = None, key: str | None = None
) -> Iterator[Serving]:
    """A server on a free port, with its database in a folder; told to stop at the end."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--port", "0", "--db", f"sqlite:///{folder / db}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    said: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            said.put(line)
        said.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (line := said.get(timeout=60)) and not (found := _READY.search(line)):
            pass
        assert line, f"the server did not start: {''.join(lines)}"
        assert found is not None
        yield Serving(found[1], process, lines, key)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait(10)
            reader.join(10)
            if process.stderr is not None:
                process.stderr.close()


def events(text: str) -> tuple[list[str], list[str]]:
    """The data and the comments of a stream of server-sent events."""
    lines = [line for line in text.split("\n") if line]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return data, [line.removeprefix(": ") for line in lines if line.startswith(":")]


def pipeline(base_url: str, steps: str, **more: str) -> str:
    """A pipeline on an OpenAI-compatible endpoint."""
    extra = "".join(f"{name}: {value}\n" for name, value in more.items())
    return (
        f"models:\n  m: {{model: 'openai:m', base_url: '{base_url}', retries: 3,"
        " price: {input: 1000000, output: 1000000}}\n"
        f"prompts: pocket\n{extra}steps:\n{steps}"
    )


SINGLE = "  - sample: {model: m}\n"
VOTE = "  - sample: {model: m, n: 4}\n  - vote\n"
REFINED = "  - sample: {model: m, n: 2}\n  - fuse: {model: m}\n"
