"""The built-in techniques, one module each. Importing this package registers them."""

from inferloom.nodes.adaptive_sample import AdaptiveSample
from inferloom.nodes.beam_search import BeamSearch
from inferloom.nodes.best import Best
from inferloom.nodes.calibrate import Calibrate
from inferloom.nodes.critique import Critique
from inferloom.nodes.curate import Curate
from inferloom.nodes.dvts import Dvts
from inferloom.nodes.few_shot import FewShot
from inferloom.nodes.fuse import Fuse
from inferloom.nodes.gauge import Gauge
from inferloom.nodes.generative_reward import GenerativeReward
from inferloom.nodes.listwise import Listwise
from inferloom.nodes.mcts import Mcts
from inferloom.nodes.nudging import Nudging
from inferloom.nodes.oracle import Oracle
from inferloom.nodes.pairwise import Pairwise
from inferloom.nodes.particle_filter import ParticleFilter
from inferloom.nodes.program_check import ProgramCheck
from inferloom.nodes.random import Random
from inferloom.nodes.rank import Rank
from inferloom.nodes.recall import Recall
from inferloom.nodes.refine import Refine
from inferloom.nodes.rerank import Rerank
from inferloom.nodes.retrieve import Retrieve
from inferloom.nodes.reward_model import RewardModel
from inferloom.nodes.safety import Safety
from inferloom.nodes.sample import Sample
from inferloom.nodes.score import Score
from inferloom.nodes.score_criteria import ScoreCriteria
from inferloom.nodes.score_steps import ScoreSteps
from inferloom.nodes.shuffle_choices import ShuffleChoices
from inferloom.nodes.spec_reason import SpecReason
from inferloom.nodes.speculative_thinking import SpeculativeThinking
from inferloom.nodes.top_k import TopK
from inferloom.nodes.unit_tests import UnitTests
from inferloom.nodes.verify import Verify
from inferloom.nodes.vote import Vote

__all__ = [
    "AdaptiveSample",
    "BeamSearch",
    "Best",
    "Calibrate",
    "Critique",
    "Curate",
    "Dvts",
    "FewShot",
    "Fuse",
    "Gauge",
    "GenerativeReward",
    "Listwise",
    "Mcts",
    "Nudging",
    "Oracle",
    "Pairwise",
    "ParticleFilter",
    "ProgramCheck",
    "Random",
    "Rank",
    "Recall",
    "Refine",
    "Rerank",
    "Retrieve",
    "RewardModel",
    "Safety",
    "Sample",
    "Score",
    "ScoreCriteria",
    "ScoreSteps",
    "ShuffleChoices",
    "SpecReason",
    "SpeculativeThinking",
    "TopK",
    "UnitTests",
    "Verify",
    "Vote",
]
