"""What a reader sees: every page whole, within its window, readable in both colour schemes, and inert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.serving.hostile import BREAKOUTS
from tests_browser.browser import SCHEMES, WIDTHS, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KINDS = ("report", "charts", "run", "long run", "stopped run", "failed run", "hostile run", "hostile report")
SECTIONS = {
    "report": ["Score against cost", "Front and baselines", "What mattered", "Item by item", "What it cost"],
    "charts": [],
    "run": ["The pipeline, and what ran", "When", "Candidates, step by step", "What it cost", "Every call"],
    "long run": ["When", "Candidates, step by step", "What it wrote to memories", "Every call"],
    "failed run": ["The pipeline, and what ran", "When", "What it cost", "Every call"],
}

# Elements with text of their own that reach beyond the window, and stand in nothing that scrolls.
_BEYOND = """() => [...document.querySelectorAll('body *')].filter(element => {
  if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) return false;
  const written = document.createRange();
  written.selectNodeContents(element);
  const box = written.getBoundingClientRect();
  if (!box.width || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
  for (let up = element; up; up = up.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX)) return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120))"""

# Texts of pictures that stick out of their picture.
_CUT = """() => [...document.querySelectorAll('svg text')].filter(text => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
}).map(text => text.textContent)"""

# Contrast (WCAG 2) of a text with what is behind it, for every element with text of its own: the faintest.
_CONTRAST = """() => {
  const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let worst = [99, ''];
  for (const element of document.querySelectorAll('body *:not(svg *):not(script)')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    let behind = element;
    while (behind && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor]
      .map(colour => light(parts(colour)) + 0.05);
    const ratio = Math.max(a, b) / Math.min(a, b);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
  }
  return worst;
}"""


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_quiet_and_readable(
    pages: dict[str, Path], browser: Browser, kind: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    with opened(browser, pages[kind], width, scheme) as watched:
        page = watched.page
        for heading in SECTIONS.get(kind, []):
            assert page.get_by_role("heading", name=heading, exact=True).is_visible(), heading
        for unfolded in (False, True):
            if unfolded:
                open_all(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
            assert page.evaluate(_BEYOND) == []
            assert page.evaluate(_CUT) == []
            ratio, faintest = page.evaluate(_CONTRAST)
            assert ratio >= 4.5, f"{faintest} has a contrast of {ratio:.2f}"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part < 64)")
        assert dark == (scheme == "dark")
        assert watched.said == []
        assert watched.fetched == []


@pytest.mark.parametrize("kind", ["hostile run", "hostile report"])
def test_hostile_text_is_shown_and_does_nothing(pages: dict[str, Path], browser: Browser, kind: str) -> None:
    with opened(browser, pages[kind], 1280, "light") as watched:
        page = watched.page
        open_all(page)
        page.wait_for_timeout(300)
        assert page.url == pages[kind].resolve().as_uri()
        assert page.evaluate("window.hacked") is None
        assert page.locator("iframe, img, object, embed, base, form, a[href^=javascript]").count() == 0
        assert page.locator("script").count() == 1
        shown = page.locator("body").inner_text()
        for breakout in BREAKOUTS[:5]:
            assert breakout in shown
        assert (watched.said, watched.fetched) == ([], [])


@pytest.mark.parametrize("kind", ["report", "charts", "run"])
def test_even_a_script_that_got_in_is_not_run(pages: dict[str, Path], browser: Browser, kind: str) -> None:
    with opened(browser, pages[kind], 1280, "light") as watched:
        watched.page.evaluate(
            """() => {
              const script = document.createElement('script');
              script.textContent = 'window.hacked = 1';
              document.body.append(script);
              const picture = '<img src="https://example.com/x" onerror="window.hacked = 2">';
              document.body.insertAdjacentHTML('beforeend', picture);
            }"""
        )
        watched.page.wait_for_timeout(200)
        assert watched.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in said for said in watched.said)


@pytest.mark.parametrize("kind", ["report", "run"])
def test_what_is_to_be_copied_can_be_copied(pages: dict[str, Path], browser: Browser, kind: str) -> None:
    with opened(browser, pages[kind], 1280, "light") as watched:
        open_all(watched.page)
        watched.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        button = watched.page.locator("[data-copy]").first
        button.click()
        button.filter(has_text="copied").wait_for()
        copied = watched.page.evaluate("navigator.clipboard.readText()")
        assert copied.strip() == watched.page.locator(".copied pre").first.inner_text().strip()


def test_a_link_to_a_candidate_opens_what_holds_it(pages: dict[str, Path], browser: Browser) -> None:
    with opened(browser, pages["run"], 1280, "light") as watched:
        link = watched.page.locator("details[open] a[href^='#c-']").first
        target = watched.page.locator(f"[id='{str(link.get_attribute('href'))[1:]}']")
        assert not target.is_visible()
        link.click()
        assert target.is_visible()
