"""A process that compares mathematical expressions, run by the grader `math`.

It is started as a script and reads pairs of expressions as JSON, a line each. Symbolic work can run for ever or fill
the memory, so it happens here, where a limit on memory holds and which the grader can end. It imports nothing of ours.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from contextlib import suppress

MEMORY = 4 << 30
"""Bytes of address space."""
MARKS = ("$", "\\(", "\\[", "\\boxed")
"""One of these in a text says that it marks by itself where its mathematics is."""


def compare(right: str, given: str | None) -> dict[str, bool]:
    """Whether the right expression can be read, and whether the given one is equal to it."""
    from math_verify import parse, verify

    # The library's own time-outs are signals, which are off here: whoever runs this process ends it.
    expected = parse(_marked(right), parsing_timeout=None)
    if not expected or given is None:
        return {"readable": bool(expected), "equal": False}
    found = parse(_marked(given), parsing_timeout=None)
    return {"readable": True, "equal": bool(found) and bool(verify(expected, found, timeout_seconds=None))}


def _marked(text: str) -> str:
    """The whole text as mathematics where it does not say by itself what of it is."""
    return text if any(mark in text for mark in MARKS) else f"${text}$"


def main() -> None:
    """Answer line by line until the input ends."""
    logging.disable(logging.CRITICAL)
    with suppress(ValueError, OSError):  # on a system without such a limit the time limit still holds
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers, sys.stdout = sys.stdout, sys.stderr  # the library may print
    for line in sys.stdin:
        pair = json.loads(line)
        try:
            said = compare(pair["right"], pair["given"])
        except Exception:  # whatever a parser or sympy raises on a hostile text: it is no equal expression
            said = {"readable": False, "equal": False}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
