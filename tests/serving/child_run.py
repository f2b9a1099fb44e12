"""A run in a process of its own, to be killed while its second node waits for a model that takes its time."""

from __future__ import annotations

import sys
from pathlib import Path

from inferloom.core.types import Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

register_backend("child-quick", ScriptedBackend(lambda request, seed: f"A: {seed % 3}", name="quick"))


def _note(request: Request, seed: int) -> str:
    return "fine"


register_backend("child-slow", ScriptedBackend(_note, name="slow", latency=600))

PIPELINE = """
models: {quick: scripted:child-quick, slow: scripted:child-slow}
steps:
  - sample: {model: quick, n: 3}
  - critique: {model: slow}
  - vote
"""

if __name__ == "__main__":
    with Store.open(str(Path(sys.argv[1]))) as store:
        Pipeline(PipelineSpec.parse(PIPELINE, "child.yaml"), Gateway(store)).invoke("how much?")
