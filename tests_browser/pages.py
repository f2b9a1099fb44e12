"""Every kind of page that inferloom writes, made from real runs and searches on scripted models."""

from __future__ import annotations

from pathlib import Path

from inferloom.core.errors import ModelError
from inferloom.evaluation.data import load_items
from inferloom.evaluation.samples import scalings
from inferloom.models.client import Gateway
from inferloom.pipelines.page import write_page
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.job import SearchJob
from inferloom.search.reporting import write_report
from inferloom.search.reporting.scaling import write_scaling
from inferloom.search.study import run_study
from inferloom.serving.page import run_page
from inferloom.store import Store
from tests.search import workload
from tests.serving import hostile, test_run_page

LONG = """
name: many-candidates-under-a-name-that-does-not-want-to-end-anywhere-soon
models: {m: scripted:page-writer}
nodes:
  left: {sample: {model: m, n: 40}}
  right: {sample: {model: m, n: 40}}
  read: {recall: {memory: lessons}}
  grade: {score: {model: m}}
  more: {critique: {model: m}}
  pick: {vote: {weight: judge}}
  learn: {curate: {memory: lessons, mode: full_history}}
edges:
  - [read, left, grade]
  - [read, right, grade]
  - [grade, pick]
  - {from: grade, to: more, when: "agreement < 0.01"}
  - [more, pick, learn]
"""


async def make(folder: Path) -> dict[str, Path]:
    """The pages by name."""
    pages: dict[str, Path] = {}
    with Store.open(str(folder / "pages.db")) as store:
        job = SearchJob.load(workload.job_text(workload.write_items(folder), trials=24))
        result = await run_study(job, store, name="adding")
        data = load_items(job.spec.data, base=job.base)
        expected = {item.id: item.answer for item in data.items}
        pages["report"] = write_report(result, folder / "report.html", store, expected)
        found = scalings(store, data.items, data.grader, study="adding", at_least=2)
        pages["charts"] = folder / "charts.html"
        write_scaling(found[:2], pages["charts"])
        for name, text, question in (
            ("run", test_run_page.VOTE, "how much?"),
            ("long run", LONG, "how much? " * 400),
            ("stopped run", test_run_page.VOTE + "budget: {calls: 7}\n", "how much?"),
            ("failed run", test_run_page.VOTE, "break it"),
            ("hostile run", hostile.PIPELINE, hostile.TEXT),
        ):
            pages[name] = await _run(store, text, question, folder / f"{name}.html")
        hostile_job = SearchJob.load(_hostile_job(folder))
        result = await run_study(hostile_job, store, name=hostile.BREAKOUTS[0])
        right = {item.id: hostile.TEXT for item in load_items(hostile_job.spec.data).items}
        pages["hostile report"] = write_report(result, folder / "hostile report.html", store, right)
    return pages


async def _run(store: Store, text: str, question: str, file: Path) -> Path:
    pipeline = Pipeline(PipelineSpec.parse(text), Gateway(store))
    try:
        run = (await pipeline.ainvoke(question)).run_id
    except ModelError:
        store.flush()
        run = store.runs(1)[0].id
    return write_page(run_page(store, run), file)


def _hostile_job(folder: Path) -> str:
    return f"""\
name: hostile
data: {{file: {workload.write_items(folder)}, grader: numeric}}
split: {{dev: 6, confirm: 3, test: 6}}
trials: 2
finalists: 1
space:
  models: {{m: scripted:hostile}}
  steps:
    - sample: {{model: m, n: {{choice: [2, 3]}}, system: "{hostile.BREAKOUTS[0]}"}}
    - critique: {{model: m}}
    - vote
"""
