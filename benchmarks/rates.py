"""How fast a local model reads and writes: `python benchmarks/rates.py --model pocket:large --at-once 1`.

Questions with short and long prompts and answers are asked `--at-once` at a time, and the seconds of each kind of round
(the fastest of several, since other work on the machine only ever adds) are explained by its calls, its prompt tokens
and its generated tokens (least squares, no rate below zero). The pass that reads a prompt makes the first token too, so
that one is not counted as generated. The result is the `rates` of a model's entry under `models:`, by which nominal
seconds are counted. One at a time they are those of latency, many at a time those of throughput; both say something of
one machine only, so what counts parameters times tokens, which knows neither, is printed beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import string
import sys
import time
from datetime import UTC, datetime
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import NDArray

from inferloom.core.protocols import Backend
from inferloom.core.types import Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.spec import ModelSpec, Rates

ROUNDS = 8
PROMPTS, ANSWERS = (0, 4, 16), (1, 16, 96)
"""Solved examples in front of the question, and the most tokens of an answer."""
SOLVED = "qwer:rewq\ntyui:iuyt\nA: iuytrewq"


async def seconds_of(backend: Backend, at_once: int, examples: int, most: int, seed: int) -> tuple[int, int, float]:
    """Prompt tokens, generated tokens and seconds of one round."""
    rng = Random(seed)
    requests = []
    for _ in range(at_once):  # all different from their first words on: a shared prompt would be read once
        turns: list[Message] = []
        for _ in range(examples):
            turns += [Message("user", f"reverse {_word(rng, 8)}"), Message("assistant", SOLVED)]
        requests.append(Request(messages=(*turns, Message("user", f"reverse {_word(rng, 26)}")), max_tokens=most))
    started = time.perf_counter()
    replies = await asyncio.gather(*(backend.generate(one, [seed * at_once + i]) for i, one in enumerate(requests)))
    elapsed = time.perf_counter() - started
    made = [reply[0] for reply in replies]
    return sum(one.prompt_tokens for one in made), sum(one.completion_tokens - 1 for one in made), elapsed


def _word(rng: Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=length))


async def fit_rates(model: str, at_once: int = 64) -> Rates:
    """The rates that explain what was measured."""
    backend = open_backend(ModelSpec(model=model))
    await seconds_of(backend, at_once, 1, 4, 0)
    designs = [(examples, most) for examples in PROMPTS for most in ANSWERS]
    fastest: dict[tuple[int, int], tuple[int, int, float]] = {}
    for seed in range(1, ROUNDS + 1):
        for design in designs:
            measured = await seconds_of(backend, at_once, *design, seed)
            if design not in fastest or measured[2] < fastest[design][2]:
                fastest[design] = measured
    await backend.aclose()
    table = np.array([(at_once, *measured) for measured in fastest.values()], dtype=np.float64)
    per_call, per_read, per_written = _not_negative(table[:, :3], table[:, 3])
    return Rates(prefill=1 / max(per_read, 1e-9), decode=1 / max(per_written, 1e-9), per_call=per_call)


def _not_negative(design: NDArray[np.float64], seconds: NDArray[np.float64]) -> list[float]:
    """Least squares without negative weights: the best of the subsets of columns that need none."""
    best, least = [0.0] * design.shape[1], float("inf")
    for size in range(1, design.shape[1] + 1):
        for columns in combinations(range(design.shape[1]), size):
            weights, *_ = np.linalg.lstsq(design[:, columns], seconds, rcond=None)
            error = float(np.sum((design[:, columns] @ weights - seconds) ** 2))
            if weights.min() > 0 and error < least:
                best, least = [0.0] * design.shape[1], error
                for column, weight in zip(columns, weights, strict=True):
                    best[column] = float(weight)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket:large")
    parser.add_argument("--at-once", type=int, default=64, help="calls in flight together")
    arguments = parser.parse_args()
    rates = asyncio.run(fit_rates(arguments.model, arguments.at_once))
    sys.stdout.write(
        f"# {arguments.model}, {arguments.at_once} at a time, {datetime.now(UTC):%Y-%m-%d}\n"
        f"rates: {{prefill: {rates.prefill:.0f}, decode: {rates.decode:.0f}, per_call: {rates.per_call:.6f}}}\n"
        f"# a generated token costs as much as {rates.prefill / rates.decode:.1f} read ones here;"
        " counted by parameters it costs as much as one\n"
    )


if __name__ == "__main__":
    main()
