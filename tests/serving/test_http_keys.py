"""API keys: whose run is whose, what a key may spend, how often it may ask; no key is ever repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from inferloom.core.errors import UserError
from inferloom.serving.keys import load_keys
from inferloom.store import Store
from tests.serving.http_server import SINGLE, VOTE, Serving, pipeline, serving
from tests.support.flaky_server import FlakyServer

ALICE, BOB, POOR, BUSY = (f"key-of-{name}-0123456789" for name in ("alice", "bob", "poor", "busy"))
KEYS = f"""\
keys:
  - {{name: alice, env: ALICE_KEY, metrics: true}}
  - {{name: bob, sha256: {hashlib.sha256(BOB.encode()).hexdigest()}, pipelines: [one]}}
  - {{name: poor, env: POOR_KEY, budget: {{calls: 10, per: day}}}}
  - {{name: busy, env: BUSY_KEY, requests_per_minute: 3}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FlakyServer]:
    with FlakyServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, upstream: FlakyServer) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.yaml").write_text(KEYS)
    (folder / "one.yaml").write_text(pipeline(upstream.base_url, SINGLE))
    (folder / "four.yaml").write_text(pipeline(upstream.base_url, VOTE))
    return folder


ENVIRONMENT = {"ALICE_KEY": ALICE, "POOR_KEY": POOR, "BUSY_KEY": BUSY}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder, "one.yaml", "four.yaml", "--keys", "keys.yaml", env=ENVIRONMENT, key=ALICE) as found:
        yield found


def of(server: Serving, key: str) -> Serving:
    return replace(server, key=key)


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", f"Basic {ALICE}", f"Bearer {ALICE[:-1]}", "Bearer é"]
)
def test_without_a_valid_key_nothing_is_answered(server: Serving, upstream: FlakyServer, header: str | None) -> None:
    calls = len(upstream.log)
    headers = {} if header is None else {"Authorization": header.encode()}
    stranger = replace(server, key=None)
    for path in ("/v1/models", "/metrics", "/runs/" + "0" * 32):
        assert stranger.get(path, headers=headers).status_code == 401
    response = stranger.ask("one", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert ALICE[:-1] not in response.text
    assert len(upstream.log) == calls
    assert stranger.get("/healthz").status_code == 200


def test_a_run_belongs_to_its_key(server: Serving) -> None:
    response = server.ask("one")
    run = response.headers["x-inferloom-run"]
    assert server.get(f"/runs/{run}").status_code == 200
    browser = {"Accept": "text/html,application/xhtml+xml"}
    assert server.get(f"/runs/{run}", headers=browser).text.lower().startswith("<!doctype html>")
    assert of(server, BOB).get(f"/runs/{run}", headers=browser).status_code == 404
    other = of(server, BOB).get(f"/runs/{run}")
    missing = of(server, BOB).get("/runs/" + "0" * 32)
    assert other.status_code == missing.status_code == 404
    assert other.text.replace(run, "0" * 32) == missing.text, "another key's run looks like none at all"
    assert of(server, BOB).post("/v1/feedback", {"run": run, "score": 1}).status_code == 404
    assert server.get(f"/runs/{run[:12]}").status_code == 404, "the beginning of an id is not enough"


def test_a_key_may_be_kept_to_some_pipelines(server: Serving) -> None:
    bob = of(server, BOB)
    assert [model["id"] for model in bob.get("/v1/models").json()["data"]] == ["one"]
    assert bob.ask("one").status_code == 200
    assert bob.ask("four").status_code == 403
    assert bob.get("/v1/models/four").status_code == 404
    assert bob.get("/metrics").status_code == 403


def test_two_keys_never_share_draws(server: Serving, upstream: FlakyServer) -> None:
    asked = {"seed": 5, "headers": {"Idempotency-Key": "same"}}
    first = server.ask("one", "shared?", **asked).json()  # type: ignore[arg-type]
    calls = len(upstream.log)
    second = of(server, BOB).ask("one", "shared?", **asked).json()  # type: ignore[arg-type]
    assert len(upstream.log) == calls + 1
    assert second["inferloom"]["runs"][0]["billed"]["calls"] == 1
    assert first["id"] != second["id"]


def test_a_budget_holds_for_requests_at_once_and_after_a_restart(folder: Path, upstream: FlakyServer) -> None:
    """Ten calls are allowed; one is made for each answer."""
    arguments = ("one.yaml", "four.yaml", "--keys", "keys.yaml")
    before = len(upstream.log)
    with (
        serving(folder, *arguments, db="budget.db", env=ENVIRONMENT, key=POOR) as server,
        ThreadPoolExecutor(6) as pool,
    ):
        assert list(pool.map(lambda _: server.ask("one").status_code, range(6))) == [200] * 6
    with serving(folder, *arguments, db="budget.db", env=ENVIRONMENT, key=POOR) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("one"), range(8)))
        assert sorted(answer.status_code for answer in answers) == [*[200] * 4, *[429] * 4]
        error = next(answer for answer in answers if answer.status_code == 429).json()["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert "of this day of key `poor`" in error["message"]
        assert of(server, ALICE).ask("one").status_code == 200, "another key's budget is its own"
    assert len(upstream.log) - before == 11
    with Store.open(f"sqlite:///{folder / 'budget.db'}") as store:
        assert store.served.spent("serve:poor", 0).billed.calls == 10


def test_a_rate_is_held_and_says_when_to_come_back(server: Serving) -> None:
    busy = of(server, BUSY)
    assert [busy.ask("one").status_code for _ in range(3)] == [200] * 3
    refused = busy.ask("one")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "at most 3" in refused.json()["error"]["message"]


def test_no_key_is_written_anywhere(server: Serving, folder: Path) -> None:
    server.ask("one")
    of(server, "wrong-key-0123456789").ask("one")
    written = b"".join(path.read_bytes() for path in folder.iterdir() if path.suffix != ".yaml")
    for key in (ALICE, BOB, "wrong-key-0123456789"):
        assert key.encode() not in written
        assert key not in "".join(server.lines)
        assert key not in server.get("/metrics").text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("keys: []", "a file of API keys must be `keys:` with a list"),
        ("keys:\n- {name: a b, env: X}", "keys.yaml:2: keys[0].name: `name`"),
        ("keys:\n- {name: a, env: MISSING_KEY}", "the environment variable MISSING_KEY is not set"),
        ("keys:\n- {name: a}", "either `env`, a variable's name, or `sha256`"),
        ("keys:\n- {name: a, env: SHORT_KEY}", "the API key in SHORT_KEY has 5 characters; at least 16"),
        ("keys:\n- {name: a, env: LONG_KEY, budjet: {}}", "did you mean `budget`?"),
        ("keys:\n- {name: a, env: LONG_KEY, budget: {usd: -1}}", "greater than 0"),
        ("keys:\n- {name: a, env: LONG_KEY}\n- {name: b, env: LONG_KEY}", "two API keys have the same key"),
        ("keys:\n- {name: open, env: LONG_KEY}", "take another"),
    ],
)
def test_a_wrong_file_of_keys_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    environment = {"SHORT_KEY": "abcde", "LONG_KEY": "0123456789abcdef0"}
    with pytest.raises(UserError) as caught:
        load_keys(file, environment)
    assert sentence in caught.value.sentence
    assert "abcde" not in caught.value.sentence.replace("0123456789abcdef0", "")


def test_keys_come_from_the_environment_too() -> None:
    (found,) = load_keys(None, {"INFERLOOM_API_KEYS": f"carol={ALICE}"})
    assert (found[0].name, found[1]) == ("carol", hashlib.sha256(ALICE.encode()).digest())
    with pytest.raises(UserError) as caught:
        load_keys(None, {"INFERLOOM_API_KEYS": ALICE + "!"})
    assert ALICE not in caught.value.sentence
