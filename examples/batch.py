"""A batch job over a JSONL file that goes on where it was killed.

    python examples/batch.py questions.jsonl answers.jsonl

Each line of the input has a `question`; each line of the output has the input line's number, the answer and its cost.
Kill it at any moment and start it again: lines that are answered are not asked again, and of a line that was in work,
every completion that had arrived is taken from the bank, because each line draws from a stream of its own name.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import inferloom

AT_ONCE = 4


def answered(path: Path) -> set[int]:
    """The numbers of the lines that are answered; half a line at the end, of a job that was killed, is cut off."""
    if not path.exists():
        return set()
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    with path.open("r+b") as file:
        file.truncate(len(whole))
    return {json.loads(line)["line"] for line in whole.splitlines()}


async def answer(questions: list[str], name: str, target: Path) -> None:
    """Answer every question that `target` does not answer yet."""
    pipeline = inferloom.load(str(Path(__file__).with_name("batch.yaml")))
    done = answered(target)
    gate = asyncio.Semaphore(AT_ONCE)

    with target.open("a", encoding="utf-8") as file:

        async def one(number: int, question: str) -> None:
            async with gate:
                result = await pipeline.ainvoke(question, stream=f"{name}/{number}", tag=name)
            row = {"line": number, "answer": result.answer, "tokens": result.usage.tokens, "run": result.run_id}
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(f"{len(done) + 1}/{len(questions)}", flush=True)
            done.add(number)

        async with asyncio.TaskGroup() as group:
            for number, question in enumerate(questions):
                if number not in done:
                    group.create_task(one(number, question))


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = source.read_text(encoding="utf-8").splitlines()
    asyncio.run(answer([json.loads(row)["question"] for row in rows], source.stem, target))
