"""Outcome matrices from and to files."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from inferloom.core.errors import DataError, SetupError, UnknownNameError
from inferloom.routing.exchange import read_outcomes, write_outcomes
from inferloom.routing.synthetic import made_world

WIDE = 'task,query,small,big\nx,"one\nline",1,0\nx,two,,1\ny,two,0,1\n'


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str) -> None:
    made = made_world(40, 0)[0]
    file = tmp_path / f"outcomes{ending}"
    assert write_outcomes(made, file) == 120
    back = read_outcomes(file)
    assert back.texts == made.texts
    assert back.tags == made.tags
    assert [arm.label for arm in back.arms] == ["cheap", "middle", "dear"]
    for name in ("quality", "cost", "count"):
        assert (getattr(back, name) == getattr(made, name)).all()


def test_a_wide_file_is_read_with_its_gaps_and_repeated_questions(tmp_path: Path) -> None:
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(WIDE.encode()))
    made = read_outcomes(tmp_path / "m.csv.gz", fields={"tag": "task"}, costs={"small": 1, "big": 20}, unit="calls")
    assert [arm.label for arm in made.arms] == ["small", "big"]
    assert made.texts == ("one\nline", "two", "two")
    assert made.groups[1] == made.groups[2]
    assert made.tags == ("x", "x", "y")
    assert np.isnan(made.quality[1, 0])
    assert made.cost[0].tolist() == [1, 20]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("query,a,b,cost:a\nq,1,2,1\n", "`b` is `2`; must be a number from 0 to 1"),
        ("query,a,b\nq,1,1\n", "the arm `a` has no cost"),
        ("qery,a,b\nq,1,1\n", "no column `query` .* did you mean `qery`"),
        ("query,a,b\n", "there are no rows"),
        ("query,arm,quality,cost\nq,a,1,-3\n", "`cost` is `-3`; must be a number from 0"),
        ("query,words\nq,hello\n", "no column holds numbers only"),
    ],
)
def test_a_wrong_file_is_one_error_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=told) as raised:
        read_outcomes(file)
    assert str(file) in raised.value.sentence


def test_wrong_names_are_told_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("query,a,b\nq,1,1\n")
    with pytest.raises(UnknownNameError, match="did you mean `tokens`"):
        read_outcomes(file, unit="tokns")
    with pytest.raises(UnknownNameError, match="unknown field"):
        read_outcomes(file, fields={"qery": "query"})
    with pytest.raises(UnknownNameError, match="unknown arm"):
        read_outcomes(file, arms=["c"], costs={"c": 1})
    with pytest.raises(DataError, match="ends in"):
        read_outcomes(tmp_path / "m.xlsx")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pip install pyarrow"):
        read_outcomes(tmp_path / "m.parquet")
    with pytest.raises(SetupError, match="pip install pyarrow"):
        write_outcomes(made_world(8, 0)[0], tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []
