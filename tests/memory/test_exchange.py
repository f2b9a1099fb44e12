"""Sheets as files: what is written is read back, and what a person got wrong is one sentence with its place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from inferloom.core.errors import InferloomError
from inferloom.core.memory import Entry, EntryKind
from inferloom.memory.exchange import from_text, to_json, to_markdown

TEXTS = some.text(some.characters(exclude_categories=["Cs", "Cc"], include_characters="\n`>#"), min_size=1, max_size=60)
KINDS: list[EntryKind] = ["strategy", "example", "snippet", "mistake", "sheet"]
ENTRIES = some.builds(
    Entry,
    id=some.text("0123456789abcdef", min_size=4, max_size=12),
    kind=some.sampled_from(KINDS),
    key=TEXTS | some.just(""),
    text=TEXTS.filter(str.strip),
    helpful=some.integers(0, 9),
    harmful=some.integers(0, 9),
    used=some.integers(0, 99),
)


@given(some.lists(ENTRIES, min_size=1, max_size=5, unique_by=lambda entry: entry.id))
def test_what_is_written_is_read_back(entries: list[Entry]) -> None:
    assert from_text(to_json("m", 3, entries), "f.json") == entries
    back = from_text(to_markdown("m", 3, entries), "f.md")
    assert sorted(back, key=lambda entry: entry.id) == sorted(entries, key=lambda entry: entry.id)


def test_a_person_writes_less() -> None:
    [entry] = from_text("# Mine\n\n## strategy\n\n> sums\n\n```\nones first\n```\n", "f.md")
    assert replace(entry, id="") == Entry(id="", kind="strategy", key="sums", text="ones first")
    [entry] = from_text('{"entries": [{"kind": "mistake", "text": "no"}]}', "f.json")
    assert replace(entry, id="") == Entry(id="", kind="mistake", key="", text="no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no entry is in it"),
        ("## stategy\n```\nx\n```\n", "f:1: unknown kind of entry `stategy`; did you mean `strategy`?"),
        ("\n## example\n> q\n", "f:2: an entry needs its text"),
        ("## example\n```\nx\n", "f:2: the ``` that begins the text is not closed"),
        ("## example\n```\n\n```\n", "f: entry 1: the entry cannot be kept: empty"),
        ("{", "f: not JSON"),
        ("{}", "f: the document has no list `entries`"),
        ('{"entries": [1]}', "f: entry 1: an entry must be a mapping"),
        ('{"entries": [{"kind": "example", "text": 1}]}', "must be texts"),
        ('{"entries": [{"kind": "example", "text": "x", "helpful": -1}]}', "`helpful` is `-1`"),
        (
            '{"entries": [{"kind": "example", "text": "x", "id": "a"}, {"kind": "example", "text": "y", "id": "a"}]}',
            "same id",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InferloomError) as refused:
        from_text(text, "f")
    assert said in refused.value.sentence
