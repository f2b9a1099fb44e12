"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.adaptive_sample import AdaptiveSample
from inferloom.nodes.best import Best
from inferloom.nodes.calibrate import Calibrate
from inferloom.nodes.critique import Critique
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.oracle import Oracle
from inferloom.nodes.random import Random
from inferloom.nodes.rank import Rank
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.top_k import TopK
from inferloom.nodes.vote import Vote

__all__ = [
    "AdaptiveSample",
    "Best",
    "Calibrate",
    "Critique",
    "Fuse",
    "Oracle",
    "Random",
    "Rank",
    "Sample",
    "Score",
    "TopK",
    "Vote",
]
