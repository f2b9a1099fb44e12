"""Beam search: which beams are kept and how often each is continued, when it ends, and what it hands on."""

from tests.support.steps import StepTree, drawn, graded, search

TREE = StepTree(
    {
        "": ["a\n", "b\n", "c\n", "d\n"],
        "b\n": ["b1\n", "A: 1"],
        "c\n": ["A: 2", "A: 3"],
        "b\nb1\n": ["A: 4"],
    },
    {"a": 3, "b": 7, "c": 5, "d": 1, "b\nb1": 2, "b\nA: 1": 4, "c\nA: 2": 9, "c\nA: 3": 6, "b\nb1\nA: 4": 5},
)


def test_the_best_are_kept_and_each_is_continued_width_times() -> None:
    context = TREE.context()
    made = search("beam_search", context, n=4, width=2)
    # Of four first steps the two best go on; then one beam is left, and all four draws are its own.
    assert drawn(context) == [("", 4), ("b\n", 2), ("c\n", 2), ("b\nb1\n", 4)]
    # Every solution that ended is there, the best first, though it ended an iteration before the last.
    assert [candidate.answer for candidate in made] == ["2", "3", "4", "4", "4", "4", "1"]
    assert [round(9 * candidate.scores["step"]) for candidate in made] == [9, 6, 5, 5, 5, 5, 4]
    assert len(graded(context)) == len(set(graded(context))) == 9


def test_one_wide_tree_follows_the_best_only() -> None:
    context = TREE.context()
    made = search("beam_search", context, n=4, width=4)
    assert drawn(context)[:2] == [("", 4), ("b\n", 4)]
    assert {candidate.answer for candidate in made} == {"1", "4"}


def test_width_one_keeps_every_beam() -> None:
    tree = StepTree({"": ["a\n", "b\n"], "a\n": ["A: 1"], "b\n": ["A: 2"]}, {"a": 0, "b": 9})
    context = tree.context()
    assert {candidate.answer for candidate in search("beam_search", context, n=2, width=1)} == {"1", "2"}
    assert drawn(context) == [("", 2), ("b\n", 1), ("a\n", 1)]


def test_the_aggregate_decides_which_beams_are_kept() -> None:
    tree = StepTree(
        {"": ["a\n", "b\n"], "a\n": ["a1\n"], "b\n": ["b1\n"], "a\na1\n": ["A: 1"], "b\nb1\n": ["A: 2"]},
        {"a": 1, "a\na1": 8, "b": 6, "b\nb1": 7},
    )
    kept = {}
    for how in ("last", "min"):
        context = tree.context()
        search("beam_search", context, n=2, width=1, aggregate=how)
        kept[how] = drawn(context)[3][0]
    assert kept == {"last": "a\na1\n", "min": "b\nb1\n"}


def test_it_ends_when_enough_have_ended() -> None:
    tree = StepTree({"": ["A: 1", "A: 2", "b\n", "b\n"], "b\n": ["A: 3", "b2\n"], "b\nb2\n": ["A: 4"]}, {"b": 9})
    context = tree.context()
    made = search("beam_search", context, n=4, width=2)
    # Two ended at once and two more with the second step: the beam that is left is not needed.
    assert drawn(context) == [("", 4), ("b\n", 4)]
    assert len(made) == 4 and all(candidate.finished for candidate in made)


def test_distinct_counts_equal_beams_once() -> None:
    tree = StepTree({"": ["b\n", "b\n", "a\n", "c\n"], "a\n": ["A: 1"], "b\n": ["A: 2"]}, {"b": 9, "a": 5, "c": 1})
    going_on = {}
    for distinct in (False, True):
        context = tree.context()
        search("beam_search", context, n=4, width=2, distinct=distinct)
        going_on[distinct] = drawn(context)[1:]
    assert going_on == {False: [("b\n", 4)], True: [("b\n", 2), ("a\n", 2)]}
