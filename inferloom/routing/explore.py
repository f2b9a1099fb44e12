"""How much a router may try out while it serves."""

from __future__ import annotations

from dataclasses import dataclass

from inferloom.core.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Explore:
    """How much may be tried out. The limits hold on every question, in expectation, and so in sum.

    Raises:
        SpecError: A value is out of range.
    """

    share: float = 0.05
    """The most of the traffic that does not go to the arm that is expected to be best."""
    extra: float = 0.05
    """The most that trying out may cost on top, as a share of what would be spent without it."""
    random: float = 0.01
    """The part of `share` that goes to any arm alike: the unbiased yardstick."""
    floor: float = 0.001
    """Arms whose chance would be lower are not tried, so that no weight is above 1 / floor."""
    bypass: tuple[str, ...] = ()
    """Tags of questions on which nothing is tried."""

    def __post_init__(self) -> None:
        for name, most in (("share", 1.0), ("extra", 10.0), ("random", 1.0), ("floor", 0.1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise SpecError(f"`{name}` is {value}; it must be a number from 0 to {most:g}", where="explore")
        if self.random > self.share:
            raise SpecError(
                f"`random` is {self.random:g}; it is a part of `share` and must not be above it, {self.share:g}",
                where="explore",
            )
