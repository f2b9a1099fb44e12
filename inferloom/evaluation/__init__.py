"""Data sets, splits, graders and statistics, and running a pipeline over items."""

from inferloom.evaluation.data import DataSet, DataSpec, load_items
from inferloom.evaluation.evaluate import Evaluation, ItemResult, evaluate
from inferloom.evaluation.graders import GRADERS, CallableGrader, Grader, make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.splits import Splits, SplitSpec, split_items
from inferloom.evaluation.stats import Interval, mean_interval, paired_difference

__all__ = [
    "GRADERS",
    "CallableGrader",
    "DataSet",
    "DataSpec",
    "Evaluation",
    "Grader",
    "Interval",
    "Item",
    "ItemResult",
    "SplitSpec",
    "Splits",
    "evaluate",
    "load_items",
    "make_grader",
    "mean_interval",
    "paired_difference",
    "split_items",
]
