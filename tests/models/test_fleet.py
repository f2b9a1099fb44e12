"""Several endpoints of one model: calls are shared out evenly, and one that is down is passed over."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from inferloom.core.errors import SpecError, UnreachableError
from inferloom.core.types import Message, Request
from inferloom.models.fleet import Fleet
from inferloom.models.openai import open_openai
from inferloom.models.spec import ModelSpec
from tests.support.flaky_server import FlakyServer

NOWHERE = "http://127.0.0.1:9/v1"


def fleet(*urls: str) -> Fleet:
    spec = ModelSpec.parse({"model": "openai:m", "base_url": urls[0], "replicas": list(urls[1:]), "timeout": 20})
    opened = open_openai(spec.rest, spec)
    assert isinstance(opened, Fleet)
    return opened


async def ask(model: Fleet, count: int) -> list[str]:
    requests = [Request(messages=(Message("user", f"question {k}"),)) for k in range(count)]
    made = await asyncio.gather(*(model.generate(request, [k]) for k, request in enumerate(requests)))
    await model.aclose()
    return [completion.text for [completion] in made]


async def test_calls_go_to_whoever_has_the_fewest_in_hand() -> None:
    with FlakyServer() as one, FlakyServer() as other:
        said = await ask(fleet(one.base_url, other.base_url), 12)
        assert (len(one.log), len(other.log)) == (6, 6)
        assert Counter(said) == Counter(text for server in (one, other) for entry in server.log for text in entry.texts)


async def test_a_replica_that_is_down_costs_no_call() -> None:
    with FlakyServer() as up:
        model = fleet(NOWHERE, up.base_url)
        assert len(await ask(model, 5)) == 5
        # Passed over now; and the address that is first still says who the model is.
        assert len(await ask(model, 5)) == 5
        assert len(up.log) == 10
        assert await model.fingerprint() == await fleet(NOWHERE, "http://127.0.0.1:8/v1").fingerprint()


async def test_where_all_are_down_the_error_names_one() -> None:
    with pytest.raises(UnreachableError, match="cannot connect"):
        await ask(fleet(NOWHERE, "http://127.0.0.1:8/v1"), 1)


@pytest.mark.parametrize(("fields", "said"), [
    ({"model": "openai:m", "replicas": [NOWHERE]}, "`replicas` needs an `openai:` model with `base_url`"),
    ({"model": "pocket:small", "base_url": NOWHERE, "replicas": [NOWHERE]}, "`replicas` needs an `openai:` model"),
    ({"model": "openai:m", "base_url": NOWHERE, "replicas": ["ftp://x"]}, "must be a URL that starts with http"),
])  # fmt: skip
def test_replicas_that_cannot_be_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ModelSpec.parse(fields)
