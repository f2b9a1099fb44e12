"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.best import Best
from inferloom.nodes.critique import Critique
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.generative_reward import GenerativeReward
from inferloom.nodes.listwise import Listwise
from inferloom.nodes.pairwise import Pairwise
from inferloom.nodes.rank import Rank
from inferloom.nodes.reward_model import RewardModel
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.score_criteria import ScoreCriteria
from inferloom.nodes.score_steps import ScoreSteps
from inferloom.nodes.vote import Vote

__all__ = [
    "Best",
    "Critique",
    "Fuse",
    "GenerativeReward",
    "Listwise",
    "Pairwise",
    "Rank",
    "RewardModel",
    "Sample",
    "Score",
    "ScoreCriteria",
    "ScoreSteps",
    "Vote",
]
