"""Streams: tokens of the final answer as they come, the chosen answer once it is chosen, stages as comments."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest

from inferloom.pipelines.live_text import LiveText
from tests.serving.http_server import REFINED, SINGLE, VOTE, Serving, events, pipeline, serving
from tests.support.flaky_server import Body, FlakyServer


class Gate:
    """A model that waits, once it is told to, until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def __call__(self, body: Body, seed: int, index: int) -> str:
        self.open.wait(30)
        if "think first" in str(body["messages"]):
            return f"<think>let me END see</think>it is {seed % 10}\nA: {seed % 10}"
        return f"well then let me see END of it {seed % 10}\nA: {seed % 10}"


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def upstream(gate: Gate) -> Iterator[FlakyServer]:
    with FlakyServer(answer=gate) as server:
        yield server


@pytest.fixture(scope="module")
def server(upstream: FlakyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("streaming")
    for name, steps in (("one", SINGLE), ("four", VOTE), ("refined", REFINED)):
        (folder / f"{name}.yaml").write_text(pipeline(upstream.base_url, steps))
    with serving(folder, "one.yaml", "four.yaml", "refined.yaml") as found:
        yield found


def pieces(data: list[str], index: int = 0) -> list[str]:
    """The pieces of a choice."""
    chunks = [json.loads(line) for line in data if line != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


def test_a_single_answers_tokens_come_one_by_one(server: Serving) -> None:
    data, comments = events(server.ask("one", stream=True, seed=1).text)
    whole = server.ask("one", seed=1).json()["choices"][0]["message"]["content"]
    assert len(pieces(data)) > 5
    assert "".join(pieces(data)) == whole
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "stop"
    assert "steps/0: node sample, candidates 1" in comments


def test_only_the_last_steps_tokens_are_the_answers(server: Serving) -> None:
    data, comments = events(server.ask("refined", stream=True, seed=2).text)
    whole = server.ask("refined", seed=2).json()["choices"][0]["message"]["content"]
    assert len(pieces(data)) > 5
    assert "".join(pieces(data)) == whole
    assert [comment.split(":")[0] for comment in comments[:2]] == ["steps/0", "steps/1"]


def test_an_answer_that_is_chosen_comes_once_it_is_chosen(server: Serving) -> None:
    text = server.ask("four", stream=True, seed=3).text
    data, comments = events(text)
    whole = server.ask("four", seed=3).json()["choices"][0]["message"]["content"]
    assert pieces(data) == [whole]
    assert text.index("steps/1: node vote") < text.index("data: "), "stages are told before the answer"
    assert len(comments) == 3


def test_a_stop_string_is_never_streamed(server: Serving) -> None:
    for stop in ("END", "me see", "see EN"):
        data, _ = events(server.ask("one", stream=True, seed=4, stop=stop).text)
        whole = server.ask("one", seed=4, stop=stop).json()["choices"][0]["message"]["content"]
        assert "".join(pieces(data)) == whole
        assert stop not in whole


def test_usage_comes_last_where_it_is_asked_for(server: Serving) -> None:
    response = server.ask("one", stream=True, stream_options={"include_usage": True})
    last = json.loads(events(response.text)[0][-2])
    assert last["choices"] == []
    run = server.run(response)
    usage = run["usage"]
    assert isinstance(usage, dict)
    assert last["usage"]["completion_tokens"] == usage["completion_tokens"]
    assert last["inferloom"]["runs"][0]["run"] == run["id"]


def test_several_choices_are_streamed_beside_one_another(server: Serving) -> None:
    data, _ = events(server.ask("one", stream=True, n=3).text)
    texts = ["".join(pieces(data, index)) for index in range(3)]
    assert all(text.startswith("well then") for text in texts)
    finished = [json.loads(line)["choices"][0] for line in data[:-1] if '"finish_reason": "stop"' in line]
    assert [choice["index"] for choice in finished] == [0, 1, 2]


def test_a_call_that_breaks_off_in_mid_stream_is_made_again_unseen(server: Serving, upstream: FlakyServer) -> None:
    upstream.plan = [*([None] * len(upstream.log)), "cut"]
    response = server.ask("one", stream=True, seed=5)
    data, _ = events(response.text)
    outcomes = [call["outcome"] for call in server.run(response)["calls"]]  # type: ignore[index,union-attr,call-overload]
    assert "unknown" in outcomes, "the first call did break off"
    assert "".join(pieces(data)) == server.ask("one", seed=5).json()["choices"][0]["message"]["content"]
    assert data[-1] == "[DONE]"


def test_what_fails_before_the_first_event_has_a_status_of_its_own(server: Serving, upstream: FlakyServer) -> None:
    upstream.rejects = {"messages"}
    try:
        response = server.ask("one", stream=True)
    finally:
        upstream.rejects = set()
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "model_error"


def test_a_client_that_hangs_up_cancels_its_calls_and_they_are_accounted(
    server: Serving, upstream: FlakyServer, gate: Gate
) -> None:
    calls = len(upstream.log)
    gate.open.clear()
    body = {"model": "four", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=1)
        for _ in range(200):
            if "inferloom_requests_running 0.0" in server.get("/metrics").text:
                break
        else:
            pytest.fail("the request goes on")
    finally:
        gate.open.set()
    assert len(upstream.log) == calls + 1
    assert 'inferloom_requests_total{pipeline="four",status="499"}' in server.get("/metrics").text


def test_the_official_client_reads_a_stream(server: Serving) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="refined",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).startswith("well then")
    assert chunks[-1].usage is not None


def test_text_that_was_sent_is_never_taken_back() -> None:
    text = LiveText()
    assert text.hear("one ") == "one "
    assert text.hear("two ") == "two "
    text.restart()
    assert [text.hear(word) for word in ("one ", "two ", "three")] == ["", "", "three"]
    assert text.finish("one two three four") == " four"
    text.restart()
    assert text.hear("other words that are longer than what was sent") == ""
    assert text.finish("other words") is None


def test_a_models_reasoning_is_no_part_of_the_answer(server: Serving) -> None:
    asked = [{"role": "user", "content": "think first"}]
    whole = server.ask("one", seed=3, messages=asked).json()["choices"][0]["message"]["content"]
    data, _ = events(server.ask("one", stream=True, seed=3, messages=asked).text)
    assert whole.startswith("it is ")
    assert "".join(pieces(data)) == whole


def test_reasoning_is_held_back_until_its_end_is_known() -> None:
    text = LiveText(stops=("END",))
    pieces = ("<thi", "nk>END of it", "</think>", "the answer")
    assert [text.hear(piece) for piece in pieces] == ["", "", "", "the answ"]
    assert text.finish("the answer is 5") == "er is 5"
