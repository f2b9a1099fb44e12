"""The same requests through both endpoints of a server, the engine in this process, and `transformers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from inferloom.core.errors import RequestRejectedError, SetupError
from inferloom.core.protocols import Backend
from inferloom.core.types import Json, Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.client import Gateway
from inferloom.models.pocket.tasks import Item
from inferloom.models.spec import ModelSpec
from tests_vllm.support import Models

WAYS = ("completions", "continue_final_message", "vllm")


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, served: Models) -> AsyncIterator[Backend]:
    """The small model, reached in each way."""
    if request.param == "vllm":
        gateway: Gateway = request.getfixturevalue("engine")
        models: Models = request.getfixturevalue("in_process")
        yield gateway.model(ModelSpec.parse(models["small"])).backend
        return
    fields: dict[str, Json] = {**served["small"], "prefix": request.param}
    if request.param != "completions":
        del fields["tokenizer"]
    backend = open_backend(ModelSpec.parse(fields))
    yield backend
    await backend.aclose()


@pytest.fixture(scope="session")
def local() -> Backend:
    return open_backend(ModelSpec.parse("pocket:small"))


def opened(item: Item) -> Request:
    """A conversation whose last turn is the first half of the right solution."""
    half = item.solution[: len(item.solution) // 2]
    messages = (*(Message("user", note) for note in item.notes[:1]), Message("user", item.question))
    return Request(messages=(messages[-1], Message("assistant", half)), temperature=0, max_tokens=80)


async def test_an_open_turn_goes_on_as_in_transformers(way: Backend, local: Backend, items: list[Item]) -> None:
    requests = [opened(item) for item in items]
    made = await asyncio.gather(*(way.generate(request, [1]) for request in requests))
    same = await asyncio.gather(*(local.generate(request, [1]) for request in requests))
    # Equal but where two tokens are so close that the order of additions decides.
    texts = [(one[0].text, other[0].text) for one, other in zip(made, same, strict=True)]
    assert sum(one == other for one, other in texts) >= len(texts) - 1
    assert [one[0].prompt_tokens for one in made] == [one[0].prompt_tokens for one in same]


async def test_stop_string_end_and_length_are_told_apart(way: Backend, items: list[Item]) -> None:
    item = next(item for item in items if len(item.steps) > 1)
    ask = Request(messages=(Message("user", item.question),), temperature=0, max_tokens=200)
    [ended] = await way.generate(ask, [1])
    [stopped] = await way.generate(replace(ask, stop=("zzz", "\n")), [1])
    [cut] = await way.generate(replace(ask, max_tokens=3), [1])
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", "\n")
    assert stopped.text == ended.text.partition("\n")[0]
    assert (cut.finish_reason, cut.stop_reason, cut.completion_tokens) == ("length", None, 3)
    assert ended.completion_tokens == len(ended.text) + 1


async def test_log_probabilities_are_those_of_transformers(way: Backend, local: Backend, items: list[Item]) -> None:
    request = replace(opened(items[0]), logprobs=3, max_tokens=4)
    [made] = await way.generate(request, [1])
    [same] = await local.generate(request, [1])
    assert made.logprobs
    assert same.logprobs
    for one, other in zip(made.logprobs, same.logprobs, strict=False):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3)
        assert dict(one.top) == pytest.approx(dict(other.top), abs=2e-3)


async def test_previews_add_up_and_several_completions_share_a_prompt(way: Backend, items: list[Item]) -> None:
    seen = {0: "", 1: "", 2: ""}

    def sink(index: int, text: str) -> None:
        seen[index] += text

    made = await way.generate(Request(messages=(Message("user", items[0].question),), max_tokens=60), [3, 4, 5], sink)
    await asyncio.sleep(0)
    assert list(seen.values()) == [one.text for one in made]
    assert made[0].prompt_tokens > 0
    assert [one.prompt_tokens for one in made[1:]] == [0, 0]
    assert all(one.completion_tokens > 0 for one in made)


async def test_a_raw_prefix_is_continued(way: Backend, local: Backend) -> None:
    request = Request(prefix="<|user|>2 + 3 = ?<|end|><|assistant|>", temperature=0, max_tokens=40)
    assert (await way.generate(request, [1]))[0].text == (await local.generate(request, [1]))[0].text


async def test_a_prompt_that_is_too_long_is_refused_in_one_line(way: Backend) -> None:
    request = Request(messages=(Message("user", "1 + " * 600), Message("assistant", "1")), max_tokens=8)
    with pytest.raises(RequestRejectedError) as caught:
        await way.generate(request, [1])
    assert "1024" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_engine_repeats_itself_by_seed_and_gives_up_cancelled_requests(
    engine: Gateway, in_process: Models, items: list[Item]
) -> None:
    backend = engine.model(ModelSpec.parse(in_process["small"])).backend
    ask = Request(messages=(Message("user", items[0].question),), max_tokens=60, temperature=1.2)
    first = await backend.generate(ask, list(range(8)))
    again = await backend.generate(ask, list(range(8)))
    assert [one.text for one in first] == [one.text for one in again]
    assert len({one.text for one in first}) > 1
    long = asyncio.ensure_future(backend.generate(replace(ask, max_tokens=800), list(range(64))))
    await asyncio.sleep(0.2)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    # Another loop, in another thread, uses the same engine.
    [other] = await asyncio.to_thread(lambda: asyncio.run(backend.generate(ask, [0])))
    assert other.text == first[0].text


async def test_the_engine_holds_a_reply_to_a_schema(engine: Gateway, in_process: Models, items: list[Item]) -> None:
    backend = engine.model(ModelSpec.parse(in_process["small"])).backend
    schema = '{"enum": [71, 82]}'  # an object would leave room for endless white space, which this model likes
    ask = Request(messages=(Message("user", items[0].question),), max_tokens=40, temperature=0, schema=schema)
    [made] = await backend.generate(ask, [1])
    assert made.text.strip() in ("71", "82")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"max_model_leng": 3}, "did you mean `max_model_len`"),
        ({"dtype": "float31"}, "cannot be started"),
    ],
)
async def test_wrong_engine_arguments_are_one_sentence(extra: dict[str, Json], said: str) -> None:
    backend = open_backend(ModelSpec.parse({"model": "vllm:pocket:small", "extra": extra}))
    with pytest.raises(SetupError, match=said) as caught:
        await backend.generate(Request(messages=(Message("user", "1"),)), [1])
    await backend.aclose()
    assert "\n" not in str(caught.value)
