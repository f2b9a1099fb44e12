"""The official OpenAI client, LangChain's, and curl."""

from __future__ import annotations

import json
import subprocess

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr

from tests_clients.conftest import KEY

MODELS = ["single", "vote", "archon_classic"]
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "12+34"}]


@pytest.fixture
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0)


def test_the_client_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == MODELS
    assert client.models.retrieve("vote").owned_by == "inferloom"


@pytest.mark.parametrize("model", MODELS)
def test_the_client_reads_an_answer(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=ASKED)
    answer = raw.parse()
    assert "A:" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert raw.headers["x-inferloom-run"] in answer.id


@pytest.mark.parametrize("model", MODELS)
def test_the_client_reads_a_stream(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": ASKED, "seed": 3}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage


def test_the_clients_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="single", messages=ASKED) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert "content.delta" in kinds
    assert answer.choices[0].finish_reason == "stop"


async def test_the_asynchronous_client(server: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        answer = await client.chat.completions.create(model="vote", messages=ASKED, n=2)
        assert len(answer.choices) == 2
        stream = await client.chat.completions.create(model="single", messages=ASKED, stream=True)
        assert [part async for part in stream][-1].choices[0].finish_reason == "stop"


def test_the_client_raises_its_own_errors(client: openai.OpenAI, server: str) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean `vote`"):
        client.chat.completions.create(model="vot", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="vote", messages=ASKED, temperature=0)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0).models.list()


def langchain(server: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{server}/v1", api_key=SecretStr(KEY), max_retries=0, model="vote", **more)


def test_langchain_invokes_batches_and_streams(server: str) -> None:
    model = langchain(server)
    answer = model.invoke([SystemMessage("be right"), HumanMessage("12+34")])
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0
    assert len(model.batch(["1+1", "2+2"])) == 2
    parts = list(model.stream("12+34"))
    assert "A:" in "".join(str(part.content) for part in parts)


async def test_langchain_asynchronously(server: str) -> None:
    model = langchain(server, temperature=0.5, stream_usage=True)
    assert (await model.ainvoke("12+34")).content
    parts = [part async for part in model.astream("12+34")]
    assert any(part.usage_metadata for part in parts)


def curl(server: str, *arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "-H", f"Authorization: Bearer {KEY}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def test_curl(server: str) -> None:
    body = json.dumps({"model": "vote", "messages": ASKED})
    answer = json.loads(curl(server, f"{server}/v1/chat/completions", "-d", body))
    run = answer["inferloom"]["runs"][0]["run"]
    assert json.loads(curl(server, f"{server}/runs/{run}"))["status"] == "done"
    score = json.dumps({"run": run, "score": 1})
    assert json.loads(curl(server, f"{server}/v1/feedback", "-d", score))["run"] == run
    streamed = curl(server, "--no-buffer", f"{server}/v1/chat/completions", "-d", body[:-1] + ', "stream": true}')
    assert streamed.startswith(": steps/0: node sample")
    assert streamed.rstrip().endswith("data: [DONE]")
