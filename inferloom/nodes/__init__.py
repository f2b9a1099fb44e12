"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.beam_search import BeamSearch
from inferloom.nodes.best import Best
from inferloom.nodes.critique import Critique
from inferloom.nodes.dvts import Dvts
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.mcts import Mcts
from inferloom.nodes.particle_filter import ParticleFilter
from inferloom.nodes.rank import Rank
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.vote import Vote

__all__ = [
    "BeamSearch",
    "Best",
    "Critique",
    "Dvts",
    "Fuse",
    "Mcts",
    "ParticleFilter",
    "Rank",
    "Sample",
    "Score",
    "Vote",
]
