"""The conversations that the pocket models were taught (`jobs.py`), asked through a backend, many at once."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence

from inferloom.core.protocols import Backend
from inferloom.core.types import Completion, Message, Request
from inferloom.models.pocket.jobs import CHECK, COMBINE, RANK, REVISE, SCORE, options_text
from inferloom.models.pocket.tasks import FAMILIES, Item, final_answer

TEMPERATURE = 0.8
"""The temperature of the bars."""
MOST_TOKENS = 240

Turns = tuple[tuple[str, str], ...]


def opening(item: Item, notes: bool = True, examples: Sequence[Item] = ()) -> tuple[Message, ...]:
    """What stands in front of the question: the item's notes, solved examples."""
    turns: list[Message] = []
    if notes and item.notes:
        turns.append(Message("system", "\n".join(item.notes)))
    for example in examples:
        turns += [Message("user", example.question), Message("assistant", example.solution)]
    return tuple(turns)


def solve(item: Item, notes: bool = True, examples: Sequence[Item] = ()) -> Request:
    """One answer to the question."""
    return _sampled((*opening(item, notes, examples), Message("user", item.question)))


def score(item: Item, text: str) -> Request:
    """Whether a solution, or a part of one, is right: one digit with its alternatives."""
    messages = (*opening(item), Message("user", item.question), Message("assistant", text), Message("user", SCORE))
    return Request(messages=messages, max_tokens=1, temperature=0, logprobs=16)


def check(item: Item, text: str) -> Request:
    """The report on a solution, line by line."""
    messages = (*opening(item), Message("user", item.question), Message("assistant", text), Message("user", CHECK))
    return Request(messages=messages, max_tokens=MOST_TOKENS, temperature=0)


def revise(item: Item, text: str, report: str) -> Request:
    """A new solution after a report on an old one."""
    before = (Message("user", item.question), Message("assistant", text), Message("user", CHECK))
    return _sampled((*opening(item), *before, Message("assistant", report), Message("user", REVISE)))


def rank(item: Item, texts: Sequence[str]) -> Request:
    """The letters of the solutions, the best first."""
    shown = options_text(item.question, texts, RANK)
    return Request(messages=(*opening(item), Message("user", shown)), max_tokens=16, temperature=0)


def combine(item: Item, texts: Sequence[str]) -> Request:
    """One solution out of several."""
    return _sampled((*opening(item), Message("user", options_text(item.question, texts, COMBINE))))


def _sampled(messages: tuple[Message, ...]) -> Request:
    return Request(messages=messages, max_tokens=MOST_TOKENS, temperature=TEMPERATURE)


async def ask(backend: Backend, requests: Sequence[Request], n: int = 1, salt: str = "") -> list[list[Completion]]:
    """`n` completions of each request, all at once; the seeds follow from `salt` and the places."""

    def seeds(place: int) -> list[int]:
        return [_seed(f"{salt} {place} {index}") for index in range(n)]

    return await asyncio.gather(*(backend.generate(request, seeds(i)) for i, request in enumerate(requests)))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def is_right(item: Item, text: str) -> bool:
    """Whether a solution ends in a right answer."""
    answer = final_answer(text)
    return answer is not None and FAMILIES[item.family].is_right(item, answer)


def digit_score(completion: Completion) -> float:
    """The expected digit of a score, from 0 to 1: the mean of the digits, weighed by their probabilities."""
    first = completion.logprobs[0] if completion.logprobs else None
    weights = {} if first is None else {token: math.exp(lp) for token, lp in first.top if token in set("0123456789")}
    whole = sum(weights.values())
    if not whole:
        return 0.5
    return sum(int(token) * weight for token, weight in weights.items()) / (9 * whole)
