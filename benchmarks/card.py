"""What benchmarks share at their end: the command that anyone can run again, and the measured part of a page."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def command_of(target: str) -> str:
    """The make command that this run answers to, as a page names it."""
    words = " ".join(word for word in sys.argv[1:] if word != "--card")
    return f"make {target}" + (f' ARGS="{words}"' if words else "")


def show(text: str, card: Path | None, script: str) -> None:
    """Print what was measured and, where a page is named, write it there in place of what was measured before."""
    sys.stdout.write(text)
    if card is not None:
        mark = f"<!-- measured: written by benchmarks/{Path(script).name} -->"
        before = card.read_text(encoding="utf-8").split(mark)[0]
        card.write_text(f"{before}{mark}\n\n{text}", encoding="utf-8")
