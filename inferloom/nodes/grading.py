"""What the nodes that judge share: a judge's digit, an order in letters, judging each text once, handing on scores."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from inferloom.core.errors import BudgetExceededError, UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, NodeOutput, NodeState, Request
from inferloom.nodes.common import LETTERS, ask, converse, gather, lettered, order_by, stop_reason

_DIGIT = re.compile(r"(?<![\w.])[0-9](?!\w|\.[0-9])")
_LETTER = re.compile(r"(?<![A-Za-z0-9'])[A-Z](?![A-Za-z0-9'])")
_TOP_DIGIT = 9
_ALTERNATIVES = 20
"""Tokens asked for beside the digit: the ten digits need not be the ten likeliest. 20 is the most that servers give."""


def read_grade(reply: Completion, context: NodeContext, *, expected: bool, role: str = "score") -> float:
    """The digit of a judge's reply as a grade from 0 to 1; 0 and the event `parse_failed` where there is none."""
    digit = expected_digit(reply) if expected else greedy_digit(reply.text)
    if digit is None:
        parse_failed(context, role, reply)
        return 0.0
    return digit / _TOP_DIGIT


Grades: TypeAlias = tuple[dict[str, float], BudgetExceededError | None]
Grader: TypeAlias = Callable[[Iterable[str]], Awaitable[Grades]]


def grader(
    state: NodeState, context: NodeContext, *, model: str, expected: bool, max_tokens: int, role: str = "score"
) -> Grader:
    """What grades many texts at once, whole or partial solutions; equal texts are judged once.

    Texts that the budget left no room for are missing from the grades, and the refusal stands beside them.
    """

    def request(text: str) -> Request:
        return Request(
            messages=converse(state, context, role, {"candidate": text}),
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=_ALTERNATIVES if expected else None,
        )

    async def grade(texts: Iterable[str]) -> Grades:
        different = list(dict.fromkeys(texts))
        if not different:
            return {}, None
        replies, refusal = await gather(ask(context, model, request(text)) for text in different)
        read = {
            text: read_grade(reply, context, expected=expected, role=role)
            for text, reply in zip(different, replies, strict=True)
            if reply is not None
        }
        return read, refusal

    return grade


async def ask_order(
    shown: Sequence[Candidate],
    model: str,
    state: NodeState,
    context: NodeContext,
    temperature: float,
    max_tokens: int,
) -> list[int]:
    """The positions of the candidates shown that a model names, best first.

    None, and the event `parse_failed`, where its reply names no letter.
    """
    request = Request(
        messages=converse(state, context, "rank", {"options": lettered(shown)}),
        temperature=temperature,
        max_tokens=max_tokens,
    )
    reply = await ask(context, model, request)
    order = read_letters(reply.text, len(shown))
    if not order:
        parse_failed(context, "rank", reply)
    return order


def read_letters(reply: str, count: int) -> list[int]:
    """The positions that a reply names, in its order, each once.

    They are read from the last line that holds nothing but letters, else from the last line that names any.
    """
    lines = [line for line in reversed(reply.splitlines()) if _positions(line, count)]
    chosen = next(
        (line for line in lines if not any(character.isalnum() for character in _LETTER.sub("", line))),
        lines[0] if lines else "",
    )
    return _positions(chosen, count)


def _positions(line: str, count: int) -> list[int]:
    named = [LETTERS.index(letter) for letter in _LETTER.findall(line)]
    return list(dict.fromkeys(position for position in named if position < count))


def parse_failed(context: NodeContext, role: str, reply: Completion) -> None:
    """Tell the watchers that a reply does not hold what the role asked for."""
    context.emit("parse_failed", {"role": role, "reply": reply.text[:200]})


def read_pairs(text: str, heading: str, key: str) -> dict[str, int]:
    """The pairs `key=number` that a reply gives behind the last `heading`, else in the last lines that hold any.

    Args:
        text: The reply; keys may be in bold or quoted, and a colon does for the equals sign.
        heading: The word in front of the pairs, in any case.
        key: A pattern of the keys.
    """
    quotes = r"[*_`\"'()\[\]]{0,3}"
    pair = re.compile(rf"(?<![A-Za-z0-9.])({key}){quotes}\s{{0,3}}[=:]\s{{0,3}}{quotes}([0-9]{{1,2}})(?!\d|\.\d)")
    tail = [text[found.end() :] for found in list(re.finditer(heading, text, re.IGNORECASE))[-1:]]
    lines = tail if tail and pair.search(tail[0]) else _last_lines(text, pair)
    pairs: dict[str, int] = {}
    for line in lines:
        for name, number in pair.findall(line):
            pairs.setdefault(name.lower(), int(number))
    return pairs


def _last_lines(text: str, pair: re.Pattern[str]) -> list[str]:
    """The last lines without a break that hold a pair each."""
    lines = text.splitlines()
    holding = [bool(pair.search(line)) for line in lines]
    if True not in holding:
        return []
    end = len(lines) - holding[::-1].index(True)
    start = end
    while start and holding[start - 1]:
        start -= 1
    return lines[start:end]


def greedy_digit(text: str) -> float | None:
    """The first digit that stands alone in a reply ("7", "7/9", "Score: 7."); None for others ("10", "0.7")."""
    found = _DIGIT.search(text)
    return float(found[0]) if found else None


def expected_digit(reply: Completion) -> float | None:
    """The mean of the digits that could stand at the reply's digit, weighted by their probabilities."""
    tokens = reply.logprobs or ()
    whole = "".join(token.token for token in tokens)
    # The log-probabilities also cover a reasoning block, which is no part of the text.
    found = _DIGIT.search(whole, max(0, whole.rfind(reply.text.strip())))
    if found is None:
        return None
    end = 0
    for token in tokens:
        end += len(token.token)
        if found.start() < end:
            chances = {text: math.exp(logprob) for text, logprob in ((token.token, token.logprob), *token.top)}
            digits = {text: chance for text, chance in chances.items() if re.fullmatch(r"\s*[0-9]\s*", text)}
            whole_chance = math.fsum(digits.values())
            if whole_chance > 0:
                return math.fsum(int(text) * chance for text, chance in digits.items()) / whole_chance
            break
    return float(found[0])


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first candidate of each text: equal texts are judged once."""
    return list({candidate.text: candidate for candidate in reversed(candidates)}.values())[::-1]


def check_window(width: int, candidates: int, context: NodeContext) -> None:
    """Refuse a window that shows more candidates than the prompt pack can.

    Raises:
        UserError: So it is.
    """
    if min(width, candidates) > context.prompts.options:
        raise UserError(
            f"window is {width}; the prompt pack `{context.prompts.name}` shows at most {context.prompts.options}",
            where=context.path,
        )


def hand_on(
    candidates: Sequence[Candidate],
    scores: Mapping[str, float],
    name: str,
    context: NodeContext,
    refusal: BudgetExceededError | None = None,
) -> NodeOutput:
    """The candidates with their scores, given by text, in the order in which they came.

    Where the budget refused some, the run ends with its first candidate: then the best of those that were judged stand
    first.
    """
    scored = [
        candidate.with_score(name, scores[candidate.text]) if candidate.text in scores else candidate
        for candidate in candidates
    ]
    if refusal:
        order = order_by([scores.get(candidate.text, -math.inf) for candidate in candidates])
        scored = [scored[position] for position in order]
    return NodeOutput(candidates=tuple(scored), stopped=stop_reason(context, refusal))
