"""What the pages share (a study's report, a run's page, coverage charts): the frame, how figures read, writing a file.

A page is one file that fetches nothing and runs one script, which its security policy names by hash: should a text that
a model wrote ever get past the escaping, a browser still runs none of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from inferloom.core.errors import SetupError

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str) -> Environment:
    """Templates of a package over those that every page shares; every value is escaped.

    `page.html.j2` is the frame, `parts.html.j2` holds macros; the functions below are filters by their names.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("inferloom.pipelines")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (Path(__file__).parent / "templates" / "copy.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        script=Markup(script),
        policy=Markup(
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'"
        ),
    )
    environment.filters.update(
        percent=percent,
        short=short,
        points=points,
        money=money,
        count=count,
        number=number,
        date=date,
        duration=duration,
    )
    return environment


def write_page(html: str, path: str | Path) -> Path:
    """Write a page; an older file of that name is replaced in one step.

    Raises:
        SetupError: The file cannot be written.
    """
    target = Path(path)
    try:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(html)
            Path(draft).chmod(0o644)
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SetupError(f"the page cannot be written: {error.strerror or error}", where=str(target)) from None
    return target


def percent(value: float) -> str:
    """A score: `79.0%`."""
    return f"{100 * value:.1f}%"


def short(value: float) -> str:
    """A count in at most five characters: 950, 1.2k, 35k, 4.1M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.1f}".removesuffix(".0") + suffix if scaled < 99.95 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def points(value: float) -> str:
    """A difference of scores in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def money(value: float) -> str:
    """US dollars."""
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.2g}"


def count(value: float) -> str:
    """A whole number: `24,512`."""
    return f"{value:,.0f}"


def number(value: float) -> str:
    """Three significant digits or all digits before the point."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def date(seconds: float) -> str:
    """A moment (Unix seconds) to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """A span of time: `12 ms`, `4.2 s`, `2 min 11 s`, `3 h 4 min`."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.0005 or seconds == 0 else "< 1 ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
