"""Archon's space has exactly the sizes that its paper's numbers come to, and every point of it is a pipeline."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from inferloom.core.errors import SpecError, UserError
from inferloom.pipelines.document import dump
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import SPACES, Count, Space, load_space

ARCHON = load_space("archon")
TEXT = (SPACES / "archon.yaml").read_text()


def test_archon_counts_exactly() -> None:
    # Generators and samples: 38 of 50 make at most 24 candidates. Layers: 84 = 4 + 4^2 + 4^3 of 5^3. Checks: 3.
    assert ARCHON.count() == Count(raw=10 * 5 * 5**3 * 3, valid=38 * 84 * 3) == Count(18_750, 9_576)


def test_archon_counts_exactly_with_the_fifth_width() -> None:
    changed = "&widths [0, 2, 4, 6, 8, 10]"
    assert changed in TEXT.split("models:")[0]
    five = Space.load(TEXT.replace("choice: &widths [0, 2, 4, 6, 8]", f"choice: {changed}"))
    assert five.count() == Count(raw=10 * 5 * 6**3 * 3, valid=38 * (5 + 25 + 125) * 3) == Count(32_400, 17_670)


def test_a_point_of_archon_is_its_layers_in_order() -> None:
    values = {"generators": 3, "samples": 5, "fusers_1": 2, "fusers_2": 4, "fusers_3": 0, "check": "verifier"}
    spec = PipelineSpec.parse(dump(ARCHON.point(values)))
    layer = ["critique", "rank"]
    names = ["sample", *layer, *["fuse"] * 2, *layer, *["fuse"] * 4, *layer, "verify", "fuse"]
    assert [step.node.name for step in spec.steps] == names
    assert spec.steps[0].node.model_names == ("generator_1", "generator_2", "generator_3")
    fusers = [step.node.model_names[0] for step in spec.steps if step.node.name == "fuse"]
    assert fusers == ["fuser_1", "fuser_2", "fuser_1", "fuser_2", "fuser_3", "fuser_4", "fuser_1"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"generators": 9, "samples": 3}, "generators * samples <= 24"),
        ({"fusers_1": 0, "fusers_2": 0, "fusers_3": 0}, "fusers_1 > 0"),
        ({"fusers_1": 0}, "fusers_1 > 0"),
        ({"fusers_2": 0}, "fusers_3 == 0 or fusers_2 > 0"),
    ],
)
def test_archon_says_which_rule_a_point_breaks(change: dict[str, int], rule: str) -> None:
    values = {"generators": 2, "samples": 5, "fusers_1": 2, "fusers_2": 4, "fusers_3": 6, "check": "none"}
    assert ARCHON.is_valid(values)
    problem = ARCHON.why_not({**values, **change})
    assert problem is not None and problem.message == f"the point breaks the rule `{rule}`"


def test_samples_are_valid_and_a_function_of_the_seed() -> None:
    first, second, other = ([ARCHON.sample(Random(seed)) for _ in range(12)] for seed in (7, 7, 8))
    drawn = [ARCHON.sample(rng) for rng in [Random(7)] for _ in range(40)]
    assert first == second != other
    for values in drawn:
        PipelineSpec.from_data(ARCHON.point(values))


def test_neighbours_differ_in_one_hole_and_are_valid() -> None:
    values = {"generators": 6, "samples": 4, "fusers_1": 2, "fusers_2": 4, "fusers_3": 0, "check": "none"}
    found = {name: [point[name] for point in ARCHON.neighbours(values, name)] for name in values}
    assert found == {
        "generators": [5],  # seven of four samples are more than 24 candidates
        "samples": [3],
        "fusers_1": [4, 6, 8],
        "fusers_2": [0, 2, 6, 8],
        "fusers_3": [2, 4, 6, 8],
        "check": ["verifier", "unit_tests"],
    }
    for name in values:
        for point in ARCHON.neighbours(values, name):
            assert ARCHON.is_valid(point)
            assert {key for key in values if point[key] != values[key]} == {name}


def test_a_space_is_known_by_its_name_its_file_and_its_job(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "job.yaml").write_text("space: mine.yaml\ndata: {procedural: pocket}\n")
    assert list(load_space(tmp_path / "mine.yaml").holes) == list(ARCHON.holes)
    assert list(load_space(tmp_path / "job.yaml").holes) == list(ARCHON.holes)
    with pytest.raises(SpecError) as raised:
        load_space("archno")
    assert raised.value.suggestion == "archon"


def test_models_of_a_file_stand_in(tmp_path: Path) -> None:
    before, _, rest = TEXT.partition("models:\n")
    models, _, after = rest.partition("prompts:")
    (tmp_path / "models.yaml").write_text("\n".join(line.strip() for line in models.splitlines()))
    (tmp_path / "mine.yaml").write_text(f"{before}models: models.yaml\nprompts:{after}")
    mine = load_space(tmp_path / "mine.yaml")
    assert mine.point(mine.sample(Random(0))) == ARCHON.point(mine.sample(Random(0)))


def fully(space: Space, values: dict[str, object]) -> UserError | None:
    """What a check of the point alone says, no other point's verdict taken for it."""
    return Space(space.document).why_not(values)  # type: ignore[arg-type]  # scalars


def test_counting_by_shapes_agrees_with_checking_each_point() -> None:
    rng = Random(3)
    for values in [ARCHON.draw(rng) for _ in range(60)]:
        assert ARCHON.is_valid(values) == (fully(ARCHON, dict(values)) is None)
