"""`Idempotency-Key`: the same request again repeats no call, whatever happened to the server in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from inferloom.store import Store
from tests.serving.http_server import REFINED, VOTE, Serving, events, pipeline, serving
from tests.support.flaky_server import Body, FlakyServer, wait_for_log


class Model:
    """Answers; the second stage (`fuse`) waits while it is held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()

    def __call__(self, body: Body, seed: int, index: int) -> str:
        if (body.get("n") or 1) == 1:
            self.free.wait(30)
        return f"so it is {seed % 1000}\nA: {seed % 1000}"


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def upstream(model: Model) -> Iterator[FlakyServer]:
    with FlakyServer(answer=model) as server:
        yield server
        model.free.set()


@pytest.fixture
def folder(tmp_path: Path, upstream: FlakyServer) -> Path:
    (tmp_path / "vote.yaml").write_text(pipeline(upstream.base_url, VOTE))
    (tmp_path / "refined.yaml").write_text(pipeline(upstream.base_url, REFINED))
    return tmp_path


def ask(server: Serving, key: str | None, model: str = "vote", question: str = "1+1", **body: object) -> httpx.Response:
    return server.ask(model, question, headers={"Idempotency-Key": key} if key else {}, **body)  # type: ignore[arg-type]


def test_a_finished_answer_is_sent_again_as_it_is(folder: Path, upstream: FlakyServer) -> None:
    with serving(folder, "vote.yaml") as server:
        first = ask(server, "k1")
        again = ask(server, "k1")
        assert again.json() == first.json()
        assert len(upstream.log) == 1
        assert again.headers["x-inferloom-billed-calls"] == "0"
        assert again.headers["x-inferloom-run"] == first.headers["x-inferloom-run"]
        other = ask(server, "k1", question="2+2")
        assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
        assert ask(server, "k2").json()["choices"] != first.json()["choices"], "another key draws afresh"
        assert ask(server, None).json()["choices"] != first.json()["choices"], "so does none"
        streamed = ask(server, "k3", stream=True)
        assert events(ask(server, "k3", stream=True).text)[0][-1] == "[DONE]"
        assert len(upstream.log) == 4
        assert streamed.status_code == 200
    with serving(folder, "vote.yaml") as server:
        assert ask(server, "k1").json() == first.json(), "it outlives the server"
    assert len(upstream.log) == 4


def test_the_same_request_while_it_runs_is_refused(folder: Path, upstream: FlakyServer, model: Model) -> None:
    model.free.clear()
    with serving(folder, "refined.yaml") as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server, "k", "refined")
        wait_for_log(upstream, 2)
        second = ask(server, "k", "refined")
        assert (second.status_code, second.json()["error"]["code"]) == (409, "still_running")
        model.free.set()
        assert first.result().status_code == 200


def test_kill_9_in_mid_run_and_the_same_key_repeats_no_committed_call(
    folder: Path, upstream: FlakyServer, model: Model
) -> None:
    model.free.clear()
    with serving(folder, "refined.yaml") as server, ThreadPoolExecutor(1) as pool:
        pool.submit(ask, server, "k", "refined")
        wait_for_log(upstream, 2)  # the first stage is committed, the second is in flight
        server.kill()
    model.free.set()
    with Store.open(f"sqlite:///{folder / 's.db'}") as store:
        (cut,) = store.runs()
        assert [call.step for call in store.calls(cut.id)] == ["steps/0"]
    with serving(folder, "refined.yaml") as server:
        page = server.get(f"/runs/{cut.id}").json()
        assert page["status"] == "interrupted"
        assert [call["step"] for call in page["calls"]] == ["steps/0"]
        answer = ask(server, "k", "refined")
        assert answer.status_code == 200
        run = answer.json()["inferloom"]["runs"][0]
        assert run["billed"]["calls"] == 1
        assert len(upstream.log) == 3, "only the call that was in flight is made again"
        (choices, _) = (upstream.log[2].body["messages"], None)
        assert choices == upstream.log[1].body["messages"], "it builds on the same candidates"
        ask(server, "other", "refined")
        ask(server, None, "refined")
        assert len(upstream.log) == 7, "another key and none draw afresh"


def test_a_server_that_is_stopped_finishes_what_runs(folder: Path, upstream: FlakyServer, model: Model) -> None:
    model.free.clear()
    with serving(folder, "refined.yaml", "--grace", "20") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, "k", "refined")
        wait_for_log(upstream, 2)
        server.process.terminate()
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            server.get("/healthz")
        model.free.set()
        assert running.result().status_code == 200
        assert server.process.wait(20) == 0


def test_a_server_that_may_not_wait_cancels_and_the_key_takes_up_again(
    folder: Path, upstream: FlakyServer, model: Model
) -> None:
    model.free.clear()
    with serving(folder, "refined.yaml", "--grace", "0") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, "k", "refined")
        wait_for_log(upstream, 2)
        server.process.terminate()
        assert server.process.wait(20) == 0
        told = running.result()
        assert (told.status_code, told.json()["error"]["code"]) == (503, "stopped")
        assert not [line for line in server.lines if "Traceback" in line]
    model.free.set()
    with Store.open(f"sqlite:///{folder / 's.db'}") as store:
        (cut,) = store.runs()
        assert cut.status == "failed"
        assert [call.outcome for call in store.calls(cut.id)] == ["ok", "unknown"]
        assert store.usage(cut.id).bound.calls == 1, "what was in flight is accounted at its upper bound"
    with serving(folder, "refined.yaml") as server:
        assert ask(server, "k", "refined").json()["inferloom"]["runs"][0]["billed"]["calls"] == 1


def test_a_failed_request_may_be_sent_again(folder: Path, upstream: FlakyServer) -> None:
    upstream.rejects = {"messages"}
    with serving(folder, "vote.yaml") as server:
        assert ask(server, "k").status_code == 502
        upstream.rejects = set()
        assert ask(server, "k").status_code == 200


@pytest.mark.parametrize("key", ["a b", "x" * 256])
def test_a_key_that_is_none_is_refused(folder: Path, key: str) -> None:
    with serving(folder, "vote.yaml") as server:
        assert ask(server, key).json()["error"]["param"] == "Idempotency-Key"
