"""Coverage by samples: the estimator against enumeration, fits that find what was put in, samples found in the bank."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from inferloom.core.errors import DataError
from inferloom.evaluation import Item, evaluate, make_grader
from inferloom.evaluation.samples import scalings
from inferloom.evaluation.scaling import BetaFit, Counts, fit_beta, fit_power_law, pass_at_k, scaling_of
from inferloom.models.client import Gateway
from inferloom.models.scripted import script
from inferloom.pipelines.run import Pipeline, run_sync
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.reporting.scaling import histogram, write_scaling
from inferloom.store import Store


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_the_choices_that_hold_a_right_sample(n: int) -> None:
    for right in range(n + 1):
        for k in range(1, n + 1):
            choices = list(combinations([True] * right + [False] * (n - right), k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(10_000, 3, 5_000) == pytest.approx(1 - 0.5**3, abs=1e-3)
    assert pass_at_k(10_000, 0, 10_000) == 0.0


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_what_has_no_meaning(n: int, right: int, k: int) -> None:
    with pytest.raises(DataError):
        pass_at_k(n, right, k)


@pytest.mark.parametrize(("a", "b"), [(-2.05, -0.38), (-0.3, -1.2), (-7.0, -0.1)])
def test_the_power_law_finds_the_parameters_that_it_was_made_with(a: float, b: float) -> None:
    ks = [2**power for power in range(10)]
    found = fit_power_law(ks, [math.exp(a * k**b) for k in ks])
    assert found == pytest.approx((a, b), rel=1e-6)


def test_the_power_law_leaves_out_points_at_the_ends() -> None:
    assert fit_power_law([1, 2, 4, 8], [0.0, 0.5, 0.8, 1.0]) is None
    ks = [1, 2, 4, 8, 16]
    exact = [math.exp(-(k**-0.5)) for k in ks]
    assert fit_power_law(ks, [*exact[:4], 1.0]) == pytest.approx((-1.0, -0.5))


def drawn_from(alpha: float, beta: float, items: int, n: int) -> list[Counts]:
    rng = random.Random(5)
    chances = [rng.betavariate(alpha, beta) for _ in range(items)]
    return [Counts(f"i{i}", n, sum(rng.random() < chance for _ in range(n))) for i, chance in enumerate(chances)]


def test_the_distribution_of_pass_at_1_is_found_again() -> None:
    found = fit_beta([(count.n, count.right) for count in drawn_from(0.3, 2.0, 3_000, 64)])
    assert (found.alpha, found.beta) == pytest.approx((0.3, 2.0), rel=0.12)


def test_the_distribution_predicts_more_samples_than_were_drawn() -> None:
    many = drawn_from(0.3, 2.0, 2_000, 256)
    scaling = scaling_of("x", drawn_from(0.3, 2.0, 2_000, 16))
    measured = sum(pass_at_k(count.n, count.right, 256) for count in many) / len(many)
    assert scaling.beta(256) == pytest.approx(measured, abs=0.03)


def test_beta_coverage_is_the_mean_chance_of_a_hit() -> None:
    assert BetaFit(1.0, 1.0)(1) == pytest.approx(0.5)
    assert BetaFit(1.0, 1.0)(3) == pytest.approx(1 - 1 / 4)


@pytest.mark.parametrize("right", [0, 8])
def test_items_that_are_all_alike_have_no_law_but_a_curve(right: int) -> None:
    scaling = scaling_of("x", [Counts(f"i{i}", 8, right) for i in range(5)])
    assert scaling.law is None
    assert [(k, share.mean) for k, share in scaling.curve] == [(k, right / 8) for k in (1, 2, 4, 8)]
    assert scaling.beta(8) == pytest.approx(right / 8, abs=0.02)


def test_the_whole_analysis_of_mixed_items() -> None:
    counts = drawn_from(0.4, 1.5, 200, 20)
    scaling = scaling_of("x", counts)
    assert [k for k, _ in scaling.curve] == [1, 2, 4, 8, 16, 20]
    means = [share.mean for _, share in scaling.curve]
    assert means == sorted(means)
    assert means[0] == pytest.approx(sum(count.right for count in counts) / (20 * 200))
    assert means[-1] == pytest.approx(1 - scaling.never / 200)
    assert all(share.low < share.mean < share.high for _, share in scaling.curve)
    assert scaling.law is not None and scaling.law.worst < 0.03
    assert scaling.law.b_bounds is not None and scaling.law.b_bounds[0] < scaling.law.b < scaling.law.b_bounds[1]
    assert sum(scaling.bins) == 200 and sum(bar.items for bar in histogram(scaling)) == 200
    assert scaling_of("x", counts) == scaling


def test_items_with_unequal_samples_give_a_curve_as_long_as_the_shortest() -> None:
    scaling = scaling_of("x", [Counts("a", 9, 3), Counts("b", 3, 1)])
    assert [k for k, _ in scaling.curve] == [1, 2, 3]
    with pytest.raises(DataError):
        scaling_of("x", [])


# --- samples in the database ----------------------------------------------------------------------------------------

ITEMS = [Item(id=f"i{n}", question=f"q{n}", answer=str(n % 3)) for n in range(6)]


@script("tests-scaling-draws")
def draws(request: object, seed: int) -> str:
    return f"A: {seed % 3}"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.open("sqlite://")
    yield store
    store.close()


def sampled(store: Store, steps: str, *, stream: str = "s", study: str | None = None) -> str:
    spec = PipelineSpec.parse(f"models: {{m: 'scripted:tests-scaling-draws', o: 'scripted:echo'}}\nsteps: {steps}\n")
    pipeline = Pipeline(spec, Gateway(store))
    work = evaluate(
        pipeline, ITEMS, grader=make_grader("exact"), store=store, stream=stream, split="dev", study=study, trial=0
    )
    run_sync(work)
    return spec.hash


def test_samples_are_found_and_draws_that_runs_share_count_once(store: Store) -> None:
    sampled(store, "[{sample: {model: m, n: 8}}, vote]")
    sampled(store, "[{sample: {model: m, n: 5}}, {fuse: o}]")
    (scaling,) = scalings(store, ITEMS, make_grader("exact"))
    assert (len(scaling.counts), scaling.samples) == (6, 8)
    sampled(store, "[{sample: {model: m, n: 8}}, vote]", stream="other")
    (scaling,) = scalings(store, ITEMS, make_grader("exact"))
    assert scaling.samples == 16
    right = {
        item.id: sum(
            row.candidate.answer == item.answer
            for run in store.runs(100)
            if run.item == item.id and len(store.candidates(run.id)) == 9
            for row in store.candidates(run.id)
            if row.candidate.origin["node"] == row.path
        )
        for item in ITEMS
    }
    assert {count.item: count.right for count in scaling.counts} == right


def test_settings_are_kept_apart_and_filters_choose(store: Store) -> None:
    cool = sampled(store, "[{sample: {model: m, n: 4, temperature: 0.3}}, vote]", study="a")
    sampled(store, "[{sample: {model: [m, o], n: 6}}, vote]", study="b")
    found = scalings(store, ITEMS, make_grader("exact"))
    assert [scaling.samples for scaling in found] == [6, 6, 4]
    assert len({scaling.label for scaling in found}) == 3
    assert [s.samples for s in scalings(store, ITEMS, make_grader("exact"), study="a")] == [4]
    assert [s.samples for s in scalings(store, ITEMS, make_grader("exact"), pipeline=cool[:9])] == [4]
    assert len(scalings(store, ITEMS, make_grader("exact"), at_least=5)) == 2
    with pytest.raises(DataError, match="drew 7 samples"):
        scalings(store, ITEMS, make_grader("exact"), at_least=7)


def test_runs_on_other_items_do_not_count(store: Store) -> None:
    sampled(store, "[{sample: {model: m, n: 4}}, vote]")
    others = [Item(id=item.id, question="another", answer="1") for item in ITEMS]
    with pytest.raises(DataError, match="no runs in which"):
        scalings(store, others, make_grader("exact"))
    with pytest.raises(DataError, match="asks a model"):
        scalings(store, ITEMS, make_grader({"judge": {"model": "scripted:echo"}}))


def test_the_page_holds_every_setting_and_nothing_of_elsewhere(tmp_path: Path) -> None:
    mixed = scaling_of("small <b>", drawn_from(0.4, 1.5, 50, 20))
    flat = scaling_of("flat", [Counts("a", 1, 0)])
    html = write_scaling([mixed, flat], tmp_path / "scaling.html").read_text()
    assert html.count("<svg") == 2 and "small &lt;b&gt;" in html
    assert html.count('class="law"') == 1
    assert html.count("<circle") == len(mixed.curve) + len(flat.curve)
    assert "http:" not in html and "https:" not in html and "nan" not in html
