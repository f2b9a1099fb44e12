"""What a pocket model can do, job by job, as numbers. `measure.py` is the command and writes the tables."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from inferloom.core.protocols import Backend
from inferloom.core.types import Completion
from inferloom.models.pocket.asking import ask, check, combine, digit_score, is_right, rank, revise, score, solve
from inferloom.models.pocket.jobs import OPTION_LETTERS, Attempt, attempt_of, check_report
from inferloom.models.pocket.tasks import FAMILIES, Item, final_answer
from inferloom.models.pocket.tasks.conventions import Code, Operator

Replies = list[Completion]
TRIES = 16
_SHOWN = 4
"""Attempts at each item that are combined, and whose steps are judged."""


@dataclass(frozen=True, slots=True)
class Case:
    """An item with a model's attempts at it."""

    item: Item
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of successes, from 0 to 1, and half the width of its 95% interval (items are the units)."""

    value: float
    margin: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Share:
        """The mean of one number per item; not a number where there is none."""
        numbers = list(values)
        if not numbers:
            return cls(math.nan, math.nan, 0)
        mean = sum(numbers) / len(numbers)
        spread = sum((number - mean) ** 2 for number in numbers) / max(1, len(numbers) - 1)
        return cls(mean, 1.96 * math.sqrt(spread / len(numbers)), len(numbers))


@dataclass(slots=True)
class Report:
    """The measurements of one size; the keys of the mappings are families, `all` for the suite."""

    size: str
    one_try: dict[str, Share] = field(default_factory=dict)
    any_try: dict[str, Share] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    answer_auc: dict[str, dict[str, float]] = field(default_factory=dict)
    """Whose attempts -> family -> area under the curve of the answer judge."""
    within_auc: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same within an item, mean over the items with right and wrong attempts: what choosing among them rests on."""
    choices: dict[str, dict[str, Share]] = field(default_factory=dict)
    """Way to choose one of the tries -> family -> share of right choices."""
    step_auc: dict[str, dict[str, float]] = field(default_factory=dict)
    jobs: dict[str, Share] = field(default_factory=dict)
    """Rank, check, and for revise, combine, notes and examples the accuracy before and after."""
    answers_per_minute: float = 0.0


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The chance that a right one scores above a wrong one, ties counting half; not a number without both kinds."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return math.nan
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[places]
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with what is known of each attempt: the judge's score, and the mean log-probability of its tokens."""

    case: Case
    scores: tuple[float, ...]
    logprobs: tuple[float, ...]


async def attempts(backend: Backend, items: Sequence[Item], tries: int, salt: str) -> tuple[list[Case], list[Replies]]:
    """A model's attempts at items, and the completions they are read from."""
    requests = [replace(solve(item), logprobs=0) for item in items]
    replies = await ask(backend, requests, tries, salt)
    cases = [
        Case(item, tuple(attempt_of(item, one.text) for one in reply))
        for item, reply in zip(items, replies, strict=True)
    ]
    return cases, replies


async def judged(backend: Backend, cases: Sequence[Case], replies: Sequence[Replies]) -> list[Judged]:
    """Every attempt judged as an answer, equal ones once."""
    asked = {(i, a.text): score(case.item, a.text) for i, case in enumerate(cases) for a in case.attempts if a.text}
    answers = await ask(backend, list(asked.values()))
    scores = {key: digit_score(answer[0]) for key, answer in zip(asked, answers, strict=True)}
    return [
        Judged(
            case,
            tuple(scores.get((i, attempt.text), 0.0) for attempt in case.attempts),
            tuple(one.mean_logprob or 0.0 for one in reply),
        )
        for i, (case, reply) in enumerate(zip(cases, replies, strict=True))
    ]


async def measure(
    backend: Backend, size: str, items: Sequence[Item], others: tuple[Sequence[Case], Sequence[Replies]]
) -> tuple[Report, list[Case], list[Replies]]:
    """Measure every job of one model.

    Args:
        backend: The model.
        size: Its name.
        items: The suite.
        others: Another model's attempts with their completions, to be judged too; may be empty.

    Returns:
        The report, and the model's own attempts with their completions.
    """
    report = Report(size)
    cases, replies = await attempts(backend, items, TRIES, "solve")
    tokens = [sum(one.completion_tokens for one in reply) / len(reply) for reply in replies]
    for name in ("all", *dict.fromkeys(item.family for item in items)):
        chosen = [i for i, item in enumerate(items) if name in ("all", item.family)]
        report.one_try[name] = Share.of(sum(a.right for a in cases[i].attempts) / TRIES for i in chosen)
        report.any_try[name] = Share.of(float(any(a.right for a in cases[i].attempts)) for i in chosen)
        report.tokens[name] = sum(tokens[i] for i in chosen) / len(chosen)
    for whose, (theirs, written) in (("own", (cases, replies)), ("small's", others)):
        if theirs:
            known = await judged(backend, theirs, written)
            report.answer_auc[whose] = _answer_auc(known)
            report.within_auc[whose] = _within_auc(known)
            report.step_auc[whose] = await _step_auc(backend, theirs)
            if whose == "own":
                report.choices = _choices(known)
    await _ranking(backend, cases, report)
    await _checking(backend, cases, report)
    await _combining(backend, cases, report)
    await _notes(backend, items, report)
    report.answers_per_minute = await speed(backend, items)
    return report, cases, replies


def _answer_auc(known: Sequence[Judged]) -> dict[str, float]:
    """Over all attempts at once."""
    families = [one.case.item.family for one in known for _ in one.scores]
    right = [attempt.right for one in known for attempt in one.case.attempts]
    return _by_family(families, [value for one in known for value in one.scores], right)


def _within_auc(known: Sequence[Judged]) -> dict[str, float]:
    """Item by item."""
    areas: dict[str, list[float]] = defaultdict(list)
    for one in known:
        area = auc(one.scores, [attempt.right for attempt in one.case.attempts])
        if not math.isnan(area):
            areas["all"].append(area)
            areas[one.case.item.family].append(area)
    return {family: sum(values) / len(values) for family, values in areas.items()}


def _choices(known: Sequence[Judged]) -> dict[str, dict[str, Share]]:
    """How often each way to choose one of the tries chooses a right one."""
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in known:
        answers = [final_answer(attempt.text) for attempt in one.case.attempts]
        votes, weighted = defaultdict[str | None, float](float), defaultdict[str | None, float](float)
        for answer, value in zip(answers, one.scores, strict=True):
            votes[answer] += 1
            weighted[answer] += value
        chosen = {
            "the most frequent answer": answers.index(max(votes, key=lambda answer: votes[answer])),
            "the answer with the most judged weight": answers.index(max(weighted, key=lambda answer: weighted[answer])),
            "the best by the judge": max(range(len(answers)), key=lambda i: one.scores[i]),
            "the likeliest by its tokens": max(range(len(answers)), key=lambda i: one.logprobs[i]),
        }
        for way, place in chosen.items():
            for family in ("all", one.case.item.family):
                right[way, family].append(float(one.case.attempts[place].right))
    result: dict[str, dict[str, Share]] = defaultdict(dict)
    for (way, family), values in right.items():
        result[way][family] = Share.of(values)
    return dict(result)


async def _step_auc(backend: Backend, cases: Sequence[Case]) -> dict[str, float]:
    """One random unfinished part of each attempt."""
    rng = Random("steps")
    parts: list[tuple[Item, str, bool]] = []
    for case in cases:
        for attempt in case.attempts[:_SHOWN]:
            lines = attempt.text.split("\n")
            if len(lines) > 1:
                cut = rng.randrange(len(lines) - 1)
                parts.append((case.item, "\n".join(lines[: cut + 1]), attempt.verdicts[cut]))
    parts = [part for part in parts if part[1]]
    replies = await ask(backend, [score(item, text) for item, text, _ in parts])
    scores = [digit_score(reply[0]) for reply in replies]
    return _by_family([item.family for item, _, _ in parts], scores, [right for _, _, right in parts])


def _by_family(families: Sequence[str], scores: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    result = {"all": auc(scores, right)}
    for family in dict.fromkeys(families):
        chosen = [i for i, one in enumerate(families) if one == family]
        result[family] = auc([scores[i] for i in chosen], [right[i] for i in chosen])
    return result


async def _ranking(backend: Backend, cases: Sequence[Case], report: Report) -> None:
    """Pairs of a right and a wrong attempt at one item, the right one first or second by chance."""
    rng = Random("rank")
    asked: list[tuple[Item, list[str], int]] = []
    for case in cases:
        right = [a.text for a in case.attempts if a.right]
        wrong = [a.text for a in case.attempts if not a.right]
        if right and wrong:
            place = rng.randrange(2)
            pair = [rng.choice(wrong), rng.choice(wrong)]
            pair[place] = rng.choice(right)
            asked.append((case.item, pair, place))
    replies = await ask(backend, [rank(item, texts) for item, texts, _ in asked])
    report.jobs["rank: right one first"] = Share.of(
        float(reply[0].text.strip()[:1] == OPTION_LETTERS[place])
        for (_, _, place), reply in zip(asked, replies, strict=True)
    )


async def _checking(backend: Backend, cases: Sequence[Case], report: Report) -> None:
    """The report on each item's first attempt, and the attempt revised after it."""
    reports = await ask(backend, [check(case.item, case.attempts[0].text) for case in cases])
    texts = [reply[0].text for reply in reports]
    report.jobs["check: whole report right"] = Share.of(
        float(text == check_report(case.attempts[0].verdicts)) for case, text in zip(cases, texts, strict=True)
    )
    report.jobs["check: first wrong line found"] = Share.of(
        float(text == check_report(case.attempts[0].verdicts))
        for case, text in zip(cases, texts, strict=True)
        if not all(case.attempts[0].verdicts)
    )
    revised = await ask(
        backend,
        [revise(case.item, case.attempts[0].text, text) for case, text in zip(cases, texts, strict=True)],
        salt="revise",
    )
    report.jobs["revise: before"] = Share.of(float(case.attempts[0].right) for case in cases)
    report.jobs["revise: after"] = Share.of(
        float(is_right(case.item, reply[0].text)) for case, reply in zip(cases, revised, strict=True)
    )


async def _combining(backend: Backend, cases: Sequence[Case], report: Report) -> None:
    shown = [case.attempts[:_SHOWN] for case in cases]
    replies = await ask(
        backend,
        [combine(case.item, [a.text for a in some]) for case, some in zip(cases, shown, strict=True)],
        salt="combine",
    )
    report.jobs["combine 4: one of them"] = Share.of(sum(a.right for a in some) / len(some) for some in shown)
    report.jobs["combine 4: combined"] = Share.of(
        float(is_right(case.item, reply[0].text)) for case, reply in zip(cases, replies, strict=True)
    )


async def _notes(backend: Backend, items: Sequence[Item], report: Report) -> None:
    """The families that nobody can answer untold: bare, with their notes, with solved examples instead."""
    rng = Random("examples")
    for name, family in FAMILIES.items():
        own = [item for item in items if item.family == name]
        if not family.needs_notes or not own:
            continue
        forms = {
            "bare": [solve(item, notes=False) for item in own],
            "with notes": [solve(item) for item in own],
            "with solved examples": [solve(item, notes=False, examples=_examples(item, rng)) for item in own],
        }
        for form, requests in forms.items():
            replies = await ask(backend, requests, _SHOWN, f"notes {form}")
            report.jobs[f"{name}: {form}"] = Share.of(
                sum(is_right(item, one.text) for one in reply) / len(reply)
                for item, reply in zip(own, replies, strict=True)
            )


def _examples(item: Item, rng: Random) -> list[Item]:
    family = FAMILIES[item.family]
    if isinstance(family, Operator):
        return [family.like(rng, item, 1) for _ in range(3)]
    return family.showing(rng, item) if isinstance(family, Code) else []


async def speed(backend: Backend, items: Sequence[Item], at_once: int = 64, seconds: float = 10.0) -> float:
    """Answers per minute with `at_once` requests always in flight, over at least `seconds`."""
    gate = asyncio.Semaphore(at_once)
    started = time.perf_counter()
    finished = 0

    async def one(place: int) -> None:
        nonlocal finished
        async with gate:
            if time.perf_counter() - started < seconds:
                await backend.generate(solve(items[place % len(items)]), [place])
                finished += 1

    await asyncio.gather(*(one(place) for place in range(20 * len(items))))
    return 60 * finished / (time.perf_counter() - started)
