"""The task families that the pocket models are trained on and measured with."""

from inferloom.models.pocket.tasks.arithmetic import Multiply, Sum
from inferloom.models.pocket.tasks.base import ANSWER_MARK, Family, Item, final_answer
from inferloom.models.pocket.tasks.conventions import Code, Operator
from inferloom.models.pocket.tasks.letters import Count, Reverse
from inferloom.models.pocket.tasks.sorting import Sort
from inferloom.models.pocket.tasks.story import Story
from inferloom.models.pocket.tasks.target import Target

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (Sum(), Multiply(), Count(), Sort(), Reverse(), Target(), Story(), Operator(), Code())
}

__all__ = ["ANSWER_MARK", "FAMILIES", "Family", "Item", "final_answer"]
