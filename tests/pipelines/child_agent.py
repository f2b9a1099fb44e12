"""An agent that dies in the middle of a pipeline: a graph with the pipeline as its subgraph, or the pipeline's own.

Arguments: database, log, `outer` or `alone`, and after how many calls of the model it kills itself (0: never). Each
call logs the seed of its draw before it answers. It prints the answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from langgraph.graph import START, MessagesState, StateGraph

from inferloom.core.protocols import Capabilities, TokenSink
from inferloom.core.types import Completion, Json, Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store
from tests.support.savers import saver_beside

SAMPLE: Json = {"sample": {"model": "m", "n": 4}}
SPEC: Json = {
    "models": {"m": {"model": "scripted:mortal", "concurrency": 2}},
    "steps": [
        SAMPLE,
        {
            "parallel": [
                [{"sample": {"model": "m", "n": 4}}],
                [{"sample": {"model": "m", "n": 3}}, {"critique": {"model": "m"}}],
            ]
        },
        {"score": {"model": "m"}},
        {"vote": {"weight": "judge"}},
    ],
}
CALLS = 4 + 4 + 3 + 7 + 11


class Mortal(ScriptedBackend):
    """Logs the seed of every call, and kills the process at the last."""

    def __init__(self, log: Path, last: int) -> None:
        one_by_one = Capabilities(seed=True, logprobs=True)
        super().__init__(answer, name="mortal", capabilities=one_by_one, latency=0.002)
        self._log = log
        self._last = last

    async def generate(
        self, request: Request, seeds: Sequence[int], on_token: TokenSink | None = None
    ) -> list[Completion]:
        with self._log.open("a") as file:
            file.write(f"{seeds[0]}\n")
        if len(self.served) + 1 == self._last:
            await asyncio.sleep(0.05)  # what came before is on its way into the database
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().generate(request, seeds, on_token)


def answer(request: Request, seed: int) -> str:
    return str(seed % 10) if "single digit" in request.messages[-1].content else f"thinking {seed}\nA: {seed % 3}"


async def main(url: str, log: Path, shape: str, last: int) -> None:
    register_backend("mortal", Mortal(log, last))
    pipeline = Pipeline(PipelineSpec.from_data(SPEC, "child"), Gateway(Store.open(url)))
    async with saver_beside(url) as saver:
        if shape == "alone":
            app = pipeline.compile(saver)
        else:
            builder = StateGraph(MessagesState)
            builder.add_node("solve", pipeline.graph)
            builder.add_edge(START, "solve")
            app = builder.compile(checkpointer=saver)
        config = {"configurable": {"thread_id": "t"}}
        begun = bool((await app.aget_state(config)).values)
        done = await app.ainvoke(None if begun else {"messages": "how much?"}, config, durability="sync")
        print(done["messages"][-1].text)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
