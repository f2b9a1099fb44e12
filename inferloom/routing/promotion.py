"""Champion and challenger: a new router takes the place of the one that serves only where records show it is better.

The challenger runs in shadow: it decides on the questions that the champion was asked, and calls nothing. What its
decisions would have earned is estimated from the champion's records (`offpolicy`), so these need some traffic on other
arms, which `explore` gives. A promotion moves folders, keeps the one that served, and writes a line of history.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from inferloom.core.errors import DataError, SetupError
from inferloom.core.types import Json
from inferloom.routing import drift
from inferloom.routing.card import RouterCard, read_card
from inferloom.routing.model import STEPS
from inferloom.routing.offpolicy import Logged, Matrix, Verdict, compare
from inferloom.routing.online import unit_cost
from inferloom.routing.policy import decide
from inferloom.store.decisions import Decided

HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A challenger's decisions beside what was served."""

    verdict: Verdict
    decisions: int
    """Of the champion, all."""
    scored: int
    """Those that the verdict rests on."""

    def to_json(self) -> dict[str, Json]:
        """The comparison as plain JSON."""
        return {"decisions": self.decisions, "scored": self.scored, **self.verdict.to_json()}


def shadow(champion: RouterCard, challenger: RouterCard, records: Sequence[Decided], *, seed: int = 0) -> Shadow:
    """Whether a challenger would have done better than the champion on what that was asked.

    Rewards are scores less the champion's price of their real cost. The two routers' own choices are compared, without
    what either would try out.

    Args:
        champion: The router that served.
        challenger: The other.
        records: The champion's decisions with what became of them.
        seed: Of the interval's resampling.

    Raises:
        DataError: No decision has a score, or the two have no arm in common.
    """
    scored = [record for record in records if record.score is not None and record.question]
    if not scored:
        raise DataError(
            f"none of the {len(records)} decisions of `{champion.name}` has a score yet; give feedback first"
        )
    arms = list(dict.fromkeys([*champion.ids.values(), *challenger.ids.values()]))
    if not set(champion.ids.values()) & set(challenger.ids.values()):
        raise DataError(f"`{challenger.name}` and `{champion.name}` have no arm in common, so nothing can be compared")
    places = {id: place for place, id in enumerate(arms)}
    known = [record for record in scored if record.decision.arm in champion.ids]
    if not known:
        raise DataError(f"the decisions of `{champion.name}` are of arms that it has no more")
    questions = [record.question for record in known]
    weighed, _ = champion.policy({})
    router = champion.online.router
    prediction = router.predict(questions)
    model = np.zeros((len(known), len(arms)))
    for place, id in enumerate(champion.ids.values()):
        model[:, places[id]] = prediction.quality[:, place] - weighed.lam * prediction.cost[:, place]
    supported = np.zeros((len(known), len(arms)), dtype=bool)
    for row, record in enumerate(known):
        taken = record.decision.arm
        chances = cast("dict[str, float]", record.decision.reasons.get("chances") or {taken: 1.0})
        for name, chance in chances.items():
            if name in champion.ids and chance > 0:
                supported[row, places[champion.ids[name]]] = True
    logged = Logged(
        arm=np.array([places[champion.ids[record.decision.arm]] for record in known]),
        propensity=np.array([record.decision.propensity for record in known]),
        reward=np.array([_reward(record, weighed.lam, router.manifest.unit) for record in known]),
        model=model,
        supported=supported,
    )
    verdict = compare(logged, _taken(challenger, questions, places), _taken(champion, questions, places), seed=seed)
    return Shadow(verdict, len(records), len(known))


def _reward(record: Decided, price: float, unit: str) -> float:
    assert record.score is not None, "only scored records are compared"
    return record.score - price * unit_cost(record.usage, unit)


def _taken(card: RouterCard, questions: Sequence[str], places: dict[str, int]) -> Matrix:
    """(N, A): 1 where a router takes an arm."""
    router = card.online.router
    decided = decide(router, router.predict(questions), card.policy({})[0])
    taken = np.zeros((len(questions), len(places)))
    taken[np.arange(len(questions)), [places[decision.arm] for decision in decided]] = 1.0
    return taken


def promote(champion: Path, challenger: Path, verdict: Verdict | None) -> Path:
    """Put the challenger in the champion's place; the champion stays beside it. Where it stays.

    Args:
        champion: The folder that pipelines name.
        challenger: The folder of the other; it is copied.
        verdict: What the records say; None: promoted without (`--force`).

    Raises:
        SetupError: The verdict is not above zero, or the folders cannot be moved.
    """
    import shutil

    if verdict is not None and not verdict.promote:
        raise SetupError(f"not promoted ({verdict.standing}): {verdict.why}", where=str(challenger))
    old, new = read_card(champion), read_card(challenger)
    kept = champion.with_name(f"{champion.name}.{old.version}")
    beside = champion.with_name(f".{champion.name}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(challenger, beside, ignore=shutil.ignore_patterns(HISTORY))
        with suppress(FileNotFoundError):
            shutil.copy(champion / HISTORY, beside / HISTORY)
        _note(beside, {"from": old.version, "to": new.version, "kept": kept.name, "verdict": _told(verdict)})
        shutil.rmtree(kept, ignore_errors=True)
        champion.rename(kept)
        beside.rename(champion)
    except OSError as error:
        raise SetupError(f"cannot be moved: {error.strerror or error}", where=str(champion)) from None
    return kept


def roll_back(champion: Path) -> str:
    """Put the router back that served before the last promotion; its version.

    Raises:
        SetupError: There was no promotion, the old router is gone, or the folders cannot be moved.
    """
    import shutil

    read_card(champion)
    past = [line for line in history(champion) if "kept" in line]
    undone = {line["of"] for line in history(champion) if "of" in line}
    past = [line for line in past if line["when"] not in undone]
    if not past:
        raise SetupError("there was no promotion to take back", where=str(champion))
    last = past[-1]
    kept = champion.with_name(str(last["kept"]))
    if not kept.is_dir():
        raise SetupError(f"the router that served before is gone: `{kept.name}` is no folder", where=str(champion))
    away = champion.with_name(f"{champion.name}.{last['to']}")
    try:
        shutil.copy(champion / HISTORY, kept / HISTORY)
        _note(kept, {"from": last["to"], "to": last["from"], "of": last["when"]})
        shutil.rmtree(away, ignore_errors=True)
        champion.rename(away)
        kept.rename(champion)
    except OSError as error:
        raise SetupError(f"cannot be moved: {error.strerror or error}", where=str(champion)) from None
    return read_card(champion).version


def history(champion: Path) -> list[dict[str, Json]]:
    """Promotions and roll-backs, oldest first."""
    try:
        lines = (champion / HISTORY).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.strip()]


def _note(folder: Path, line: dict[str, Json]) -> None:
    with (folder / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"when": time.time(), **line}) + "\n")


def _told(verdict: Verdict | None) -> Json:
    return None if verdict is None else verdict.to_json()


def monitor(card: RouterCard, records: Sequence[Decided]) -> list[drift.Reading]:
    """What the monitors say of a router's decisions, oldest first."""
    known = [record for record in records if record.question and record.decision.arm in card.ids]
    if not known:
        return []
    router, names = card.online.router, list(card.ids)
    features = router.featurizer.transform([record.question for record in known])
    prediction = router.predict_features(features)
    taken = np.array([names.index(record.decision.arm) for record in known])
    remembered = router.neighbours.x.astype(np.float64)
    readings = drift.questions(remembered, features[:, : remembered.shape[1]].astype(np.float64))
    for arm, name in enumerate(names):
        mine = [(row, known[row]) for row in np.flatnonzero(taken == arm)]
        readings += drift.errors([record.status == "failed" for _, record in mine], name)
        done = [(row, record) for row, record in mine if record.status == "done"]
        real = np.array([unit_cost(record.usage, router.manifest.unit) for _, record in done])
        readings += drift.costs(prediction.cost[[row for row, _ in done], arm].astype(np.float64), real, name)
        scored = [(row, record.score) for row, record in mine if record.score is not None]
        predicted = prediction.quality[[row for row, _ in scored], arm].astype(np.float64)
        readings += drift.calibration(predicted, np.array([score for _, score in scored], np.float64), name)
    return [*readings, *drift.shares(planned_shares(card), taken, names)]


def planned_shares(card: RouterCard) -> Matrix:
    """(A): how often each arm is taken on the questions that the router remembers from its training."""
    router = card.online.router
    remembered = np.asarray(router.arrays["near.x"] / STEPS, dtype=np.float32)
    decided = decide(router, router.predict_features(remembered), card.policy({})[0])
    counts = np.bincount([decision.index for decision in decided], minlength=len(card.ids))
    return np.asarray(counts / counts.sum(), dtype=np.float64)
