"""The report is one file that needs nothing else, says what was found, and lets no label cover another."""

from __future__ import annotations

import asyncio
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferloom.core.errors import SetupError
from inferloom.core.types import Usage
from inferloom.evaluation import Interval
from inferloom.evaluation.data import load_items
from inferloom.pipelines.page import short
from inferloom.search.importance import importance
from inferloom.search.job import SearchJob
from inferloom.search.reporting import render_report, write_report
from inferloom.search.reporting.charts import Point, front_chart, history_chart
from inferloom.search.result import Comparison, Entry, Kind, MeanUsage, StudyResult, TrialSummary
from inferloom.search.samplers import Told
from inferloom.search.space import Space
from inferloom.search.study import run_study
from inferloom.store import Store
from tests.search import workload

YAML = """name: winner
models:
  small: pocket:small
  large: pocket:large
steps:
  - sample: {model: small, n: 8}
  - vote
"""


def entry(label: str, kind: Kind, tokens: float, mean: float, *, tested: bool = True) -> Entry:
    interval = Interval(mean, max(0.0, mean - 0.04), min(1.0, mean + 0.04), 400)
    return Entry(
        label=label,
        kind=kind,
        pipeline_yaml=YAML,
        pipeline_hash=label,
        dev=interval,
        test=interval if tested else None,
        nominal=MeanUsage(calls=tokens / 60, prompt_tokens=tokens * 0.4, completion_tokens=tokens * 0.6, seconds=0.02),
        wall_seconds=3.0,
        trial=None if kind == "baseline" else int(tokens),
    )


def study(*, tested: bool = True, name: str = "demo", verdict: str = "The winner beats them all.") -> StudyResult:
    front = [
        entry("trial 3", "front", 61, 0.41, tested=tested),
        entry("trial 17", "front", 240, 0.62, tested=tested),
        entry("trial 30", "front", 920, 0.78, tested=tested),
        entry("trial 22", "front", 980, 0.79, tested=tested),
    ]
    baselines = [
        entry("small, one call", "baseline", 60, 0.40, tested=tested),
        entry("large, one call", "baseline", 95, 0.63, tested=tested),
        entry("self-consistency, small, equal tokens", "baseline", 930, 0.66, tested=tested),
        entry("self-consistency, large, equal tokens", "baseline", 950, 0.74, tested=tested),
        entry("best of 10 by the large model", "baseline", 990, 0.71, tested=tested),
    ]
    trials = [
        TrialSummary(
            number=number,
            batch=number // 8,
            status="duplicate" if number % 7 == 6 else "infeasible" if number % 11 == 10 else "done",
            values={"n": number, "model": "small"},
            pipeline_hash=f"{number}",
            dev=None if number % 11 == 10 else Interval(0.4 + 0.3 * ((number * 37) % 40) / 40, 0.3, 0.8, 120),
            nominal=None if number % 11 == 10 else MeanUsage(calls=1 + number % 9, completion_tokens=60.0),
            duplicate_of=2 if number % 7 == 6 else None,
        )
        for number in range(40)
    ]
    comparisons = [
        Comparison(name="large, one call", difference=Interval(0.16, 0.11, 0.21, 400), verdict="The winner is better."),
        Comparison(
            name="self-consistency, large, equal tokens",
            difference=Interval(0.02, -0.01, 0.06, 400),
            verdict="The search did not beat equal-token self-consistency: the interval holds zero.",
        ),
        Comparison(name="oracle", difference=Interval(-0.1, -0.14, -0.06, 400), verdict="The winner is worse."),
    ]
    return StudyResult(
        study=name,
        job="study: demo\n",
        objectives=["score", "tokens"],
        winner=entry("trial 22", "winner", 980, 0.79, tested=tested),
        front=front,
        baselines=baselines,
        trials=trials,
        comparisons=comparisons if tested else [],
        verdict=verdict,
        billed=Usage(calls=24512, prompt_tokens=812_000, completion_tokens=1_204_000, seconds=81.2),
        nominal=Usage(calls=88010, prompt_tokens=2_812_000, completion_tokens=4_204_000, seconds=281.2),
        test_touches=1,
        sizes={"dev": 120, "confirm": 100, "test": 400},
        points=1296,
        stopped=None,
        seconds=131.0,
        created=1_790_000_000.0,
        command="inferloom search examples/demo.yaml --study demo",
    )


class Reader(HTMLParser):
    """Collects the text, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [
            str(values[name]) for name in ("src", "href", "xlink:href", "data", "srcset") if name in values
        ]
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    path = write_report(study(), tmp_path / "report.html")
    html = path.read_text(encoding="utf-8")
    assert [address for address in read(html).fetched if not address.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_it_says_what_was_found_and_how_to_find_it_again() -> None:
    text = " ".join(" ".join(read(render_report(study())).words).split())
    for promised in (
        "The winner beats them all.",
        "did not beat equal-token self-consistency",
        "79.0%",
        "[75.0%, 83.0%]",
        "+2.0",
        "[−1.0, +6.0]",
        "24,512",
        "inferloom search examples/demo.yaml --study demo",
        "sample: {model: small, n: 8}",
        "1,296 pipelines",
        "2026-09-21",
        "2 min 11 s",
    ):
        assert promised in text, promised


def test_what_a_user_wrote_is_text_and_never_markup() -> None:
    html = render_report(study(name="<script>alert(1)</script>", verdict='"><img src=x>'))
    assert "<script>alert" not in html
    assert "<img" not in html


def test_the_winner_is_drawn_once_and_every_pipeline_has_its_key() -> None:
    html = render_report(study())
    wide = html[html.index('class="chart wide"') : html.index("</svg>")]
    assert wide.count('class="mark winner"') == 1
    assert wide.count('class="mark front"') == 3
    assert wide.count('class="mark baseline"') == 5
    assert set(re.findall(r'class="key \w+">(\w+)<', html)) == {"1", "2", "3", "4", "A", "B", "C", "D", "E"}


def test_a_study_that_stopped_before_its_test_says_so() -> None:
    html = render_report(study(tested=False))
    assert "stopped before the test" in html
    assert "score on dev" in html
    assert "The winner against each baseline" not in html


def test_a_bank_that_had_it_all_is_said_so() -> None:
    from dataclasses import replace

    assert "Nothing was billed" in render_report(replace(study(), billed=Usage()))
    assert "Nothing was billed" not in render_report(study())


def test_a_winner_that_this_version_cannot_read_costs_only_its_picture() -> None:
    from dataclasses import replace

    result = study()
    html = render_report(replace(result, winner=replace(result.winner, pipeline_yaml="steps: [gone: {}]")))
    assert "gone" in html
    assert 'class="graph' not in html


def test_a_study_without_trials_or_baselines_is_still_a_report() -> None:
    from dataclasses import replace

    assert "demo" in render_report(replace(study(), trials=[], baselines=[], comparisons=[], front=[]))


def test_a_place_that_cannot_be_written_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"missing/report\.html: the page cannot be written: No such file"):
        write_report(study(), tmp_path / "missing" / "report.html")


def boxes(chart_marks: object) -> list[tuple[float, float, float, float]]:
    found = []
    for mark in chart_marks:  # type: ignore[attr-defined] # a tuple of marks
        width = 6.4 * len(mark.label)
        start = {"start": 0.0, "middle": width / 2, "end": width}[mark.anchor]
        found.append((mark.label_x - start, mark.label_y - 6, mark.label_x - start + width, mark.label_y + 6))
    return found


@pytest.mark.parametrize(("width", "names"), [(860.0, True), (380.0, False)])
@settings(max_examples=30, deadline=None)
@given(
    spots=st.lists(st.tuples(st.floats(40, 4000), st.floats(0.2, 0.95)), min_size=1, max_size=12),
)
def test_labels_cover_neither_one_another_nor_the_edge(
    width: float, names: bool, spots: list[tuple[float, float]]
) -> None:
    points = [
        Point(
            key=str(index),
            label="self-consistency, large" if index % 2 else "",
            kind="baseline" if index % 2 else "front",
            tokens=tokens,
            score=Interval(mean, mean - 0.04, mean + 0.04, 100),
            title="",
        )
        for index, (tokens, mean) in enumerate(spots)
    ]
    chart = front_chart(points, width=width, height=430, split="test", names=names)
    placed = boxes(chart.marks)
    for index, one in enumerate(placed):
        assert one[0] >= 0
        assert one[2] <= width
        for other in placed[index + 1 :]:
            assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


def test_the_best_so_far_never_falls_and_duplicates_cost_nothing() -> None:
    chart = history_chart(study().trials, width=860, height=300)
    assert chart is not None
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", chart.line)]
    assert heights == sorted(heights, reverse=True)
    duplicate = next(index for index, dot in enumerate(chart.dots) if dot.kind == "duplicate")
    assert chart.dots[duplicate].x == chart.dots[duplicate - 1].x
    assert history_chart([], width=860, height=300) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (4.25, "4.2"), (61, "61"), (950, "950"), (999.9, "1k"), (1240, "1.2k"), (4.1e6, "4.1M")],
)
def test_short_counts(value: float, text: str) -> None:
    assert short(value) == text


def test_a_store_adds_the_items_with_every_candidate_and_score_of_the_winner(store: Store, job: SearchJob) -> None:
    result = asyncio.run(run_study(job, store, name="items"))
    expected = {item.id: item.answer for item in load_items(job.spec.data, base=job.base).items}
    html = render_report(result, store, expected)
    text = " ".join(" ".join(read(html).words).split())
    rows = [row for row in store.evaluations("items", "test") if row.pipeline == result.winner.pipeline_hash]
    assert html.count('class="step item"') == len(rows) > 0
    first_wrong = [row.score for row in rows]
    assert html.index("✗") < html.index("✓") or 0.0 not in first_wrong
    for row in rows:
        assert f"item {row.item}, run {row.run}; right answer: {expected[row.item]}" in text
        for candidate in store.candidates(row.run):
            assert " ".join(candidate.candidate.text.split()) in text
            for name in candidate.candidate.scores:
                assert name in text
    ids = re.findall(r' id="(c-[^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(c-[^"]+)"', html)) <= set(ids)


def test_what_mattered_is_shown_by_choice_and_value() -> None:
    from dataclasses import replace

    html = render_report(replace(study(), importance={"n": 0.7, "model": 0.3}))
    assert "70%" in html[html.index('id="importance"') :]
    few = render_report(study())
    assert "too few trials to say how much each choice matters" in few


def test_importance_finds_the_hole_that_decides() -> None:
    space = Space.load(workload.SPACE)
    rng = random.Random(4)
    told = []
    for _ in range(60):
        values = space.sample(rng)
        large = next(value for value in values.values() if value in ("small", "large")) == "large"
        told.append(Told(values, (0.8 * large + 0.01 * rng.random(), 1.0)))
    found = importance(space, told)
    assert sum(found.values()) == pytest.approx(1)
    model = next(name for name in found if name.endswith("model"))
    assert next(iter(found)) == model
    assert importance(space, told[:19]) == {}
    assert importance(space, [Told(one.values, (0.5, 1.0)) for one in told]) == {}
