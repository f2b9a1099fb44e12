"""Champion and challenger: a new router takes the place of the one that serves only where records show it is better.

The challenger runs in shadow: it decides on the questions that the champion was asked, and calls nothing. What its
decisions would have earned is estimated from the champion's records (`offpolicy`), so these need some traffic on other
arms, which `explore` gives. Versions stay in the database; the champion is written to the folder that pipelines read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from inferloom.core.errors import DataError, SetupError
from inferloom.core.types import Json
from inferloom.routing import drift
from inferloom.routing.card import RouterCard, read_manifest
from inferloom.routing.history import cost_of
from inferloom.routing.model import STEPS
from inferloom.routing.offpolicy import Estimates, Logged, Matrix, Verdict, compare, estimate
from inferloom.routing.online import FILE, Online
from inferloom.routing.policy import decide
from inferloom.routing.router import Router
from inferloom.store import Store
from inferloom.store.decisions import Decided
from inferloom.store.routers import RouterRow


@dataclass(frozen=True, slots=True)
class Shadow:
    """A challenger's decisions beside what was served."""

    verdict: Verdict
    decisions: int
    """Of the champion, all."""
    scored: int
    """Those that the verdict rests on."""
    challenger: Estimates
    champion: Estimates

    def to_json(self) -> dict[str, Json]:
        """The comparison as plain JSON."""
        both = {"challenger": self.challenger.to_json(), "champion": self.champion.to_json()}
        return {"decisions": self.decisions, "scored": self.scored, **self.verdict.to_json(), **both}


def shadow(champion: RouterCard, challenger: RouterCard, records: Sequence[Decided], *, seed: int = 0) -> Shadow:
    """Whether a challenger would have done better than the champion on what that was asked.

    Rewards are scores less the price (that of the latest decision) of their real cost. The two routers' own choices
    are compared, without what either would try out.

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
    served = served_policy(known)
    weighed, _ = champion.policy(served)
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
    theirs, own = (_taken(card, questions, places, served) for card in (challenger, champion))
    verdict = compare(logged, theirs, own, seed=seed)
    return Shadow(verdict, len(records), len(known), estimate(logged, theirs), estimate(logged, own))


def _reward(record: Decided, price: float, unit: str) -> float:
    assert record.score is not None, "only scored records are compared"
    return record.score - price * cost_of(record.usage, unit)


def served_policy(records: Sequence[Decided]) -> dict[str, Json]:
    """What the pipeline's policy says of the price, from its latest decision: the price is not the router's own."""
    price = records[-1].decision.reasons.get("price")
    return {"price": price} if isinstance(price, int | float) else {}


def _taken(card: RouterCard, questions: Sequence[str], places: dict[str, int], policy: Mapping[str, Json]) -> Matrix:
    """(N, A): 1 where a router takes an arm."""
    router = card.online.router
    decided = decide(router, router.predict(questions), card.policy(policy)[0])
    taken = np.zeros((len(questions), len(places)))
    taken[np.arange(len(questions)), [places[decision.arm] for decision in decided]] = 1.0
    return taken


def promote(store: Store, name: str, version: int, shadow: Shadow | None, folder: Path | None) -> RouterRow:
    """Make a version the champion, in the database and in the folder that pipelines read.

    Args:
        store: Where the versions are.
        name: The router's.
        version: The challenger's.
        shadow: What the records say; None: promoted without (`--force`).
        folder: Where pipelines read the router; None: nowhere.

    Raises:
        SetupError: The difference is not surely above zero, or the folder cannot be written.
    """
    if shadow is not None and not shadow.verdict.promote:
        raise SetupError(
            f"not promoted ({shadow.verdict.standing}): {shadow.verdict.why}", where=f"router {name}, version {version}"
        )
    row = store.routers.get(name, version)
    _install(store, row, folder)
    return store.routers.set_status(name, version, "champion")


def roll_back(store: Store, name: str, folder: Path | None) -> RouterRow:
    """Make the version the champion that was it before, in the database and in the folder that pipelines read.

    Raises:
        SetupError: No other version was ever champion, or the folder cannot be written.
    """
    now = store.routers.get(name)
    before = [row for row in store.routers.all(name) if row.promoted is not None and row.version != now.version]
    if not before:
        raise SetupError("no other version was champion before, so there is none to go back to", where=f"router {name}")
    last = max(before, key=lambda row: row.promoted or 0.0)
    _install(store, last, folder)
    return store.routers.set_status(name, last.version, "champion")


def _install(store: Store, row: RouterRow, folder: Path | None) -> None:
    if folder is None:
        return
    router_of(store, row).save(folder)
    # What was learned of the former router says nothing about this one.
    with suppress(FileNotFoundError):
        (folder / FILE).unlink()


def router_of(store: Store, row: RouterRow) -> Router:
    """A version's router.

    Raises:
        DataError: It is damaged.
    """
    return Router.from_blob(row.manifest, store.routers.weights(row), where=f"router {row.name}, version {row.version}")


def card_of(store: Store, row: RouterRow) -> RouterCard:
    """A version as pipelines would see it, without anything learned while serving."""
    where = f"router {row.name}, version {row.version}"
    return read_manifest(row.manifest, lambda: Online(router_of(store, row)), where)


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
        real = np.array([cost_of(record.usage, router.manifest.unit) for _, record in done])
        readings += drift.costs(prediction.cost[[row for row, _ in done], arm].astype(np.float64), real, name)
        scored = [(row, record.score) for row, record in mine if record.score is not None]
        predicted = prediction.quality[[row for row, _ in scored], arm].astype(np.float64)
        readings += drift.calibration(predicted, np.array([score for _, score in scored], np.float64), name)
    return [*readings, *drift.shares(planned_shares(card, served_policy(known)), taken, names)]


def planned_shares(card: RouterCard, policy: Mapping[str, Json]) -> Matrix:
    """(A): how often each arm is taken on the questions that the router remembers from its training."""
    router = card.online.router
    remembered = np.asarray(router.arrays["near.x"] / STEPS, dtype=np.float32)
    decided = decide(router, router.predict_features(remembered), card.policy(policy)[0])
    counts = np.bincount([decision.index for decision in decided], minlength=len(card.ids))
    return np.asarray(counts / counts.sum(), dtype=np.float64)
