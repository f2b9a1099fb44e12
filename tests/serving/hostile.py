"""Text that breaks out of a page that forgets to escape, and a pipeline whose models say nothing else."""

from __future__ import annotations

from inferloom.core.types import Request
from inferloom.models.scripted import ScriptedBackend, register_backend

BREAKOUTS = (
    "<script>window.hacked = 1</script>",
    "</style></script><script>window.hacked = 2</script>",
    "\"><img src=x onerror='window.hacked = 3'>",
    "</textarea></title><svg onload=window.hacked=4>",
    "<a href=\"javascript:window.hacked=5\">x</a><iframe src='https://example.com/'></iframe>",
    "{{ 7 * 7 }}{% raw %}",
    "<meta http-equiv=refresh content='0;url=https://example.com/'>",
    "\u202eright to left\u0000nul",
)
TEXT = " ".join(BREAKOUTS)


def _say(request: Request, seed: int) -> str:
    if "single digit from 0" in request.messages[-1].content:
        return "7"
    return f"{TEXT}\nA: {BREAKOUTS[seed % 4]}"


register_backend("hostile", ScriptedBackend(_say, name="hostile"))

PIPELINE = """
models: {"m": "scripted:hostile"}
steps:
  - sample: {model: m, n: 4, system: "<script>window.hacked = 7</script>"}
  - critique: {model: m}
  - score: {model: m}
  - best: {by: judge}
"""
