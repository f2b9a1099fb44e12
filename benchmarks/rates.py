"""How fast a local model reads and writes: `python benchmarks/rates.py --model pocket:large`.

Questions with short and long prompts and answers are asked 64 at a time, and the seconds of each round are explained by
its prompt tokens and its completion tokens (least squares). The result is the `rates` of a model's entry under
`models:`, by which nominal seconds are counted. Rates say something of one machine and one way of batching, so what
counts parameters times tokens, which knows neither, is printed beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime

import numpy as np

from inferloom.core.protocols import Backend
from inferloom.core.types import Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec, Rates

AT_ONCE, ROUNDS = 64, 3
PROMPTS, ANSWERS = (1, 12), (4, 96)
"""Solved examples in front of the question, and the most tokens of an answer."""
QUESTION, SOLVED = "reverse qwertyuiopasdfghjklzxcvbnm", "qwer:rewq\ntyui:iuyt\nA: iuytrewq"


async def seconds_of(backend: Backend, examples: int, most: int, seed: int) -> tuple[int, int, float]:
    """Prompt tokens, completion tokens and seconds of one round."""
    turns: list[Message] = []
    for _ in range(examples):
        turns += [Message("user", "reverse qwertyui"), Message("assistant", SOLVED)]
    request = Request(messages=(*turns, Message("user", QUESTION)), max_tokens=most)
    started = time.perf_counter()
    replies = await asyncio.gather(*(backend.generate(request, [seed * AT_ONCE + i]) for i in range(AT_ONCE)))
    elapsed = time.perf_counter() - started
    made = [reply[0] for reply in replies]
    return sum(one.prompt_tokens for one in made), sum(one.completion_tokens for one in made), elapsed


async def fit_rates(model: str) -> Rates:
    """The rates that explain what was measured."""
    backend = open_backend(ModelSpec(model=model))
    await seconds_of(backend, 1, 4, 0)
    designs = [(examples, most) for examples in PROMPTS for most in ANSWERS] * ROUNDS
    measured = [await seconds_of(backend, *design, seed) for seed, design in enumerate(designs, start=1)]
    await backend.aclose()
    table = np.array(measured, dtype=np.float64)
    per_token, *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
    prefill, decode = (1 / max(float(value), 1e-9) for value in per_token)
    return Rates(prefill=prefill, decode=decode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket:large")
    arguments = parser.parse_args()
    rates = asyncio.run(fit_rates(arguments.model))
    sys.stdout.write(
        f"# {arguments.model}, {AT_ONCE} at a time, {datetime.now(UTC):%Y-%m-%d}\n"
        f"rates: {{prefill: {rates.prefill:.0f}, decode: {rates.decode:.0f}}}\n"
        f"# a generated token costs as much as {rates.prefill / rates.decode:.1f} read ones here;"
        " counted by parameters it costs as much as one\n"
    )


if __name__ == "__main__":
    main()
