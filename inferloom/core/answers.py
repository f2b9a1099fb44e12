"""Final answers: how they are found in a text and when two of them are the same.

Reasoning blocks never count. Where a text has no marked answer, its last line is the answer. An answer of a text that
was cut is often no answer at all, so it counts as a vote only where no finished text gave one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from inferloom.core.types import Candidate

_REASONING = re.compile(r"<(think|thinking|reasoning)>(.*?)(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKED = re.compile(
    r"^[ \t>*_#]*(?:A|(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?)"
    r"[*_]*\s*[:=][*_]*\s*(.+?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_IS = re.compile(r"\banswer\s+is\s*:?\s*(.+?)(?:[.!]\s|[.!]?$)", re.IGNORECASE | re.MULTILINE)
_GSM = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)
_CALLS = re.compile(r"[\w.-]+\(\{.*\}\)", re.DOTALL)
"""Tool calls, as `calls_answer` writes them."""
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+)?")


def split_reasoning(text: str) -> tuple[str, str | None]:
    """The text without its reasoning blocks, and the blocks; an unclosed block takes the rest.

    A server that opens the block in its template leaves only the closing tag; what stands before it is reasoning too.
    """
    blocks = [match[2].strip() for match in _REASONING.finditer(text)]
    visible = _REASONING.sub("", text)
    for tag in ("</think>", "</thinking>", "</reasoning>"):
        if tag in visible:
            before, visible = visible.rsplit(tag, 1)
            blocks.insert(0, before.strip())
    if not blocks:
        return text, None
    return visible.lstrip(), "\n".join(blocks)


def extract_answer(text: str) -> str | None:
    """The final answer in a text: the last boxed, marked or stated one, else its last line; None for an empty text."""
    visible, _ = split_reasoning(text)
    boxed = _last_boxed(visible)
    if boxed is not None:
        return boxed
    for pattern in (_GSM, _MARKED, _ANSWER_IS):
        found = pattern.findall(visible)
        if found:
            return str(found[-1]).strip().strip("*_`$").strip() or None
    lines = [line.strip() for line in visible.strip().split("\n") if line.strip()]
    return lines[-1] if lines else None


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            if depth == 0:
                return text[begin:position].strip()
            depth -= 1
    return None


def parse_number(text: str) -> Fraction | None:
    """The number that a text is, whatever its currency, percent sign and separators; None for other texts."""
    bare = text.strip().strip("$€£%").strip().rstrip(".").replace(" ", "")
    if not bare or len(bare) > 64 or not _NUMBER.fullmatch(bare):
        return None
    exponent = re.search(r"[eE]([-+]?\d+)", bare)
    if exponent and abs(int(exponent[1])) > 300:
        return None
    try:
        return Fraction(bare.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def normalise(answer: str) -> str:
    """The form under which answers are compared: numbers by value, other texts by case-folded words.

    Tool calls stay as they are: the case of an argument matters.
    """
    value = parse_number(answer)
    if value is not None:
        return str(value)
    if _CALLS.fullmatch(answer):
        return answer
    return " ".join(answer.casefold().split()).strip(" .")


def same_answer(left: str | None, right: str | None) -> bool:
    """Whether two answers are the same; an absent answer is the same as nothing."""
    return left is not None and right is not None and normalise(left) == normalise(right)


def votes_of(candidates: Sequence[Candidate]) -> list[str | None]:
    """The answer that counts as each candidate's vote, in normal form; None where it has no vote.

    Unfinished candidates vote only where no finished one has an answer.
    """
    answers = [None if one.answer is None else normalise(one.answer) for one in candidates]
    finished = [answer if one.finished else None for one, answer in zip(candidates, answers, strict=True)]
    return answers if all(answer is None for answer in finished) else finished
