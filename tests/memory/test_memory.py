"""Memories: what may be written, what the limit takes, versions that stay, writers that lose nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from inferloom.core.errors import UnknownNameError, UserError
from inferloom.core.memory import Add, Delete, Entry, Mark, Rewrite, Rules, Update
from inferloom.memory.applying import apply
from inferloom.memory.book import MemoryBook
from inferloom.memory.masking import mask
from inferloom.memory.scope import MemoryScope
from inferloom.nodes.testing import FakeContext


class SlowEmbedder(FakeContext):
    """Embeds when it is told to."""

    started: asyncio.Event
    go_on: asyncio.Event

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        self.started.set()
        await self.go_on.wait()
        return await super().embed(texts)


def entry(id: str, *, helpful: int = 0, harmful: int = 0, created: float = 0) -> Entry:
    return Entry(id=id, kind="strategy", key=id, text="x" * 40, helpful=helpful, harmful=harmful, created=created)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to ann.b@example.org now", "write to [email] now"),
        ("key sk-abcdefghijklmnop1234 end", "key [key] end"),
        ("api_key = 'a1b2c3d4e5'", "api_key = [key]"),
        ("pay 4111 1111 1111 1111 today", "pay [card] today"),
        ("call +49 170 1234567 or", "call [phone] or"),
    ],
)
def test_personal_data_is_masked(text: str, kept: str) -> None:
    assert mask(text) == (kept, 1)


@pytest.mark.parametrize(
    "text", ["7$5=?\n3*7=21\n21+5=26\nA: 26", "99*6743=667557", "password: required", "1234567890"]
)
def test_sums_and_words_are_left_alone(text: str) -> None:
    assert mask(text) == (text, 0)


def test_the_limit_takes_harm_first_then_the_unproven_and_help_last() -> None:
    sheet = {
        "helped": entry("helped", helpful=3, created=1),
        "harmed": entry("harmed", harmful=1, created=4),
        "old": entry("old", created=2),
        "new": entry("new", created=3),
    }
    size = sheet["helped"].tokens
    for limit, left in ((3 * size, {"helped", "old", "new"}), (2 * size, {"helped", "new"}), (size, {"helped"})):
        assert set(apply(sheet, [], version=1, now=9, limit=limit).entries) == left


def test_operations_are_applied_by_code_and_what_does_not_fit_is_dropped() -> None:
    sheet = {"a": entry("a", helpful=2), "b": entry("b")}
    draft = apply(
        sheet,
        [Update("a", text="other"), Delete("b"), Mark("a", "harmful"), Mark("zz", "helpful"), Delete("zz")],
        version=1,
        now=9,
    )
    assert set(draft.entries) == {"a"}
    assert (draft.entries["a"].text, draft.entries["a"].helpful, draft.entries["a"].harmful) == ("other", 0, 1)
    assert (draft.applied, len(draft.dropped)) == (3, 2)
    stale = apply(sheet, [Rewrite("whole", version=0)], version=1, now=9)
    assert stale.entries == sheet and "newest" in stale.dropped[0].reason


async def test_versions_stay_and_sources_count_once(book: MemoryBook) -> None:
    sheet = book.open("sums")
    first = await sheet.commit([Add("example", "1+1", "2")], Rules(), source="run|a|0")
    again = await sheet.commit([Add("example", "9+9", "18")], Rules(), source="run|a|0")
    assert (first.version, again.version, again.repeated) == (1, 1, True)
    same = await sheet.commit([Add("example", "1+1", "2")], Rules())
    assert same.applied == 0 and "the same as" in same.dropped[0].reason
    [kept] = await sheet.entries()
    await sheet.commit([Delete(kept.id)], Rules())
    assert await sheet.entries() == [] and await sheet.entries(1) == [kept]
    assert await book.roll_back(sheet, 1) == 3
    assert await sheet.entries() == [kept]
    with pytest.raises(UserError, match="from 0 to 3"):
        await book.roll_back(sheet, 8)


async def test_a_fork_goes_its_own_way_and_merges_back(book: MemoryBook) -> None:
    sheet = book.open("main")
    await sheet.commit([Add("strategy", "k", "common"), Add("strategy", "zzz", "gone")], Rules())
    common, gone = sorted(await sheet.entries(), key=lambda entry: entry.text)
    await sheet.commit([Mark(common.id, "helpful")], Rules())
    fork = book.fork(sheet, "try")
    await fork.commit([Mark(common.id, "helpful"), Delete(gone.id), Add("mistake", "qq", "new")], Rules())
    await sheet.commit([Mark(common.id, "helpful"), Mark(common.id, "harmful")], Rules())
    await book.merge(sheet, fork)
    found = {entry.text: (entry.helpful, entry.harmful) for entry in await sheet.entries()}
    assert found == {"common": (3, 1), "new": (0, 0)}
    # Again, with nothing new there; then with one more mark; then back.
    await book.merge(sheet, fork)
    await fork.commit([Mark(common.id, "harmful")], Rules())
    await book.merge(sheet, fork)
    found = {entry.text: (entry.helpful, entry.harmful) for entry in await sheet.entries()}
    assert found == {"common": (3, 2), "new": (0, 0)}
    await book.merge(fork, sheet)
    assert {entry.text: (entry.helpful, entry.harmful) for entry in await fork.entries()} == found
    with pytest.raises(UserError, match="into itself"):
        await book.merge(sheet, sheet)


async def test_equal_additions_of_one_change_are_one(book: MemoryBook) -> None:
    sheet = book.open("twice")
    tip = Add("strategy", "k", "the same")
    await sheet.commit([tip, tip], Rules())
    assert [entry.text for entry in await sheet.entries()] == ["the same"]
    await sheet.commit([tip, tip], Rules(dedup=None))
    assert len(await sheet.entries()) == 3


async def test_entries_expire(book: MemoryBook) -> None:
    sheet = book.open("short")
    await sheet.commit([Add("strategy", "k", "stays")], Rules())
    await sheet.commit([Add("strategy", "q", "goes")], Rules(days=1e-6))
    await asyncio.sleep(0.2)
    assert [entry.text for entry in await sheet.entries()] == ["stays"]
    assert book.expire(sheet, time.time()) == 1
    assert [entry.text for entry in book.store.memories.every_state(sheet.id)] == ["stays"]


async def test_nearest_and_forgetting(book: MemoryBook) -> None:
    sheet = book.open("m")
    await sheet.commit(
        [Add("example", "aaaa", "1"), Add("example", "bbbb", "2 secret"), Add("mistake", "b", "3")], Rules()
    )
    assert [entry.text for entry, _ in await sheet.nearest("bbb", 1, kinds=("example",))] == ["2 secret"]
    assert await book.forget("SECRET", [sheet]) == 1
    assert [entry.text for entry, _ in await sheet.nearest("bbb", 1, kinds=("example",))] == ["1"]
    assert all("secret" not in entry.text for entry in book.store.memories.every_state(sheet.id))
    await sheet.commit([Add("mistake", "c", "short-lived", expires=1.0)], Rules())
    assert "short-lived" not in [entry.text for entry in await sheet.entries()]
    assert book.expire(sheet, now=2.0) == 1
    assert all(entry.text != "short-lived" for entry in book.store.memories.every_state(sheet.id))
    book.remove(sheet)
    with pytest.raises(UnknownNameError):
        book.open("m", create=False)


async def test_a_version_stays_what_it_is_while_another_question_writes(book: MemoryBook) -> None:
    sheet = book.open("m")
    await sheet.commit([Add("example", "aaaa", "old")], Rules())
    slow = SlowEmbedder()
    slow.started, slow.go_on = asyncio.Event(), asyncio.Event()
    # The entries have their vectors in the database: only the question waits for the embedder.
    same = MemoryBook(book.store, slow, "letters").open("m")
    reading = asyncio.create_task(same.nearest("aaab", 2, version=1))
    await slow.started.wait()
    await sheet.commit([Add("example", "cccc", "new")], Rules())
    assert len(await same.entries()) == 2
    slow.go_on.set()
    assert [entry.text for entry, _ in await reading] == ["old"]


async def test_scopes_frozen_reads_only_and_online_forks(book: MemoryBook) -> None:
    await book.open("m").commit([Add("strategy", "k", "known")], Rules())
    frozen = MemoryScope(protocol="frozen").memory(book, "m", "s", "r")
    assert (await frozen.commit([Add("strategy", "q", "new")], Rules())).applied == 0
    online = MemoryScope(protocol="online", fork="study/0/1")
    await online.at(0, "{}").memory(book, "m", "s0", "r0").commit([Add("strategy", "q", "learned")], Rules(dedup=None))
    assert len(await online.at(0, "{}").memory(book, "m", "again", "r").entries()) == 1
    assert len(await online.at(1, "{}").memory(book, "m", "s1", "r1").entries()) == 2
    assert [entry.text for entry in await book.open("m").entries()] == ["known"]


async def test_who_makes_a_memory_second_gets_the_first_ones(book: MemoryBook) -> None:
    first, second = (book.store.memories.create("default", "both") for _ in range(2))
    assert first == second
    assert book.opened(second).head() == 0
