"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.best import Best
from inferloom.nodes.critique import Critique
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.rank import Rank
from inferloom.nodes.refine import Refine
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.verify import Verify
from inferloom.nodes.vote import Vote

__all__ = ["Best", "Critique", "Fuse", "Rank", "Refine", "Sample", "Score", "Verify", "Vote"]
