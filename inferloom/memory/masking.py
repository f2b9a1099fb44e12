"""Masking of personal data before a text is remembered: e-mail addresses, telephone numbers, keys, card numbers.

What is found is replaced by what it was, `[email]` and so on. This is a net, not a proof: names and addresses of people
pass through it. Numbers of sums and measurements must survive, or nothing could be learned about arithmetic; so a
telephone number needs the form of one, and a card number a right check digit (Luhn).
"""

from __future__ import annotations

import re
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b")
_KEY_NAMES = r"(?:api[_-]?key|access[_-]?key|secret|token|passwd|password|pwd|authorization|bearer)"
_NAMED_KEY = re.compile(rf"(?i)\b({_KEY_NAMES})(\s*[:=]\s*|\s+)(['\"]?)((?:bearer\s+)?[^\s'\",;]{{8,}})\3")
_KEYS = re.compile(
    r"\b(?:"
    r"sk-[A-Za-z0-9_-]{16,}"
    r"|sk_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|A(?:KIA|SIA)[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r")"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w.]|-?\d)")
_PHONE = re.compile(
    r"(?<![\w.+*/=-])(?:"
    r"\+\d{1,3}(?:[ .()/-]{0,2}\d){6,13}"
    r"|\(\d{2,5}\)[ ./-]?\d(?:[ ./-]?\d){4,9}"
    r"|\d{3}[-.]\d{3}[-.]\d{4}"
    r"|00\d{1,3}[ /-]\d{1,5}(?:[ /-]?\d){5,11}"
    r"|0\d{2,4}[ /-]\d{3,4}(?:[ -]?\d){2,7}"
    r")(?![\w+*/=]|[.-]\d)"
)


def mask(text: str) -> tuple[str, int]:
    """The text without personal data, and how many pieces were masked."""
    count = 0

    def by(word: str, is_one: Callable[[str], bool] = lambda found: True) -> Callable[[re.Match[str]], str]:
        def replacement(found: re.Match[str]) -> str:
            nonlocal count
            if not is_one(found[0]):
                return found[0]
            count += 1
            return f"[{word}]"

        return replacement

    def named(found: re.Match[str]) -> str:
        nonlocal count
        if not _looks_secret(found[4]):
            return found[0]
        count += 1
        return f"{found[1]}{found[2]}[key]"

    text = _PEM.sub(by("key"), text)
    text = _KEYS.sub(by("key"), text)
    text = _NAMED_KEY.sub(named, text)
    text = _EMAIL.sub(by("email"), text)
    text = _CARD.sub(by("card", _passes_luhn), text)
    text = _PHONE.sub(by("phone"), text)
    return text, count


def _looks_secret(value: str) -> bool:
    """Whether a value is more than a word: `password: required` is no password."""
    bare = re.sub(r"(?i)^bearer\s+", "", value)
    return bool(re.search(r"\d", bare)) and bool(re.search(r"[A-Za-z]", bare)) and not bare.startswith("[")


def _passes_luhn(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return 13 <= len(digits) <= 19 and total % 10 == 0 and len(set(digits)) > 1
