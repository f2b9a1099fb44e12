"""Data files: what is read, and the one sentence that each kind of mistake gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from inferloom.core.errors import DataError, SpecError, UnknownNameError
from inferloom.evaluation import DataSpec, load_items


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def load(path: Path, **spec: object) -> list[object]:
    return list(load_items(DataSpec.model_validate({"file": path.name, **spec}), base=path.parent).items)


def test_jsonl_with_mapped_fields(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"uid": 7, "prompt": "2+2?", "label": 4, "topic": "sums", "hints": ["be brief"], "shots": [["1+1?", "2"]]},
        "",
        {"uid": 8, "prompt": "3+3?", "label": "6", "topic": "sums", "hints": [], "shots": []},
    )
    fields = {"question": "prompt", "answer": "label", "id": "uid", "notes": "hints", "examples": "shots"}
    first, second = load_items(DataSpec(file=path.name, fields=fields), base=tmp_path).items  # type: ignore[arg-type] # plain strings
    assert (first.id, first.question, first.answer) == ("7", "2+2?", "4")
    assert (first.notes, first.examples) == (("be brief",), (("1+1?", "2"),))
    assert dict(second.meta) == {"topic": "sums"}


def test_csv_reads_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffquestion,answer,kind\n"one,\ntwo ""three""",3,x\n', encoding="utf-8")
    (item,) = load_items(DataSpec(file="a.csv"), base=tmp_path).items
    assert item.question == 'one,\ntwo "three"'
    assert dict(item.meta) == {"kind": "x"}


def test_ids_without_an_id_field_follow_the_content(tmp_path: Path) -> None:
    rows = [{"question": f"what is {n} + {n}?", "answer": n + n} for n in range(5)]
    twice = [*rows, rows[0]]
    there = load_items(DataSpec(file=write(tmp_path / "a.jsonl", *twice).name), base=tmp_path).items
    back = load_items(DataSpec(file=write(tmp_path / "b.jsonl", *reversed(rows)).name), base=tmp_path).items
    assert {item.question: item.id for item in there[:5]} == {item.question: item.id for item in back}
    assert there[5].id == f"{there[0].id}-2"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            '{"question": "q", "answer": "a"}\n{"question": \n',
            r"a\.jsonl:2: not valid JSON: .* at column 14",
        ),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: a line must be a JSON object, not a list"),
        ("a.jsonl", '{"qestion": "q", "answer": "a"}\n', r"a\.jsonl:1: .*`question`.*missing.*mean `qestion`"),
        ("a.jsonl", '{"question": "q"}\n', r"a\.jsonl:1: .*`answer`.*missing"),
        ("a.jsonl", '{"question": " ", "answer": "a"}\n', r"a\.jsonl:1: .*`question`.*empty"),
        ("a.jsonl", '{"question": null, "answer": "a"}\n', r"a\.jsonl:1: .*text or a number, not null"),
        ("a.jsonl", '{"question": "q", "answer": "a", "id": 1}\n' * 2, r"a\.jsonl:2: the id `1` .*a\.jsonl:1"),
        ("a.jsonl", '{"question": "q", "answer": "a", "examples": [1]}\n', r"\[question, answer\] pairs"),
        ("a.jsonl", "[" * 100_000 + "\n", r"a\.jsonl:1: not valid JSON"),
        ("a.jsonl", "", r"a\.jsonl: the data set is empty"),
        ("a.csv", "question,answer\n", r"a\.csv: the data set is empty"),
        ("a.csv", "question,answer\nq,a\nq\n", r"a\.csv:3: the row has 1 cells, the header has 2"),
        ("a.csv", "question,question\nq,a\n", r"a\.csv:1: .*`question` twice"),
        ("a.csv", 'question,answer\n"q,a\n', r"a\.csv:2: not valid CSV"),
        ("a.txt", "q", r"a\.txt: .*\.jsonl or \.csv, not in `\.txt`"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        load_items(DataSpec(file=name), base=tmp_path)
    assert "\n" not in caught.value.sentence


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "q", "answer": "a"}\n{"question": "caf\xe9", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: byte \d+ \(0xe9\) is not UTF-8"):
        load_items(DataSpec(file="a.jsonl"), base=tmp_path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "questions.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(DataError, match=r"there is no such file; did you mean `questions\.jsonl`"):
        load_items(DataSpec(file="qestions.jsonl"), base=tmp_path)


def test_an_item_that_its_grader_cannot_grade_is_refused_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"question": "q", "answer": 3}, {"question": "r", "answer": "three"})
    with pytest.raises(DataError, match=r"a\.jsonl:2: the answer `three` is not a number"):
        load_items(DataSpec(file="a.jsonl", grader="numeric"), base=tmp_path)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *({"question": f"q{n}", "answer": "a"} for n in range(9)))
    assert [item.question for item in load_items(DataSpec(file="a.jsonl", limit=2), base=tmp_path).items] == [
        "q0",
        "q1",
    ]


def test_a_grader_with_parameters_is_checked() -> None:
    with pytest.raises(SpecError, match=r"grader `numeric`: unknown parameter `tolerence`.*did you mean `tolerance`"):
        load_items(DataSpec(procedural="pocket:sum", grader={"numeric": {"tolerence": 1}}))
    with pytest.raises(UnknownNameError, match="did you mean `numeric`"):
        load_items(DataSpec(procedural="pocket:sum", grader="numerc"))


@pytest.mark.parametrize(
    "spec",
    [{}, {"file": "a.csv", "procedural": "pocket"}, {"file": "a.csv", "seed": 1}, {"procedural": "pocket", "limit": 0}],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSpec.model_validate(spec)


def test_procedural_items_are_many_different_and_repeatable() -> None:
    spec = DataSpec(procedural="pocket", count=90, seed=5)
    items = load_items(spec).items
    assert items == load_items(spec).items
    assert len({item.id for item in items}) == len({(item.question, item.notes) for item in items}) == 90
    assert len({str(item.meta["family"]) for item in items}) == 9
    assert load_items(spec.model_copy(update={"count": 200})).items[:90] == items
    assert {item.question for item in load_items(spec.model_copy(update={"seed": 6})).items} != {
        item.question for item in items
    }


def test_procedural_names_and_levels_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="did you mean `pocket:sum`"):
        load_items(DataSpec(procedural="pocket:smu"))
    with pytest.raises(DataError, match="level 9 is out of range; must be from 1 to 6"):
        load_items(DataSpec(procedural="pocket:sum", levels=[9]))
    with pytest.raises(DataError, match="too few different questions"):
        load_items(DataSpec(procedural="pocket:multiply", levels=[1], count=5000))
