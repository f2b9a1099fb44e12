"""A process that learns until it is killed: whole runs of a pipeline with `curate`, several at a time.

Arguments: database, name of this process. It prints the number of each question once its run has returned.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from inferloom.core.types import Json
from inferloom.models import embedding
from inferloom.models.client import Gateway
from inferloom.nodes.testing import FakeContext
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

SPEC: Json = {
    "models": {"m": "scripted:constant"},
    "steps": [
        {"recall": {"memory": "m", "k": 2, "kinds": ["example"]}},
        {"sample": {"model": "m"}},
        {"curate": {"memory": "m", "limit": 200}},
    ],
}


@embedding.register_embedder("letters")
def letters(texts: Sequence[str]) -> list[tuple[float, ...]]:
    return asyncio.run(FakeContext().embed(texts))


async def main(url: str, name: str) -> None:
    pipeline = Pipeline(PipelineSpec.from_data(SPEC, "child"), Gateway(Store.open(url)))

    async def ask(task: int) -> None:
        number = 0
        while True:
            question = f"{name} {task} {number} " + "abcdefghij"[number % 10] * 9
            await pipeline.ainvoke(question)
            print(question, flush=True)
            number += 1

    await asyncio.gather(*(ask(task) for task in range(4)))


asyncio.run(main(sys.argv[1], sys.argv[2]))
