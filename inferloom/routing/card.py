"""A router as a pipeline sees it: its card is read at once, what it learned only when it first chooses.

The policy under `route` in YAML is the router's own with these keys changed. Arms go by the names that `arm_names`
gives them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, cast

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, SpecError, nearest
from inferloom.core.types import Choice, Json
from inferloom.routing.explore import Explore

if TYPE_CHECKING:
    from inferloom.routing.online import Online
    from inferloom.routing.policy import Policy

_NUMBERS: Mapping[str, str] = {"price": "lam", "margin": "margin", "max_cost": "max_cost", "floor": "floor"}
"""Keys that take a number, with the field of `Policy` that each sets."""
KEYS = (*_NUMBERS, "default", "allowed", "unfamiliar", "cost_factor", "explore")


class RouterCard:
    """A router by its manifest.

    Args:
        manifest: As the router wrote it.
        version: Stands for it.
        load: Reads the router itself.
    """

    def __init__(self, manifest: Mapping[str, Json], version: str, load: Callable[[], Online]) -> None:
        self.version = version
        self._load = load
        self._read_last: tuple[Mapping[str, Json], tuple[Policy, Explore | None]] | None = None
        """A pipeline comes with the same policy each time."""
        self.name = str(manifest["name"])
        arms = cast("list[dict[str, Json]]", manifest["arms"])
        self.ids = arm_names([(str(arm["id"]), str(arm["label"])) for arm in arms])
        """The arms' ids by name, in the router's order."""
        self.arms: dict[str, str | None] = {
            name: None if arm.get("yaml") is None else str(arm["yaml"])
            for name, arm in zip(self.ids, arms, strict=True)
        }
        self._policy = cast("dict[str, Json]", manifest["policy"])

    @cached_property
    def online(self) -> Online:
        """The router itself, with what it learned since."""
        return self._load()

    def check_policy(self, policy: Mapping[str, Json]) -> None:
        """See that a policy is one.

        Raises:
            SpecError: It has an unknown key, or a wrong value.
        """
        self.policy(policy)

    def policy(self, told: Mapping[str, Json]) -> tuple[Policy, Explore | None]:
        """The router's own policy with some keys changed, and what may be tried out.

        Raises:
            SpecError: A key is unknown, or a value is wrong.
        """
        from inferloom.routing.policy import Policy

        changes: dict[str, object] = {}
        for key, value in told.items():
            if key in _NUMBERS:
                changes[_NUMBERS[key]] = _number(key, value)
            elif key == "default":
                changes[key] = self._arm(value, key)
            elif key == "allowed":
                if not isinstance(value, list) or not value:
                    raise SpecError(f"`allowed` must be a list of arms: {', '.join(self.ids)}")
                changes[key] = tuple(self._arm(name, key) for name in value)
            elif key == "unfamiliar":
                if not isinstance(value, bool):
                    raise SpecError("`unfamiliar` must be true or false")
                changes[key] = value
            elif key == "cost_factor":
                if not isinstance(value, dict):
                    raise SpecError("`cost_factor` must map arms to numbers, such as `{dear: 0.5}`")
                changes[key] = {self._arm(name, key): _number(f"{key}.{name}", one) for name, one in value.items()}
            elif key != "explore":
                near = nearest(key, KEYS)
                known = "" if near else f"; a policy has {', '.join(KEYS)}"
                raise SpecError(f"unknown key `{key}` of a policy{known}", suggestion=near)
        explore = _explore(told["explore"]) if "explore" in told else None
        return replace(Policy.from_json(self._policy), **changes), explore  # type: ignore[arg-type] # checked above

    def _arm(self, name: Json, key: str) -> str:
        if not isinstance(name, str) or name not in self.ids:
            near = nearest(name, self.ids) if isinstance(name, str) else None
            known = "" if near else f"; its arms are {', '.join(self.ids)}"
            raise SpecError(f"`{key}` names `{name}`, which is no arm of the router{known}", suggestion=near)
        return self.ids[name]

    def choose(self, question: str, policy: Mapping[str, Json], rng: Random) -> Choice:
        """The arm for a question, with its chance and the reasons."""
        if self._read_last is None or self._read_last[0] is not policy:
            self._read_last = (policy, self.policy(policy))
        weighed, explore = self._read_last[1]
        chosen = self.online.choose(question, weighed, explore, rng)
        names = list(self.ids)
        options: list[Json] = [
            {
                "arm": names[place],
                "quality": round(option.quality, 4),
                "spread": round(option.spread, 4),
                "cost": round(option.cost, 4),
                "utility": round(option.utility, 4) if option.feasible else None,
            }
            for place, option in enumerate(chosen.decision.options)
        ]
        return Choice(
            arm=names[chosen.arm],
            reasons={
                "reason": "explored" if chosen.explored else chosen.decision.reason,
                "words": list(chosen.words),
                "options": options,
                "price": weighed.lam,
                "chances": {names[place]: float(chance) for place, chance in enumerate(chosen.chances) if chance > 0},
                "learned": chosen.learned,
            },
            router=self.name,
            version=self.version,
            propensity=float(chosen.chances[chosen.arm]),
            explored=chosen.explored,
        )


def _number(key: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise SpecError(f"`{key}` of a policy must be a number from 0, not `{value}`")
    return float(value)


def _explore(value: Json) -> Explore | None:
    # A pipeline's questions carry no tags to go by.
    known = [field.name for field in fields(Explore) if field.name != "bypass"]
    if value is False or value is None:
        return None
    if value is True:
        return Explore()
    if not isinstance(value, dict):
        raise SpecError(f"`explore` must be true, false or a mapping of {', '.join(known)}")
    for key in value:
        if key not in known:
            raise SpecError(f"unknown key `{key}` of `explore`", suggestion=nearest(key, known))
    return Explore(**value)  # type: ignore[arg-type] # Explore checks


def arm_names(arms: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names by which YAML calls arms, with their ids: plain labels stay, others lose what YAML or paths would mind.

    Args:
        arms: (id, label) of each.
    """
    plain = [re.sub(r"[^\w.-]+", "-", label).strip("-") or id[:8] for id, label in arms]
    counts = Counter(plain)
    return {name if counts[name] == 1 else f"{name}-{id[:8]}": id for name, (id, _) in zip(plain, arms, strict=True)}


def read_card(folder: Path) -> RouterCard:
    """The router in a folder.

    Raises:
        DataError: There is none, or it is corrupt.
    """
    path = folder / "manifest.json"
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(
            f"there is no router in `{folder}`: `manifest.json` cannot be read ({error.strerror})"
        ) from None
    learned = folder / "online.safetensors"
    since = learned.stat().st_mtime_ns if learned.exists() else 0
    return _read(path.resolve(), (stat.st_mtime_ns, stat.st_size, since))


@lru_cache(maxsize=64)
def _read(path: Path, state: tuple[int, int, int]) -> RouterCard:
    def load() -> Online:
        from inferloom.routing.online import Online

        return Online.load(path.parent)

    return read_manifest(path.read_text(encoding="utf-8", errors="replace"), load, str(path.parent))


def read_manifest(text: str, load: Callable[[], Online], where: str) -> RouterCard:
    """The card of a manifest.

    Args:
        text: The manifest.
        load: Reads the router itself.
        where: Where it comes from.

    Raises:
        DataError: It is no manifest.
    """
    try:
        return RouterCard(json.loads(text), digest(text, 8), load)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the router in `{where}` is corrupt: its manifest cannot be read ({error})") from None
