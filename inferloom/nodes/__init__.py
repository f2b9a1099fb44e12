"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.sample import Sample
from inferloom.nodes.vote import Vote

__all__ = ["Sample", "Vote"]
