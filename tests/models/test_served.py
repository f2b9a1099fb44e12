"""Servers that a model's entry starts: a stub that answers like one, dies on demand, and is started again or not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from inferloom.core.errors import InferloomError, ServerFaultError, SetupError
from inferloom.core.types import Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.served import servers, telling_line
from inferloom.models.spec import ModelSpec

STUB = """
import argparse, json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
for name in ("model", "served-model-name", "host", "port", "mode"):
    parser.add_argument("--" + name, default="")
arguments = parser.parse_args()
if arguments.mode == "broken":
    raise SystemExit("error: the weights are upside down")


class Handler(BaseHTTPRequestHandler):
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "A: " + arguments.served_model_name}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        self.answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    def log_message(self, *_):
        pass


ThreadingHTTPServer((arguments.host, int(arguments.port)), Handler).serve_forever()
"""
ASK = Request(messages=(Message("user", "?"),), max_tokens=5)


@pytest.fixture
def stub(tmp_path: Path) -> list[str]:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return [sys.executable, str(path)]


def spec(stub: list[str], log: Path, **more: object) -> ModelSpec:
    serve = {"model": "some/model", "command": stub, "log": str(log), "wait": 30, **more}
    return ModelSpec.parse({"model": "openai:named", "serve": serve})


def group() -> int:
    [server] = servers()
    assert server.group is not None
    return server.group


async def test_it_starts_with_the_first_request_and_ends_with_the_last_user(stub: list[str], tmp_path: Path) -> None:
    backends = [open_backend(spec(stub, tmp_path / "log")) for _ in range(2)]
    assert servers() == []
    for backend in backends:
        assert (await backend.generate(ASK, [1]))[0].text == "A: named"
    number = group()  # equal entries share one server
    await backends[0].aclose()
    assert group() == number
    await backends[1].aclose()
    assert servers() == []
    with pytest.raises(ProcessLookupError):
        os.killpg(number, 0)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_death_is_one_line_or_a_new_start(stub: list[str], tmp_path: Path, restart: bool) -> None:
    backend = open_backend(spec(stub, tmp_path / "log", restart=restart))
    await backend.generate(ASK, [1])
    before = group()
    os.killpg(before, signal.SIGKILL)
    try:
        made = [*(await backend.generate(ASK, [1]))]
    except ServerFaultError as error:
        if not restart:
            assert "was killed by SIGKILL" in str(error) and str(tmp_path / "log") in str(error)
            assert "\n" not in str(error) and not error.retryable
        else:
            assert error.retryable
            made = await backend.generate(ASK, [1])
    if restart:
        assert made[0].text == "A: named" and group() != before
    await backend.aclose()


async def test_one_that_never_comes_up_says_why_in_one_line(stub: list[str], tmp_path: Path) -> None:
    backend = open_backend(spec(stub, tmp_path / "log", args={"mode": "broken"}))
    with pytest.raises(SetupError) as caught:
        await backend.generate(ASK, [1])
    assert "ended with exit code 1 while it started, saying `error: the weights are upside down`" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)
    await backend.aclose()


async def test_the_fingerprint_knows_no_port_and_no_speed(stub: list[str], tmp_path: Path) -> None:
    async def fingerprint(**args: object) -> str:
        return await open_backend(spec(stub, tmp_path / "log", args=args)).fingerprint()

    assert await fingerprint() == await fingerprint(**{"max-num-seqs": 4})
    assert await fingerprint() != await fingerprint(dtype="float32")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "must not hold a key"),
        ({"env": {"A": "sk-123456"}}, "looks like a key"),
        ({"args": {"port": 1}}, "`port` in `args` is set by inferloom"),
        ({"python": "/usr/bin/python3"}, "exclude each other"),
        ({"wait": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_served_is_refused(
    stub: list[str], tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(InferloomError) as caught:
        spec(stub, tmp_path / "log", **fields)
    assert said in str(caught.value) and "sk-123456" not in str(caught.value)


def test_an_entry_with_a_server_survives_yaml(stub: list[str], tmp_path: Path) -> None:
    entry = spec(stub, tmp_path / "log", args={"dtype": "float32"}, env={"CACHE": 1})
    assert ModelSpec.parse(entry.to_yaml()) == entry
    with pytest.raises(InferloomError, match="base_url"):
        ModelSpec.parse({"model": "openai:x", "base_url": "http://127.0.0.1:1/v1", "serve": {"model": "m"}})


def test_the_telling_line_is_the_cause_and_not_its_consequence() -> None:
    log = "INFO 01-01 00:00:00 [a.py:1] loading\nValueError: no such block\nEngine core initialization failed\n"
    assert telling_line(log) == "ValueError: no such block"
