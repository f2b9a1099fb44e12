"""A headless Chromium of this machine, and a page that notes whatever must not happen."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

T = TypeVar("T")

WIDTHS = (1280, 400)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def why_not() -> str | None:
    """Why no browser can be started here; None where one can."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (make test-browser installs it)"
    if executable() is None:
        return "no Chromium was found (Debian, Ubuntu: apt install chromium), and INFERLOOM_CHROMIUM names none"
    return None


def executable() -> str | None:
    """The browser's program: that of INFERLOOM_CHROMIUM, else the first that is on the path."""
    named = os.environ.get("INFERLOOM_CHROMIUM")
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root may not use the sandbox, and containers run as root; the pages are our own and fetch nothing.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def apart(work: Coroutine[object, object, T]) -> T:
    """What a coroutine comes to, run in a thread of its own: Playwright keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@dataclass
class Watched:
    """A page with what it said on the console, what it threw, and what it asked the network for."""

    page: Page
    said: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, file: Path, width: int, scheme: Literal["light", "dark"]) -> Iterator[Watched]:
    """A page of a file, in a window of its own."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched = Watched(context.new_page())
    page, address = watched.page, file.resolve().as_uri()
    page.on("console", lambda message: watched.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: watched.said.append(str(error)))
    page.on("request", lambda request: None if request.url == address else watched.fetched.append(request.url))
    try:
        page.goto(address)
        yield watched
    finally:
        context.close()
