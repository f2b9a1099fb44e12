"""MCTS: the rules of choice, what a simulation does, what a node is worth, and how answers are voted."""

import math

import pytest

from inferloom.nodes.mcts import Mcts, MctsParams
from inferloom.nodes.stepping import Partial
from inferloom.nodes.tree import Branch, back_up, puct, uct
from tests.support.steps import StepTree, drawn, graded, search, written

DEEP = StepTree(
    {
        "": ["x\n", "y\n", "A: 9"],
        "x\n": ["x1\n", "A: 2"],
        "y\n": ["A: 3"],
        "x\nx1\n": ["A: 2"],
    },
    {"A: 9": 8, "x": 7, "y": 1, "x\nx1": 6, "x\nA: 2": 5, "x\nx1\nA: 2": 5, "y\nA: 3": 1},
)


def test_puct_and_uct() -> None:
    child = Branch(Partial(), prior=0.5, visits=3, total=1.5)
    weight = 1.25 + math.log((10 + 19652 + 1) / 19652)
    assert puct(child, 10, 1.25) == pytest.approx(0.5 + weight * 0.5 * math.sqrt(10) / 4)
    assert uct(child, 10, 2.0) == pytest.approx(0.5 + 2 * math.sqrt(math.log(10) / 3))
    assert uct(Branch(Partial()), 10, 2.0) == math.inf
    assert puct(Branch(Partial(), prior=0.5), 10, 0.0) < 0.01


def test_a_reward_counts_for_all_above() -> None:
    root = Branch(Partial())
    child = Branch(Partial(), root)
    leaf = Branch(Partial(), child)
    back_up(leaf, 0.5)
    back_up(child, 1.0)
    assert [(node.visits, node.total) for node in (root, child, leaf)] == [(2, 1.5), (2, 1.5), (1, 0.5)]
    assert root.mean == 0.75 and list(leaf.way()) == [leaf, child]


def test_a_simulation_draws_the_steps_of_one_node_in_one_request_and_values_one_of_them() -> None:
    context = DEEP.context()
    search("mcts", context, simulations=1, width=3)
    # Solutions are graded when they are drawn; of the others, only the chosen one.
    assert drawn(context) == [("", 3)]
    assert graded(context) == ["A: 9", "x"]


def test_the_tree_grows_where_it_pays() -> None:
    context = DEEP.context()
    search("mcts", context, simulations=12, width=2, exploration=0.1)
    asked = [text for text, _ in drawn(context)]
    assert asked[:3] == ["", "x\n", "x\nx1\n"]
    assert "y\n" not in asked
    wide = DEEP.context()
    search("mcts", wide, simulations=12, width=2, exploration=50)
    assert "y\n" in [text for text, _ in drawn(wide)]


def test_the_rule_of_choice_can_be_chosen() -> None:
    tree = StepTree({"": ["x\n", "x\n", "y\n"], "x\n": ["A: 1"], "y\n": ["A: 2"]}, {"x": 9, "y": 9})
    looked = {}
    for selection in ("puct", "uct"):
        context = tree.context()
        search("mcts", context, simulations=2, width=3, selection=selection)
        looked[selection] = graded(context)[:2]
    # The share of the draws leads PUCT back to x; UCT tries every step once first.
    assert looked == {"puct": ["x", "x\nA: 1"], "uct": ["x", "y"]}


def test_equal_steps_are_one_child_with_their_share_of_the_draws() -> None:
    tree = StepTree({"": ["y\n", "x\n", "x\n"], "x\n": ["A: 1"], "y\n": ["A: 2"]})
    context = tree.context()
    made = search("mcts", context, simulations=1, width=3)
    assert graded(context)[0] == "x"  # the likelier one, though it was not drawn first
    assert [candidate.answer for candidate in made] == ["1"] * 3  # played out, since nothing had ended


def test_answers_are_voted_by_the_rewards_of_all_nodes_that_support_them() -> None:
    context = DEEP.context()
    made = search("mcts", context, simulations=12, width=3, exploration=1)
    answers = [candidate.answer for candidate in made]
    # 9 has one node of 8; 2 has x, x1 and its own solutions: 7 + 6 + 5 + 5. The best solution stays in the list.
    assert answers[0] == "2" and "9" in answers
    assert max(made, key=lambda candidate: candidate.scores["step"]).answer == "9"
    groups = [answer for index, answer in enumerate(answers) if index == 0 or answers[index - 1] != answer]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize(
    ("x", "first", "second", "winner"),
    [
        (6, 4, 4, "2"),  # 6 + 4 against 8: what a solution goes on from supports its answer
        (3, 4, 4, "9"),  # 3 + 4
        (5, 1, 1, "9"),  # 5 + 1 + 1: a node that leads to two solutions of one answer counts once
        (5, 2, 2, "2"),  # 5 + 2 + 2
    ],
)
def test_a_supporting_node_counts_once(x: int, first: int, second: int, winner: str) -> None:
    steps = ["A: 2", "A:  2"] if first < 4 else ["A: 2"]
    tree = StepTree({"": ["x\n", "A: 9"], "x\n": steps}, {"A: 9": 8, "x": x, "x\nA: 2": first, "x\nA:  2": second})
    made = search("mcts", tree.context(), simulations=9, width=2, selection="uct")
    assert {candidate.answer for candidate in made} == {"2", "9"}
    assert made[0].answer == winner


def test_what_ended_is_walked_to_but_never_extended() -> None:
    tree = StepTree({"": ["A: 1", "b\n"], "b\n": ["A: 2"]}, {"A: 1": 9, "b": 0, "b\nA: 2": 0})
    context = tree.context()
    made = search("mcts", context, simulations=100, width=2, exploration=0.01)
    assert made[0].text == "A: 1"
    assert len(graded(context)) == len(set(graded(context))) <= 3  # graded once, however often visited


def test_a_rollout_is_played_to_the_end_and_its_grades_are_the_value() -> None:
    tree = StepTree(
        {"": ["x\n", "y\n"], "x\n": ["x1\n", "x2\n"], "x\nx1\n": ["A: 1"], "x\nx2\n": ["A: 2"], "y\n": ["A: 3"]},
        {"x\nx1\nA: 1": 9, "x\nx2\nA: 2": 3, "y\nA: 3": 1, "x": 0},
    )
    context = tree.context()
    made = search("mcts", context, simulations=1, width=2, value="rollout", rollouts=3, aggregate="mean")
    assert drawn(context) == [("", 2), ("x\n", 3)]
    played = context.requests[1][1]
    assert (written(played), played.stop, played.max_tokens) == ("x\n", (), 512)
    assert graded(context) == ["x\nx1\nA: 1", "x\nx2\nA: 2"]  # never the partial text itself
    assert [candidate.answer for candidate in made] == ["1", "1", "2"]


def test_the_value_of_a_rollout_leads_the_search() -> None:
    tree = StepTree(
        {"": ["x\n", "y\n"], "x\n": ["A: 1"], "y\n": ["y1\n", "y2\n"], "y\ny1\n": ["A: 2"], "y\ny2\n": ["A: 2"]},
        {"x\nA: 1": 0, "y\ny1\nA: 2": 9, "y\ny2\nA: 2": 9, "x": 9, "y": 0},
    )
    context = tree.context()
    made = search("mcts", context, simulations=3, width=2, value="rollout", selection="uct")
    # Both are played out once; then the search goes on below y, whose rollout was graded 9.
    assert [text for text, _ in drawn(context)][:4] == ["", "x\n", "y\n", "y\n"]
    assert made[0].answer == "2"


def test_where_nothing_ended_the_best_partial_solution_is_played_out() -> None:
    tree = StepTree({"": ["a\n", "b\n"], "a\n": ["a1\n"], "a\na1\n": ["A: 1"], "b\n": ["A: 2"]}, {"a": 2, "b": 8})
    context = tree.context()
    made = search("mcts", context, simulations=2, width=2, selection="uct")
    assert drawn(context) == [("", 2), ("b\n", 2)]
    assert context.requests[-2][1].stop == ()
    assert [(candidate.answer, candidate.finished) for candidate in made] == [("2", True)] * 2


def test_a_very_deep_tree_is_no_trouble() -> None:
    params = MctsParams(model="m", simulations=1000, width=1, max_steps=1000, step_tokens=1)
    tree = StepTree({"a\n" * depth: ["a\n"] for depth in range(1000)} | {"a\n" * 999: ["A: 1"]})
    assert Mcts(params).calls(0) == (2, 2 * (1000 + 1))
    made = search("mcts", tree.context(), simulations=1000, width=1, max_steps=1000, max_tokens=4000)
    assert [candidate.answer for candidate in made] == ["1"]


@pytest.mark.parametrize("value", ["judge", "rollout"])
def test_the_bound_on_calls_holds_for_awkward_trees(value: str) -> None:
    for width in (1, 2, 3):
        for simulations in (1, 2, 5, 9):
            for steps in (1, 2, 3):
                context = StepTree({}).context()
                # Every text is new, every second step ends at once, and every grade differs.
                context.reply = lambda model, request, index: (
                    str((len(request.messages[-2].content) + index) % 10)
                    if written(request) is None
                    else f"A: {index}"
                    if index % 2
                    else f"s{index}\n"
                )
                search("mcts", context, simulations=simulations, width=width, max_steps=steps, value=value, rollouts=2)
