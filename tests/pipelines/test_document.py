# ruff: noqa: E501 - tables of texts and the errors they give
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferloom.core.errors import SpecError
from inferloom.core.types import Json
from inferloom.pipelines.document import Document, content_hash, dump, load_document

AWKWARD = [
    "a: b", "- x", "on", "no", "1e3", "a #b", "|", "x\ny", "x\n", "\n", "  x\ny", " ", "a:", "a: ", "..", "./x", "---", "... a",
    "~", "=", "<<", "a\n\nb\n\n", "0o7", "0x1F", "_1", ".5", "a\n b", "\tx\ny", "x\n\ty", '"', "'", "null", "True", "?", "@a",
    "%a", "2020-01-01", "openai:gpt-4o", "\ufeffx\ny", "\u2028", "\x85", "\x00", "😀", "*a", "&a", "!t", "[a", "{a", "a, b",
]  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(AWKWARD)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_what_is_dumped_is_read_back_exactly(data: Json) -> None:
    text = dump(data)
    back = load_document(text).data
    assert repr(back) == repr(data)
    assert dump(back) == text


def test_dump_is_the_yaml_a_person_would_write() -> None:
    data: Json = {"models": {"small": "pocket:small"}, "steps": [{"sample": {"n": 4}}, "vote"], "edges": [["a", "b"]]}
    assert dump(data) == (
        "models:\n  small: pocket:small\nsteps:\n  - sample:\n      n: 4\n  - vote\nedges:\n  - [a, b]\n"
    )
    assert dump({"prompt": "one\ntwo\n"}) == "prompt: |\n  one\n  two\n"


def test_every_value_knows_its_line() -> None:
    document = load_document("a: 1\nb:\n  - x\n  - c: 2\n", name="f.yaml")
    assert [document.where(place) for place in ((), ("a",), ("b", 0), ("b", 1, "c"))] == [
        "f.yaml:1",
        "f.yaml:1",
        "f.yaml:3",
        "f.yaml:4",
    ]
    assert document.where(("b", 1, "absent", "deeper")) == "f.yaml:4"
    assert document.error(("b", 1, "c"), "wrong").sentence == "f.yaml:4: b[1].c: wrong"
    assert Document.from_data({"a": 1}, "trial 3").error(("a",), "wrong").sentence == "trial 3: a: wrong"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty"),
        ("# only a comment\n", None, "empty"),
        ("a: 1\nb: 2\na: 3\n", 3, "twice (first on line 1)"),
        ("a:\n\t- b\n", 2, "tab"),
        ("a: [1,\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("x: 1\na: \x01\n", 2, "U+0001"),
        ("a: 1\n---\nb: 2\n", 2, "more than one"),
        ("a: *nowhere\n", 1, "alias"),
        ("a: &a 1\nb: &a 2\n", None, "defined twice"),
        ("a: &a [*a]\n", 1, "nested deeper"),
        ("[" * 3000, None, "nested deeper"),
        ("a: !!python/object:os.system 1\n", 1, "tag"),
        ("a: {<<: {b: 1}}\n", 1, "merge"),
        ("1: a\n", 1, "must be text"),
        ("? [a]\n: 1\n", 1, "key must be text"),
        ("x: 1\na: .nan\n", 2, "finite"),
        ("a: 1e999\n", 1, "finite"),
    ],
)
def test_bad_text_is_one_sentence_with_its_line(text: str, line: int | None, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_document(text, name="f.yaml")
    where = caught.value.where or ""
    assert where.startswith("f.yaml" if line is None else f"f.yaml:{line}")
    assert words in caught.value.sentence
    assert "\n" not in caught.value.sentence


def test_a_bomb_of_anchors_is_refused() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(SpecError, match="more than 200000 values"):
        load_document("\n".join(rows))


def test_aliases_are_written_out() -> None:
    assert load_document("a: &a {x: 1}\nb: *a\n").data == {"a": {"x": 1}, "b": {"x": 1}}


def test_bad_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin\.yaml:2: not UTF-8"):
        load_document(latin)
    with pytest.raises(SpecError, match=r"no such file; did you mean `.*latin\.yaml`\?"):
        load_document(tmp_path / "latn.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load_document(tmp_path)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_document(file).data == {"a": 1}


def test_content_hash_sees_values_and_not_key_order() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})
    assert content_hash([1, 2]) != content_hash([2, 1])
