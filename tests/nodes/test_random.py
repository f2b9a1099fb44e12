"""Random: a seeded choice without favourites."""

from collections import Counter

from inferloom.nodes.random import Random, RandomParams
from inferloom.nodes.testing import FakeContext, make_state, run


def chosen(seed: int, k: int, texts: str = "abcd") -> str:
    output = run(Random(RandomParams(k=k)), make_state(list(texts)), FakeContext(seed=seed))
    assert output.candidates is not None
    return "".join(candidate.text for candidate in output.candidates)


def test_the_seed_decides() -> None:
    assert [chosen(seed, 2) for seed in range(20)] == [chosen(seed, 2) for seed in range(20)]
    assert len({chosen(seed, 2) for seed in range(200)}) == 12


def test_k_different_ones_stay_and_all_where_there_are_fewer() -> None:
    for seed in range(20):
        assert len(set(chosen(seed, 3))) == 3
        assert sorted(chosen(seed, 9)) == list("abcd")


def test_every_place_is_first_as_often() -> None:
    firsts = Counter(chosen(seed, 4)[0] for seed in range(2000))
    assert all(400 < firsts[letter] < 600 for letter in "abcd")
