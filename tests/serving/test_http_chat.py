"""Chat completions over HTTP: answers, accounts, what a request's parameters mean, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from inferloom.store import Store
from tests.serving.http_server import SINGLE, VOTE, Serving, pipeline, serving
from tests.support.flaky_server import Body, FlakyServer

KEY = "a-key-for-tests-only"


def said(body: Body, seed: int, index: int) -> str:
    """Says what it was asked, so that a test sees what came through; the number depends on the draw."""
    turns = "|".join(f"{turn['role']}={turn['content']}" for turn in body["messages"])
    return f"[{turns}] STOP {body.get('temperature')} {body.get('max_tokens')}\nA: {seed % 1000}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FlakyServer]:
    with FlakyServer(answer=said) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def server(upstream: FlakyServer, folder: Path) -> Iterator[Serving]:
    (folder / "one.yaml").write_text(pipeline(upstream.base_url, SINGLE))
    (folder / "four.yaml").write_text(pipeline(upstream.base_url, VOTE))
    (folder / "tight.yaml").write_text(pipeline(upstream.base_url, VOTE, budget="{calls: 2}"))
    with serving(folder, "one.yaml", "four.yaml", "tight.yaml", "other=single", "--choices", "4") as found:
        yield found


def test_models_are_listed_under_their_names(server: Serving) -> None:
    listed = server.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["one", "four", "tight", "other"]
    assert server.get("/v1/models/four").json()["id"] == "four"
    missing = server.get("/v1/models/for")
    assert (missing.status_code, "did you mean `four`?" in missing.text) == (404, True)


def test_usage_is_the_runs_nominal_usage_and_the_ledgers(server: Serving, folder: Path) -> None:
    response = server.ask("four")
    answer = response.json()
    run = server.run(response)
    own = answer["inferloom"]["runs"][0]
    assert answer["id"] == f"chatcmpl-{own['run']}"
    assert answer["usage"]["prompt_tokens"] == run["usage"]["prompt_tokens"]  # type: ignore[index,call-overload]
    assert answer["usage"]["completion_tokens"] == own["usage"]["completion_tokens"] > 0
    assert own["usage"]["calls"] == 4
    with Store.open(f"sqlite:///{folder / 's.db'}") as store:
        ledger = store.usage(own["run"])
    assert ledger.nominal.to_json() == own["usage"]
    assert ledger.billed.calls == int(response.headers["x-inferloom-billed-calls"]) == 1
    assert ledger.billed.tokens == int(response.headers["x-inferloom-billed-tokens"])


def test_a_conversation_comes_to_the_model_with_its_system_message(server: Serving, upstream: FlakyServer) -> None:
    turns = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "first"}]},
        {"role": "assistant", "content": "second", "refusal": None, "tool_calls": []},
        {"role": "user", "content": "third"},
    ]
    answer = server.ask("one", messages=turns).json()
    sent = [(turn["role"], turn["content"]) for turn in upstream.log[-1].body["messages"]]
    assert sent[0][0] == "system"
    assert "be brief" in sent[0][1]
    assert sent[1:] == [("user", "first"), ("assistant", "second"), ("user", "third")]
    assert "user=third" in answer["choices"][0]["message"]["content"]


def test_parameters_go_to_the_steps_that_write_answers(server: Serving, upstream: FlakyServer) -> None:
    assert server.ask("four", temperature=0.3, top_p=0.5, max_tokens=40, stop=["STOP"]).status_code == 200
    body = upstream.log[-1].body
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"]) == (0.3, 0.5, 40, ["STOP"])
    assert server.ask("four", max_tokens=100_000).status_code == 200
    assert upstream.log[-1].body["max_tokens"] == 512, "a request cannot raise the pipeline's own limit"


def test_a_run_records_the_pipeline_that_truly_ran(server: Serving, folder: Path) -> None:
    run = server.run(server.ask("four", temperature=0.3))
    with Store.open(f"sqlite:///{folder / 's.db'}") as store:
        assert "temperature: 0.3" in store.pipeline(str(run["pipeline"]))


def test_an_answer_ends_before_a_stop_string(server: Serving) -> None:
    choice = server.ask("one", stop="STOP").json()["choices"][0]
    assert choice["message"]["content"].endswith("] ")
    assert choice["finish_reason"] == "stop"


def test_an_answer_cut_at_its_limit_says_so(server: Serving) -> None:
    choice = server.ask("one", max_tokens=2).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"].split()) == 2


def test_n_answers_are_runs_of_their_own(server: Serving) -> None:
    response = server.ask("four", n=3)
    answer = response.json()
    runs = answer["inferloom"]["runs"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({run["run"] for run in runs}) == 3
    assert response.headers["x-inferloom-run"].split(",") == [run["run"] for run in runs]
    assert answer["usage"]["completion_tokens"] == sum(run["usage"]["completion_tokens"] for run in runs)
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1


def test_the_same_seed_gives_the_same_draws_without_a_call(server: Serving, upstream: FlakyServer) -> None:
    first = server.ask("four", seed=7).json()
    made = len(upstream.log)
    again = server.ask("four", seed=7).json()
    assert again["choices"] == first["choices"]
    assert again["inferloom"]["runs"][0]["billed"]["calls"] == 0
    assert len(upstream.log) == made
    assert server.ask("four", seed=8).json()["choices"] != first["choices"]
    assert server.ask("four").json()["choices"] != server.ask("four").json()["choices"]


def test_logprobs_are_those_of_the_answers_own_tokens(server: Serving) -> None:
    choice = server.ask("one", logprobs=True).json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert all(token["logprob"] < 0 for token in tokens)
    assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
    assert server.ask("one").json()["choices"][0]["logprobs"] is None


def test_a_run_that_its_budget_stops_hands_on_its_best_and_says_so(server: Serving) -> None:
    answer = server.ask("tight").json()
    assert answer["inferloom"]["runs"][0]["stopped"] == "budget"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 2.5}, "temperature", "`temperature` is 2.5: it must be less than or equal to 2"),
    ({"temperature": 0}, "temperature", "compares 4 draws of one model at steps/0 (sample)"),
    ({"temperature": "1"}, "temperature", '`temperature` is "1": it must be a valid number'),
    ({"max_tokens": 0}, "max_tokens", "`max_tokens` is 0: it must be greater than or equal to 1"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "send one of them"),
    ({"n": 5}, "n", "`n` is 5; it must be from 1 to 4"),
    ({"stop": ["a", 3]}, "stop.1", "`stop.1` is 3: it must be a valid string"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4 items"),
    ({"top_logprobs": 3}, "top_logprobs", "`top_logprobs` is 3"),
    ({"presence_penalty": 0.5}, "presence_penalty", "`presence_penalty` is 0.5"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "it is not supported here and must be left out"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "only 'text' is supported"),
    ({"temprature": 1}, "temprature", "did you mean `temperature`?"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "send `stream: true` too"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "messages.0.role", "'system', 'developer', 'user'"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "it must be the user's question"),
    ({"messages": [{"role": "user"}]}, "messages.0", "a message must have `content`"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "a tool's message has `tool_call_id`"),
    ({"tool_choice": "required"}, "tool_choice", "left out where there are no tools"),
    ({"tools": [{"type": "web"}]}, "tools.0.type", "only 'function' is supported"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages", "the last of `messages` is empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "only 'text'"),
    ({"model": "fuor"}, "model", "unknown model `fuor`; did you mean `four`?"),
]


@pytest.mark.parametrize(("wrong", "param", "sentence"), REFUSED, ids=[str(list(case[0].items())) for case in REFUSED])
def test_what_makes_no_sense_is_refused_with_field_value_and_what_is_allowed(
    server: Serving, upstream: FlakyServer, wrong: dict[str, Any], param: str, sentence: str
) -> None:
    calls = len(upstream.log)
    response = server.ask("four", **wrong) if "model" not in wrong else server.ask(wrong["model"])
    error = response.json()["error"]
    assert response.status_code == (404 if "model" in wrong else 400)
    assert error["param"] == param
    assert sentence in error["message"]
    assert len(upstream.log) == calls, "a refused request makes no call"


def test_a_failed_model_is_told_without_its_address(server: Serving, upstream: FlakyServer, folder: Path) -> None:
    upstream.rejects = {"messages"}
    try:
        response = server.ask("one")
    finally:
        upstream.rejects = set()
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["type"] == "model_error"
    assert upstream.base_url not in response.text
    run = error["message"].split("/runs/")[1].split(" ")[0]
    assert server.get(f"/runs/{run}").json()["status"] == "failed"


def test_feedback_scores_a_run(server: Serving) -> None:
    answer = server.ask("one").json()
    scored = server.post("/v1/feedback", {"run": answer["id"], "score": 0.5, "comment": "half right"})
    assert scored.status_code == 201
    run = server.get(f"/runs/{answer['inferloom']['runs'][0]['run']}").json()
    assert [(row["score"], row["grader"], row["comment"]) for row in run["feedback"]] == [(0.5, "user", "half right")]
    assert server.post("/v1/feedback", {"run": "0" * 32, "score": 1}).status_code == 404
    assert server.post("/v1/feedback", {"run": answer["id"], "score": 2}).json()["error"]["param"] == "score"


def test_metrics_count_requests_and_tokens(server: Serving) -> None:
    def figure(line: str) -> float:
        rows = [row for row in server.get("/metrics").text.splitlines() if row.startswith(line)]
        return float(rows[0].split()[-1]) if rows else 0.0

    count, calls = (
        'inferloom_requests_total{pipeline="four",status="200"}',
        'inferloom_calls_total{account="nominal",pipeline="four"}',
    )
    before = figure(count), figure(calls)
    server.ask("four")
    assert (figure(count), figure(calls)) == (before[0] + 1, before[1] + 4)
    assert figure("inferloom_requests_running") == 0


def test_the_official_client_reads_answers_and_errors(server: Serving) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client:
        answer = client.chat.completions.create(model="other", messages=[{"role": "user", "content": "12+34"}])
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.total_tokens > 0
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="four", messages=[{"role": "user", "content": "x"}], temperature=0)
    assert caught.value.param == "temperature"
