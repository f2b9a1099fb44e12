"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.best import Best
from inferloom.nodes.critique import Critique
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.program_check import ProgramCheck
from inferloom.nodes.rank import Rank
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.unit_tests import UnitTests
from inferloom.nodes.vote import Vote

__all__ = ["Best", "Critique", "Fuse", "ProgramCheck", "Rank", "Sample", "Score", "UnitTests", "Vote"]
