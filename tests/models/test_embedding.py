"""Embedders: the one that comes along without a network, an endpoint on loopback, a function of the user's."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from inferloom.core.errors import BadResponseError, RequestRejectedError, SetupError, UnknownNameError
from inferloom.models import embedding, retry
from inferloom.models.embedding import (
    EMBEDDERS,
    KEY_VARIABLE,
    VARIABLE,
    EndpointEmbedder,
    default_embedder,
    open_embedder,
    register_embedder,
)
from tests.support.flaky_server import FlakyServer

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None,
    reason="the extra `embeddings` is not installed: pip install 'inferloom[embeddings]'",
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr(retry, "sleep", at_once)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    default_embedder.cache_clear()
    yield
    default_embedder.cache_clear()


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return (
        math.sumprod(left, right) if hasattr(math, "sumprod") else sum(a * b for a, b in zip(left, right, strict=True))
    )


@needs_weights
@pytest.mark.parametrize(
    ("text", "paraphrase", "other"),
    [
        (
            "How do I reset my password?",
            "I forgot my login code; how can it be changed?",
            "The volcano erupted last night.",
        ),
        (
            "What is the capital of France?",
            "Name the main city of the French republic.",
            "Add the numbers 4, 8 and 15.",
        ),
        ("Add the numbers 4, 8 and 15.", "Compute the sum of 3, 7 and 21.", "Name the author of this novel."),
        ("A dog runs across the field.", "The puppy is sprinting over the grass.", "Interest rates rose in March."),
    ],
)
async def test_a_paraphrase_is_nearer_than_another_sentence(text: str, paraphrase: str, other: str) -> None:
    own, near, far = await default_embedder().embed([text, paraphrase, other])
    assert cosine(own, near) > cosine(own, far) + 0.15
    assert cosine(own, own) == pytest.approx(1)


@needs_weights
async def test_vectors_have_length_one_whatever_the_text() -> None:
    texts = ["", " ", "word", "x" * 300_000, "\ud800 alone", "\x00\u202e é ﷽", "A: 1\n" * 9]
    vectors = await default_embedder().embed(texts)
    assert {len(vector) for vector in vectors} == {256}
    for vector in vectors:
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-9)
    assert await default_embedder().embed([]) == []


@needs_weights
async def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    alone = await default_embedder().embed(["two words"])
    among = await default_embedder().embed(["x " * 500, "two words", ""])
    assert alone[0] == among[1]


@needs_weights
def test_it_runs_without_network_home_and_side_effects() -> None:
    script = (
        "import asyncio, logging, socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from inferloom.models.embedding import default_embedder\n"
        "assert not {'numpy', 'tokenizers', 'safetensors'} & set(sys.modules), 'heavy before it is needed'\n"
        "[vector] = asyncio.run(default_embedder().embed(['one text']))\n"
        "assert len(vector) == 256\n"
        "assert not logging.root.handlers and 'requests' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda name: None)
    with pytest.raises(SetupError) as refused:
        default_embedder()
    assert refused.value.message == (
        "embeddings need the package `wordllama`; run `pip install 'inferloom[embeddings]'`, or choose another"
        " embedder by INFERLOOM_EMBEDDER"
    )


async def test_an_endpoints_vectors_come_in_order_with_length_one_and_once() -> None:
    with FlakyServer() as server:
        embedder = open_embedder(f"openai:tiny@{server.base_url}")
        first = await embedder.embed(["aab", "", "b"])
        again = await embedder.embed(["b", "aab", "aab"])
    assert first[0] == pytest.approx([value / math.sqrt(6) for value in (1, 2, 1, 0, 0, 0)])
    assert first[2] == pytest.approx([value / math.sqrt(2) for value in (1, 0, 1, 0, 0, 0)])
    assert again == [first[2], first[0], first[0]]
    [entry] = server.log
    assert entry.path == "/v1/embeddings"
    assert entry.body == {"model": "tiny", "input": ["aab", "-", "b"], "encoding_format": "float"}
    assert entry.authorization in (None, "Bearer none")


async def test_many_texts_are_asked_for_in_batches() -> None:
    with FlakyServer() as server:
        texts = [f"{number} {'a' * (number % 7)}" for number in range(600)]
        vectors = await open_embedder(f"openai:tiny@{server.base_url}").embed(texts)
    assert [len(entry.body["input"]) for entry in server.log] == [256, 256, 88]
    assert vectors[511][1] == pytest.approx(0)
    assert vectors[512][1] == pytest.approx(1 / math.sqrt(2))


async def test_an_endpoint_that_trips_is_asked_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FlakyServer(plan=["rate_limit", "server_error"]) as server:
        [vector] = await open_embedder(f"openai:tiny@{server.base_url}").embed(["a"])
        assert math.hypot(*vector) == pytest.approx(1)
        assert len(server.log) == 3
    with FlakyServer(key="right-key") as server:
        monkeypatch.setenv(KEY_VARIABLE, "wrong-key")
        with pytest.raises(RequestRejectedError, match=KEY_VARIABLE):
            await open_embedder(f"openai:tiny@{server.base_url}").embed(["a"])
        monkeypatch.setenv(KEY_VARIABLE, "right-key")
        await open_embedder(f"openai:tiny@{server.base_url}").embed(["a"])
        assert len(server.log) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "0 vectors for 1 texts"),
        ([{"index": 1, "embedding": [1.0]}], "1 vectors for 1 texts"),
        ([{"index": 0, "embedding": [0.0, 0.0]}], "without a direction"),
        ([{"index": 0, "embedding": ["x"]}], "cannot be read"),
    ],
)
async def test_a_reply_that_is_none_is_refused(data: list[object], said: str) -> None:
    with FlakyServer() as server:
        server.reply_with = {"data": data}
        with pytest.raises(BadResponseError, match=said):
            await EndpointEmbedder("tiny", server.base_url).embed(["a"])


async def test_a_registered_function_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    @register_embedder("test/lengths")
    def lengths(texts: Sequence[str]) -> list[list[float]]:
        return [[3.0 * len(text), 4.0 * len(text)] for text in texts if text != "lost"]

    monkeypatch.setenv(VARIABLE, "test/lengths")
    assert await default_embedder().embed(["a", "bb"]) == [pytest.approx((0.6, 0.8))] * 2
    for bad in (["a", "lost"], [""]):
        with pytest.raises(SetupError, match=r"lengths` gave . vectors for . texts"):
            await default_embedder().embed(bad)
    assert "test/lengths" in EMBEDDERS


def test_a_wrong_choice_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "wordlama")
    with pytest.raises(UnknownNameError, match=r"INFERLOOM_EMBEDDER: .*did you mean `wordllama`"):
        default_embedder()
    with pytest.raises(SetupError, match="openai:MODEL@BASE_URL"):
        open_embedder("openai:@http://127.0.0.1/v1")
    for name in ("wordllama", "openai:mine"):
        with pytest.raises(SetupError, match="taken"):
            register_embedder(name)
