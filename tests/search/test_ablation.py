"""What each step of a winner is worth, and when a search has paid for itself."""

from __future__ import annotations

import pytest

from inferloom.core.types import Json, Usage
from inferloom.evaluation.stats import Interval
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.ablation import without_steps
from inferloom.search.conclude import break_even
from inferloom.search.job import SearchJob
from inferloom.search.result import Entry, MeanUsage
from inferloom.search.study import run_study
from inferloom.store import Store

SAMPLE: Json = {"sample": {"model": "m", "n": 4}}
SCORE: Json = {"score": {"model": "m", "name": "judge"}}


def labels(*steps: Json) -> dict[str, list[str]]:
    spec = PipelineSpec.from_data({"models": {"m": "scripted:constant"}, "steps": list(steps)}, "test")
    return {label: [step.node.name for step in rest.steps] for label, rest in without_steps(spec)}


def test_a_step_goes_with_those_that_need_it() -> None:
    assert labels(SAMPLE, SCORE, {"vote": {"weight": "judge"}}) == {
        "without `score m` and `vote judge`": ["sample"],
        "without `vote judge`": ["sample", "score"],
    }
    assert labels(SAMPLE, "vote") == {"without `vote`": ["sample"]}
    assert labels(SAMPLE) == {}


async def test_a_study_says_what_the_winners_steps_are_worth(store: Store, job: SearchJob) -> None:
    result = await run_study(job, store)
    assert result.ablation
    for comparison in result.ablation:
        assert comparison.name.startswith("without `")
        assert comparison.difference.n == 12
        assert comparison.name in comparison.verdict
    assert result.break_even


def entry(label: str, quality: float, tokens: float) -> Entry:
    return Entry(
        label=label,
        kind="baseline",
        pipeline_yaml="",
        pipeline_hash="",
        dev=None,
        confirm=None,
        test=Interval(quality, quality, quality, 10),
        nominal=MeanUsage(calls=1, prompt_tokens=0, cached_tokens=0, completion_tokens=tokens, usd=0, seconds=0),
        wall_seconds=0,
    )


@pytest.mark.parametrize(
    ("quality", "tokens", "said"),
    [
        (0.8, 100, "paid for itself after 10 questions: the winner saves 100 tokens on each against `dear`"),
        (0.8, 300, "saves no tokens: it costs 100 more a question than `dear`, the best baseline, for +10.0 points"),
        (0.6, 10, "does not pay for itself: `dear` does better"),
    ],
)
def test_the_search_pays_for_itself_or_does_not(quality: float, tokens: float, said: str) -> None:
    baselines = [entry("cheap", 0.5, 10), entry("dear", 0.7, 200)]
    assert said in break_even(
        entry("winner", quality, tokens), baselines, Usage(prompt_tokens=400, completion_tokens=600)
    )
