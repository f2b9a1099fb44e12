"""DVTS: trees do not compete, and what is handed on has ended."""

from tests.support.steps import StepTree, drawn, search


def test_a_tree_goes_on_with_its_own_best_however_good_the_others_are() -> None:
    tree = StepTree(
        {"": ["a\n", "b\n", "c\n", "d\n"], "b\n": ["A: 1"], "c\n": ["A: 2"]},
        {"a": 8, "b": 9, "c": 2, "d": 1, "b\nA: 1": 3, "c\nA: 2": 7},
    )
    context = tree.context()
    made = search("dvts", context, n=4, width=2)
    assert drawn(context) == [("", 4), ("b\n", 2), ("c\n", 2)]
    assert [candidate.answer for candidate in made] == ["2", "2", "1", "1"]


def test_only_what_ended_is_handed_on_also_where_a_better_sibling_went_on() -> None:
    tree = StepTree({"": ["a\n", "A: 1"], "a\n": ["A: 2", "a2\n"]}, {"a": 9, "A: 1": 4, "a\nA: 2": 8, "a\na2": 1})
    context = tree.context()
    made = search("dvts", context, n=2, width=2)
    assert drawn(context) == [("", 2), ("a\n", 2)]
    assert [(candidate.answer, candidate.finished) for candidate in made] == [("2", True), ("1", True)]


def test_a_tree_ends_with_its_best_or_when_width_solutions_ended() -> None:
    ended = StepTree({"": ["a\n", "A: 1"]}, {"a": 3, "A: 1": 4})
    context = ended.context()
    assert [candidate.answer for candidate in search("dvts", context, n=2, width=2)] == ["1"]
    assert drawn(context) == [("", 2)]
    full = StepTree({"": ["a\n", "A: 1"], "a\n": ["b\n", "A: 2"]}, {"a": 9, "a\nb": 9, "A: 1": 1, "a\nA: 2": 2})
    context = full.context()
    assert [candidate.answer for candidate in search("dvts", context, n=2, width=2)] == ["2", "1"]
    assert drawn(context) == [("", 2), ("a\n", 2)]


def test_one_tree_that_ended_does_not_hold_up_or_feed_the_others() -> None:
    tree = StepTree(
        {"": ["A: 1", "a\n", "b\n", "c\n"], "b\n": ["b2\n"], "b\nb2\n": ["A: 3"]}, {"A: 1": 9, "a": 5, "b": 5, "c": 4}
    )
    context = tree.context()
    made = search("dvts", context, n=4, width=2)
    assert drawn(context) == [("", 4), ("b\n", 2), ("b\nb2\n", 2)]
    assert [candidate.answer for candidate in made] == ["1", "3", "3"]
