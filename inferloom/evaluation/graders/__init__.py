"""Graders: one file each. To add one, write its file, name it here, and add a case to the contract test."""

from inferloom.evaluation.graders.base import GRADERS, Grader, GraderParams, GraderSpec, make_grader, register_grader
from inferloom.evaluation.graders.callable import CallableGrader
from inferloom.evaluation.graders.choice import Choice
from inferloom.evaluation.graders.code import Code
from inferloom.evaluation.graders.contains import Contains
from inferloom.evaluation.graders.exact import Exact
from inferloom.evaluation.graders.judge import Judge
from inferloom.evaluation.graders.math import Math
from inferloom.evaluation.graders.numeric import Numeric
from inferloom.evaluation.graders.pairwise import Pairwise
from inferloom.evaluation.graders.pocket import Pocket
from inferloom.evaluation.graders.regex import Regex

__all__ = [
    "GRADERS",
    "CallableGrader",
    "Choice",
    "Code",
    "Contains",
    "Exact",
    "Grader",
    "GraderParams",
    "GraderSpec",
    "Judge",
    "Math",
    "Numeric",
    "Pairwise",
    "Pocket",
    "Regex",
    "make_grader",
    "register_grader",
]
