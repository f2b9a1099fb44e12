"""Particle filtering: weights, both resamplings, when it resamples and when never, and what becomes of the ended."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest

from inferloom.core.types import Json
from inferloom.nodes.particle_filter import effective_size, logit, multinomial, softmax, systematic
from inferloom.nodes.testing import FakeContext
from tests.support.steps import StepTree, drawn, graded, search

WEIGHTS = [0.5, 0.3, 0.15, 0.05]


def untouched(context: FakeContext) -> bool:
    """Whether the node has drawn no chance."""
    return context.rng.getstate() == Random(context.seed).getstate()


def test_weights_are_the_softmax_of_the_log_odds() -> None:
    weights = softmax([logit(score, 1e-7) for score in (0.8, 0.5)])
    assert weights == pytest.approx([4 / 5, 1 / 5])  # odds of 4 against odds of 1
    assert logit(0.0, 0.01) == pytest.approx(math.log(0.01 / 0.99))
    assert logit(1.0, 0.01) == pytest.approx(math.log(0.99 / 0.01))
    assert softmax([-1000.0, 0.0]) == [0.0, 1.0]


def test_the_effective_size_counts_equal_weights_in_full() -> None:
    assert effective_size([0.25] * 4) == pytest.approx(4)
    assert effective_size([1.0, 0.0, 0.0, 0.0]) == 1
    assert effective_size([0.5, 0.5, 0.0, 0.0]) == pytest.approx(2)


@pytest.mark.parametrize("draw", [multinomial, systematic])
def test_both_resamplings_keep_the_weights_on_average(draw: Callable[[Sequence[float], Random], list[int]]) -> None:
    rng, rounds = Random(1), 4000
    places = Counter(place for _ in range(rounds) for place in draw(WEIGHTS, rng))
    assert places.total() == 4 * rounds
    for place, weight in enumerate(WEIGHTS):
        assert places[place] / (4 * rounds) == pytest.approx(weight, abs=0.02)


def test_systematic_resampling_rounds_each_share_and_multinomial_does_not() -> None:
    def rounded(places: list[int]) -> bool:
        counts = Counter(places)
        return all(
            math.floor(4 * weight) <= counts[place] <= math.ceil(4 * weight) for place, weight in enumerate(WEIGHTS)
        )

    assert all(rounded(systematic(WEIGHTS, Random(seed))) for seed in range(200))
    assert not all(rounded(multinomial(WEIGHTS, Random(seed))) for seed in range(200))


class AlmostOne(Random):
    def random(self) -> float:
        return 1 - 2**-53


def test_systematic_resampling_never_falls_off_the_end() -> None:
    assert systematic([0.5, 0.5 - 1e-9, 0.0], AlmostOne()) == [0, 1, 1]
    assert systematic([0.0, 1.0, 0.0], AlmostOne()) == [1, 1, 1]
    assert systematic([0.0, 1.0, 0.0], Random(0)) == [1, 1, 1]


FORK = StepTree(
    {"": ["a\n", "b\n", "c\n", "d\n"], "a\n": ["A: 1"], "b\n": ["A: 2"], "c\n": ["A: 3"], "d\n": ["A: 4"]},
    {"a": 6, "b": 5, "c": 4, "d": 2},
)


def continued(**params: Json) -> list[Counter[str]]:
    """How often each first step was continued, for 40 seeds."""
    found = []
    for seed in range(40):
        context = FORK.context(seed=seed)
        search("particle_filter", context, n=4, **params)
        found.append(Counter(dict(drawn(context)[1:])))
    return found


def test_the_parameter_chooses_the_resampling() -> None:
    shares = softmax([logit(grade / 9, 1e-7) for grade in (6, 5, 4, 2)])
    for resampling, always in (("systematic", True), ("multinomial", False)):
        counts = continued(resampling=resampling)
        assert always == all(
            math.floor(4 * share) <= count[text] <= math.ceil(4 * share)
            for count in counts
            for text, share in zip(("a\n", "b\n", "c\n", "d\n"), shares, strict=True)
        )
        assert len({tuple(sorted(count.items())) for count in counts}) > 1  # chance is at work in both


def test_better_particles_have_more_offspring_and_copies_are_drawn_in_one_request() -> None:
    sure = StepTree({**FORK.steps}, {"a": 9, "b": 0, "c": 0, "d": 0})
    context = sure.context()
    made = search("particle_filter", context, n=4)
    assert drawn(context) == [("", 4), ("a\n", 4)]
    assert [candidate.answer for candidate in made] == ["1"] * 4


def test_clip_holds_weights_together() -> None:
    sure = StepTree({**FORK.steps}, {"a": 9, "b": 0, "c": 0, "d": 0})
    texts = set()
    for seed in range(20):
        context = sure.context(seed=seed)
        search("particle_filter", context, n=4, clip=0.49)
        texts |= {text for text, _ in drawn(context)}
    assert {"b\n", "c\n", "d\n"} <= texts


def test_it_waits_for_a_low_effective_size() -> None:
    even = StepTree({**FORK.steps}, {})
    for ess, chance in ((0.5, False), (0.999, False), (1.0, True), (0.0, False)):
        context = even.context()
        search("particle_filter", context, n=4, ess=ess)
        assert untouched(context) != chance, f"ess {ess}"
    uneven = StepTree({**FORK.steps}, {"a": 9, "b": 0, "c": 0, "d": 0})
    for ess, chance in ((0.2, False), (0.3, True), (0.0, False)):  # one of four particles counts
        context = uneven.context()
        search("particle_filter", context, n=4, ess=ess)
        assert untouched(context) != chance, f"ess {ess}"


@pytest.mark.parametrize("resampling", ["multinomial", "systematic"])
def test_nothing_is_resampled_after_the_last_step(resampling: str) -> None:
    one_step = StepTree({"": ["A: 1", "A: 2", "A: 3", "A: 4"]}, {"A: 1": 1, "A: 2": 2, "A: 3": 8, "A: 4": 0})
    context = one_step.context()
    made = search("particle_filter", context, n=4, resampling=resampling)
    assert untouched(context)
    assert [candidate.answer for candidate in made] == ["3", "2", "1", "4"]
    # Where the limit on steps ends it, the last step is as safe.
    context = FORK.context()
    made = search("particle_filter", context, n=4, resampling=resampling, max_steps=1)
    assert untouched(context)
    assert [candidate.answer for candidate in made] == ["1", "2", "3", "4"]


def test_an_ended_particle_keeps_its_weight_and_may_multiply_but_is_never_extended() -> None:
    tree = StepTree({"": ["A: 1", "b\n"], "b\n": ["b2\n"], "b\nb2\n": ["A: 2"]}, {"A: 1": 9, "b": 0, "b\nb2": 0})
    context = tree.context()
    made = search("particle_filter", context, n=2)
    assert drawn(context) == [("", 2)]  # both places went to the one that ended
    assert [(candidate.text, candidate.scores["step"]) for candidate in made] == [("A: 1", 1.0)] * 2
    assert graded(context) == ["A: 1", "b"]


def test_an_ended_particle_may_vanish_and_the_best_one_lost_is_handed_on_last_of_all() -> None:
    tree = StepTree(
        {"": ["A: 1", "b\n"], "b\n": ["b2\n"], "b\nb2\n": ["A: 2"]},
        {"A: 1": 6, "b": 5, "b\nb2": 7, "b\nb2\nA: 2": 4},
    )
    sizes = set()
    for seed in range(60):
        made = search("particle_filter", tree.context(seed=seed), n=2)
        sizes.add(len(made))
        assert [candidate.answer for candidate in made].count("1") >= 1
        assert made[0].answer == "1", "the best candidate was lost"
        assert [candidate.scores["step"] for candidate in made] == sorted(
            (candidate.scores["step"] for candidate in made), reverse=True
        )
    assert sizes == {2, 3}
