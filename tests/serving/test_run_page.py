"""A run's page says what the database has of it, whatever became of the run, and holds no markup of a model's."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from inferloom.core.errors import RequestRejectedError, UnknownNameError
from inferloom.core.types import Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines import step_view
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.serving import run_view
from inferloom.serving.page import run_page
from inferloom.serving.waterfall import waterfall
from inferloom.store import Store
from tests.serving import hostile

ROOT = Path(__file__).parents[2]


def _say(request: Request, seed: int) -> str:
    said = request.messages[-1].content
    if "break" in said and "<solution>" in said:
        raise RequestRejectedError("the server said no")
    if "single digit from 0" in said:
        return str(seed % 10)
    if "<solution>" in said:
        return f"remark {seed % 7}"
    return f"thought {seed}\nA: {seed % 3}"


register_backend("page-writer", ScriptedBackend(_say, name="page-writer"))

VOTE = """
name: looked at
models: {m: scripted:page-writer}
steps:
  - sample: {model: m, n: 5}
  - critique: {model: m}
  - score: {model: m}
  - when: {if: "candidates > 90", then: [{score: {model: m}}]}
  - vote: {weight: judge}
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/run.db") as opened:
        yield opened


def pipeline(store: Store, text: str = VOTE) -> Pipeline:
    return Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store))


class Page(HTMLParser):
    """Words, tags and addresses of a page, and the text under each id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.ids: set[str] = set()
        self._at = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._at = tag
        values = dict(attrs)
        self.fetched += [
            str(values[name]) for name in ("src", "href", "xlink:href", "data", "srcset") if name in values
        ]
        self.handlers += [name for name in values if name.startswith("on")]
        if values.get("id"):
            self.ids.add(str(values["id"]))

    def handle_data(self, data: str) -> None:
        if self._at not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


async def test_it_shows_graph_candidates_scores_critiques_calls_and_costs(store: Store) -> None:
    result = await pipeline(store).ainvoke("how much?", tag="mine")
    html = run_page(store, result.run_id[:8])
    page = Page(html)
    assert page.ids >= {"question", "outcome", "graph", "timing", "steps", "costs", "calls", "yaml"}
    for promised in ("Run " + result.run_id[:12] + " of looked at", "how much?", "tag mine", "5 out, 1 call", "judge"):
        assert promised in page.text, promised
    report = store.usage(result.run_id)
    assert f"{report.nominal.tokens:,} tokens" in page.text
    for row in store.candidates(result.run_id):
        assert row.candidate.id in page.ids or f"c-{row.candidate.id}" in page.ids
        assert " ".join(row.candidate.text.split()) in page.text
        for critique in row.candidate.critiques:
            assert critique in page.text
    # What was asked stands there once for each different prompt, and every reply of a judge does.
    assert page.text.count("asked") - page.text.count("asked as in") >= len(store.prompts_of(result.run_id))
    assert html.count('class="call billed"') == len(store.calls(result.run_id))
    assert html.count("<g opacity") == 1, "the branch that was not taken is faint"


async def test_a_run_from_the_bank_says_that_nothing_was_billed(store: Store) -> None:
    flow = pipeline(store)
    await flow.ainvoke("q", stream="s")
    again = await flow.ainvoke("q", stream="s")
    html = run_page(store, again.run_id)
    assert 'class="call billed"' not in html
    assert html.count('class="call bank"') == len(store.calls(again.run_id))
    assert re.search(r"billed this time</dt><dd>0 tokens<small>0 calls", html)
    # The replies of judges come from the bank as well.
    assert "remark" in Page(html).text


async def test_a_failed_run_says_why_and_shows_what_came_before(store: Store) -> None:
    with pytest.raises(RequestRejectedError):
        await pipeline(store).ainvoke("break it")
    store.flush()
    page = Page(run_page(store, store.runs()[0].id))
    assert "Failed: " in page.text
    assert "the server said no" in page.text
    assert "not ended" in page.text


async def test_a_stopped_run_says_so(store: Store) -> None:
    result = await pipeline(store, VOTE + "budget: {calls: 7}\n").ainvoke("q")
    assert result.stopped == "budget"
    page = Page(run_page(store, result.run_id))
    assert "Stopped: budget." in page.text
    assert f"The best answer by then: {result.answer}" in page.text


def test_a_killed_run_shows_what_was_committed(tmp_path: Path) -> None:
    file = tmp_path / "killed.db"
    child = subprocess.Popen([sys.executable, "-m", "tests.serving.child_run", str(file)], cwd=ROOT)
    try:
        with Store.open(str(file)) as store:
            while not (runs := store.runs()) or not store.calls(runs[0].id):
                assert child.poll() is None
                time.sleep(0.05)
            child.kill()
            child.wait()
            page = Page(run_page(store, runs[0].id))
    finally:
        child.kill()
    assert "Not ended: 1 calls are committed" in page.text
    assert "steps/0 not ended" in page.text
    assert page.text.count("reply") == 3, "the three draws that the first node waited for"


def test_an_unknown_run_gets_one_sentence(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="unknown run `nothing`"):
        run_page(store, "nothing")


async def test_what_a_model_wrote_is_text_and_never_markup(store: Store) -> None:
    result = await pipeline(store, hostile.PIPELINE).ainvoke(hostile.TEXT, tag=hostile.TEXT, item=hostile.TEXT)
    page = Page(run_page(store, result.run_id))
    plain = Page(run_page(store, (await pipeline(store).ainvoke("q")).run_id))
    assert set(page.tags) <= set(plain.tags)
    assert page.tags.count("script") == page.tags.count("style") == page.tags.count("meta") - 2 == 1
    assert page.handlers == []
    assert all(address.startswith("#") for address in page.fetched)
    assert "<script>window.hacked = 1</script>" in page.text, "it is shown as it is"
    assert "{{ 7 * 7 }}" in page.text


async def test_long_texts_are_cut_and_a_page_has_its_limits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TEXT", 40), ("PAGE", 300), ("ROWS", 3)):
        monkeypatch.setattr(step_view, name, value)
    monkeypatch.setattr(run_view, "ROWS", 3)
    result = await pipeline(store).ainvoke("how much?" * 50)
    page = Page(run_page(store, result.run_id))
    assert "more characters are not shown" in page.text
    assert "2 more candidates are not shown" in page.text
    calls = len(store.calls(result.run_id))
    assert f"3 lines of the ledger; {calls - 3} more are not shown" in page.text


async def test_bars_lie_within_the_axis_and_calls_at_once_lie_below_one_another(store: Store) -> None:
    result = await pipeline(store).ainvoke("q")
    run, steps, calls = store.run(result.run_id), store.steps(result.run_id), store.calls(result.run_id)
    picture = waterfall(run, steps, calls)
    assert [band.label for band in picture.bands] == [f"{step.path} {step.node}" for step in steps]
    bars = [bar for band in picture.bands for bar in (band.step, *band.calls) if bar is not None]
    assert all(bar.left >= 0 and bar.width >= 0 and bar.left + bar.width <= 100.01 for bar in bars)
    assert sum(len(band.calls) for band in picture.bands) == len(calls)
    for band in picture.bands:
        for lane in range(band.lanes):
            row = sorted((bar.left, bar.left + bar.width) for bar in band.calls if bar.lane == lane)
            assert all(one[1] <= other[0] + 1e-6 for one, other in pairwise(row))


async def test_what_a_run_wrote_to_a_memory_is_shown(store: Store) -> None:
    text = """
models: {m: scripted:page-writer}
steps:
  - sample: {model: m}
  - curate: {memory: lessons, mode: full_history}
"""
    result = await pipeline(store, text).ainvoke("how much?")
    page = Page(run_page(store, result.run_id))
    assert "memories" in page.ids
    assert "lessons" in page.text
    assert "example: used" in page.text
    plain = await pipeline(store).ainvoke("q")
    assert "memories" not in Page(run_page(store, plain.run_id)).ids
