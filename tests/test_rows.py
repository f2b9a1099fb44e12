"""Rows of files: one reading of JSONL, CSV and plain text, kept until the file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inferloom.core.errors import DataError
from inferloom.core.rows import read_rows


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def test_the_three_kinds_of_files(tmp_path: Path) -> None:
    assert read_rows(written(tmp_path, "a.jsonl", '\ufeff{"text": "one\u2028two"}\n\n{"n": 2}\n')) == (
        {"text": "one\u2028two"},
        {"n": 2},
    )
    assert read_rows(written(tmp_path, "a.csv", 'text,n\n"one, two",1\n')) == ({"text": "one, two", "n": "1"},)
    assert read_rows(written(tmp_path, "a.txt", " one \n\ntwo\r\n")) == ({"text": "one"}, {"text": "two"})


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one\n")
    first = read_rows(path)
    assert read_rows(path) is first
    written(tmp_path, "a.txt", "two\n")
    os.utime(path, (1, 1))
    assert read_rows(path) == ({"text": "two"},)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": 1}\n{"text": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: a line must be a JSON object, not a list"),
        ("a.csv", "a,b\n1,2\n1\n", "a.csv:3: the row has 1 cells, the header has 2"),
        ("a.json", "{}", "a.json: a file of rows ends in .jsonl, .csv or .txt, not in `.json`"),
    ],
)
def test_a_mistake_names_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DataError) as refused:
        read_rows(written(tmp_path, name, text))
    assert said in refused.value.sentence


def test_a_file_that_was_read_and_went_away_is_missed(tmp_path: Path) -> None:
    path = written(tmp_path, "examples.txt", "one\n")
    read_rows(path)
    Path(path).rename(tmp_path / "example.txt")
    with pytest.raises(DataError, match=r"no such file; did you mean `example.txt`"):
        read_rows(path)
