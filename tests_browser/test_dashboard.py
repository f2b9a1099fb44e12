"""optuna-dashboard works on the database of a study: its interface knows the study, its trials and their values."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest

from inferloom.search.job import SearchJob
from inferloom.search.result import StudyResult
from tests.search import workload
from tests_browser.browser import apart

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAM = Path(__file__).parents[1] / ".venv-dashboard" / "bin" / "optuna-dashboard"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, StudyResult]:
    """A finished study and the URL of its database."""
    folder = tmp_path_factory.mktemp("dashboard")
    job = SearchJob.load(workload.job_text(workload.write_items(folder), trials=16))
    return f"sqlite:///{folder}/s.db", apart(workload.search(f"{folder}/s.db", job, "adding"))


@pytest.fixture(scope="module")
def dashboard(study: tuple[str, StudyResult]) -> Iterator[str]:
    """The address of a running dashboard on the study's database."""
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not there (make test-browser makes it)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PROGRAM), study[0], "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert process.poll() is None, "the dashboard did not start"
            try:
                ask(f"{address}/api/studies")
                break
            except URLError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return json.load(reply)


def test_its_interface_has_the_study_and_every_trial(study: tuple[str, StudyResult], dashboard: str) -> None:
    result = study[1]
    (summary,) = ask(f"{dashboard}/api/studies")["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == ("adding", ["maximize", "minimize"])
    trials = ask(f"{dashboard}/api/studies/{summary['study_id']}")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"] * len(result.trials)
    for theirs, ours in zip(trials, result.trials, strict=True):
        assert {param["name"] for param in theirs["params"]} == set(ours.values)
        if ours.status in ("done", "duplicate") and ours.dev is not None and ours.nominal is not None:
            assert theirs["values"] == pytest.approx([ours.dev.mean, ours.nominal.tokens])


def test_its_page_shows_the_study(browser: Browser, study: tuple[str, StudyResult], dashboard: str) -> None:
    page = browser.new_page()
    page.goto(f"{dashboard}/dashboard/")
    page.get_by_text("adding").first.wait_for(timeout=20_000)
    page.close()
