from __future__ import annotations

import json

from inferloom.pipelines.plan import plan
from inferloom.pipelines.spec import PipelineSpec

PRICED = """
models:
  small: {model: pocket:small, price: {input: 1, output: 2}, rates: {prefill: 1000, decode: 10}}
  free: pocket:large
budget: {calls: 5, tokens: 100000}
steps:
  - sample: {model: small, n: 4, max_tokens: 100}
  - critique: {model: free, max_tokens: 50}
  - vote
"""


def test_calls_tokens_money_and_seconds_are_bounded() -> None:
    made = plan(PipelineSpec.parse(PRICED), question_tokens=200)
    sample, critique, vote = made.steps
    assert (sample.calls, critique.calls, vote.calls) == ((4, 4), (4, 4), (0, 0))
    assert (sample.at_most.prompt_tokens, sample.at_most.completion_tokens) == (800, 400)
    assert sample.at_most.usd == (800 * 1 + 400 * 2) / 1e6
    assert sample.at_most.seconds == 800 / 1000 + 396 / 10
    # Each review shows the question and one candidate of at most 100 tokens.
    assert (critique.at_most.prompt_tokens, critique.at_most.completion_tokens) == (4 * 300, 200)
    assert made.calls == (8, 8)
    assert made.at_most.calls == 8
    assert made.over_budget == ("calls",)
    assert made.unpriced == ("free",)


def test_a_plan_is_plain_json() -> None:
    made = plan(PipelineSpec.load("archon_classic"))
    data = made.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["calls"] == [made.calls[0], made.calls[1]]


def test_a_model_named_twice_is_counted_once_per_call() -> None:
    text = "models: {a: pocket:small, b: pocket:large}\nsteps: [{sample: {model: [a, b], n: 3, max_tokens: 10}}]\n"
    made = plan(PipelineSpec.parse(text), question_tokens=7)
    assert (made.at_most.calls, made.at_most.prompt_tokens, made.at_most.completion_tokens) == (6, 42, 60)
