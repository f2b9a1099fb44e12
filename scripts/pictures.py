"""Makes the pictures of README and docs: the demo's search in the terminal, its report, and the page of a run.

    make pictures

A search of its own in a temporary folder, so that the terminal's view is one of a search under way.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from inferloom.evaluation.data import DataSpec, load_items
from inferloom.models.client import Gateway
from inferloom.pipelines.page import write_page
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.job import load_job
from inferloom.search.progress import Event, State, render
from inferloom.search.reporting import write_report
from inferloom.search.study import run_study
from inferloom.serving.page import run_page
from inferloom.store import Store
from tests_browser import browser

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MOST = 300_000
"""Bytes of a picture."""
DRAWN_AT = 14
"""Trials after which the terminal is drawn."""

JUDGED = """
name: judged
models: {small: pocket:small, large: pocket:large}
prompts: pocket
steps:
  - sample: {model: small, n: 8}
  - score: {model: large}
  - when:
      if: agreement < 0.9
      then: [sample: {model: large, n: 4}, score: {model: large}, critique: {model: large}]
  - vote: {weight: judge}
"""

# Without the fonts that rich's own frame fetches from the network.
_FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A search under way</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#22272e"/>
<g transform="translate({terminal_x}, 14)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


class Terminal:
    """Draws the live view once, when so many trials are done; says on standard error how far it is."""

    def __init__(self) -> None:
        self.svg = ""

    def on_event(self, event: Event, state: State) -> None:
        """As `Progress`."""
        if event.text:
            sys.stderr.write(f"{event.text}\n")
        if not self.svg and state.trials_done >= DRAWN_AT:
            console = Console(width=78, record=True, file=io.StringIO(), force_terminal=True)
            console.print(render(state))
            self.svg = console.export_svg(code_format=_FRAME, unique_id="search")


async def pages(folder: Path) -> dict[str, Path]:
    """Search, and write the two pages; the terminal's picture goes to its place at once."""
    terminal = Terminal()
    with Store.open(str(folder / "pictures.db")) as store:
        job = load_job("demo")
        command = "inferloom search demo --name demo --out demo"
        result = await run_study(job, store, name="demo", progress=terminal, command=command)
        (PICTURES / "search.svg").write_text(terminal.svg, encoding="utf-8")
        expected = {item.id: item.answer for item in load_items(job.spec.data).items}
        report = write_report(result, folder / "report.html", store, expected)
        run = write_page(run_page(store, await _right_run(store)), folder / "run.html")
    return {"report": report, "run": run}


async def _right_run(store: Store) -> str:
    """A run that took the branch and came out right."""
    pipeline = Pipeline(PipelineSpec.parse(JUDGED), Gateway(store))
    data = load_items(DataSpec(procedural="pocket", count=200, seed=77))
    for item in data.items:
        result = await pipeline.ainvoke(item.question, stream=f"pictures/{item.id}")
        taken = len(store.steps(result.run_id)) == len(pipeline.spec.steps)
        if taken and result.answer == item.answer:
            return result.run_id
    raise SystemExit("no run took the branch and came out right")


def photograph(made: dict[str, Path]) -> None:
    """The upper part of each page."""
    with browser.started() as chromium:
        for name, height in (("report", 1180), ("run", 1640)):
            with browser.opened(chromium, made[name], 1000, "light") as watched:
                watched.page.screenshot(
                    path=PICTURES / f"{name}.png",
                    full_page=True,
                    clip={"x": 0, "y": 0, "width": 1000, "height": height},
                )


def main() -> None:
    """Make them all, and see that none is too large."""
    reason = browser.why_not()
    if reason is not None:
        raise SystemExit(f"error: {reason}")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        photograph(asyncio.run(pages(Path(folder))))
    for picture in sorted(PICTURES.iterdir()):
        size = picture.stat().st_size
        sys.stdout.write(f"{picture.relative_to(ROOT)}: {size:,} bytes\n")
        if size > MOST:
            raise SystemExit(f"error: {picture.name} has more than {MOST:,} bytes")


if __name__ == "__main__":
    main()
