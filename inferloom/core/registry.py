"""Names for parts: one registry per kind, filled by decorators, with near-match errors and entry points for outsiders.

A package adds its own parts by an entry point in the group `inferloom`; entry points are loaded only when a lookup
misses, and their names are spaced `package/name`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from inferloom.core.errors import SetupError, UnknownNameError

T = TypeVar("T")
_GROUP = "inferloom"


class Registry(Generic[T]):
    """The parts of one kind by name.

    Args:
        what: The kind as the user calls it ("node", "grader").
        modules: Modules whose import registers the built-in parts; imported at the first lookup.
    """

    def __init__(self, what: str, *modules: str) -> None:
        self.what = what
        self._modules = modules
        self._parts: dict[str, T] = {}
        self._filled = False
        self._outsiders = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a part with its name.

        Raises:
            SetupError: The name is taken by another part; the message shows both.
        """

        def add(part: T) -> T:
            taken = self._parts.get(name)
            if taken is not None and _described(taken) != _described(part):
                raise SetupError(
                    f"{self.what} `{name}` is defined twice, by {_described(taken)} and by {_described(part)}; "
                    "names must differ"
                )
            self._parts[name] = part
            return part

        return add

    def get(self, name: str, *, where: str | None = None) -> T:
        """Look a name up.

        Raises:
            UnknownNameError: Nothing has this name; it lists the nearest.
        """
        self._fill()
        if name not in self._parts:
            self._load_outsiders()
        if name not in self._parts:
            raise UnknownNameError(self.what, name, self._parts, where=where)
        return self._parts[name]

    def names(self) -> list[str]:
        """Every registered name, sorted; outsiders included."""
        self._fill()
        self._load_outsiders()
        return sorted(self._parts)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        for name in self.names():
            yield name, self._parts[name]

    def __contains__(self, name: str) -> bool:
        self._fill()
        return name in self._parts

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True
            for module in self._modules:
                importlib.import_module(module)

    def _load_outsiders(self) -> None:
        if not self._outsiders:
            self._outsiders = True
            for point in entry_points(group=_GROUP):
                point.load()


def _described(part: object) -> str:
    module = getattr(part, "__module__", "?")
    return f"{module}.{getattr(part, '__qualname__', repr(part))}"
