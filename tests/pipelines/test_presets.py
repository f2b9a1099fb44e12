from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.core.errors import SpecError
from inferloom.pipelines import presets
from inferloom.pipelines.spec import PipelineSpec


@pytest.mark.parametrize("name", presets.names())
def test_presets_load_by_name_and_run_on_pocket_models(name: str) -> None:
    spec = PipelineSpec.load(name)
    assert spec.name == name
    assert spec.description
    assert {model.scheme for model in spec.models.values()} == {"pocket"}


def test_the_presets_that_are_promised_are_there() -> None:
    assert set(presets.names()) >= {"single", "self_consistency", "best_of_n", "archon_classic"}


def test_a_file_comes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert presets.resolve("single") == presets.path("single")
    Path("single").write_text("models: {m: pocket:small}\nsteps: [{sample: m}]\n")
    assert presets.resolve("single") == Path("single")


@pytest.mark.parametrize(
    ("asked", "suggestion"),
    [
        ("singel", "single"),
        ("self-consistency", "self_consistency"),
        ("best.yml", "best.yaml"),
        ("bset.yaml", "best.yaml"),
        ("best", "best.yaml"),
        ("single.yaml", "single"),
    ],
)
def test_a_near_name_is_suggested(asked: str, suggestion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text("")
    with pytest.raises(SpecError) as caught:
        presets.resolve(asked)
    assert caught.value.suggestion == suggestion


def test_without_a_near_name_all_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("")
    with pytest.raises(SpecError, match=r"presets: archon_classic, .*; files here: mine\.yaml"):
        presets.resolve("qqqqqq")
    for hopeless in ("x" * 5000, "a\0b", ""):
        with pytest.raises(SpecError):
            presets.resolve(hopeless)
