"""The bank: finding, pruning, exporting, forgetting."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from inferloom.core.errors import DatabaseError, DataError, UnknownNameError, UserError
from inferloom.store import Address, CompletionRow, RequestRow, Store
from tests.store.store_samples import ADDRESS, CANDIDATE_ROW, COMPLETION, EVALUATION, address, banked, call, run

LARGE = "e" * 32


def prompt(number: int, text: str, model: str = "small") -> RequestRow:
    return RequestRow(hash=f"{number:032x}", model=model, body=json.dumps({"messages": [{"content": text}]}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_draws_are_kept_apart_by_stream_model_request_and_index(store: Store) -> None:
    places = [
        ADDRESS,
        replace(ADDRESS, stream="test/item-1"),
        replace(ADDRESS, fingerprint=LARGE),
        replace(ADDRESS, request="9" * 32),
    ]
    for number, place in enumerate(places):
        await store.write(*(banked(place, index, f"{number}/{index}") for index in (0, 1, 5)))
    for number, place in enumerate(places):
        found = await store.banked(place, [5, 0, 3])
        assert {index: made.text for index, made in found.items()} == {0: f"{number}/0", 5: f"{number}/5"}
        assert all(store.completion(made.id) == made for made in found.values())
    assert await store.banked(ADDRESS, []) == {}
    for missing in ("", "nonsense", ADDRESS.completion_id(7), f"{'0' * 16}:0", "0123456789abcdef:x"):
        with pytest.raises(UnknownNameError):
            store.completion(missing)


async def test_size_counts_by_model(store: Store) -> None:
    await store.write(banked(address(1), text="é"), banked(address(1), 1, "ab"), banked(address(2), text=""))
    await store.write(banked(Address(stream="s", fingerprint=LARGE, request="1" * 32), text="abc"), call("c1"))
    assert store.bank_size() == [("small", "f" * 32, 2, 3, 4), ("", LARGE, 1, 1, 3)]


async def test_prune_deletes_what_meets_every_condition(store: Store) -> None:
    now = time.time()
    await store.write(prompt(1, "one"), prompt(2, "two"), call("c1"), call("c2", model="big", fingerprint=LARGE))
    await store.write(banked(address(1), created=now - 10 * 86_400), banked(address(1), 1, created=now))
    await store.write(banked(address(2), created=now - 10 * 86_400), banked(address(2, "other"), created=now))
    await store.write(banked(Address(stream="dev", fingerprint=LARGE, request="1" * 32), created=now))
    with pytest.raises(UserError, match="needs a condition"):
        store.bank_prune()
    with pytest.raises(UnknownNameError, match="did you mean `small`"):
        store.bank_prune(model="smal")
    assert store.bank_prune(older_than_days=5, stream="other") == 0
    assert store.bank_prune(older_than_days=5) == 2
    assert set(await store.banked(address(1), [0, 1])) == {1}
    assert len(store.prompts()) == 2, "both prompts still have a completion"
    assert store.bank_prune(stream="other") == 1
    assert [row.body for row in store.prompts()] == [prompt(1, "one").body]
    assert store.bank_prune(model="big") == 1
    assert [size.fingerprint for size in store.bank_size()] == ["f" * 32]


async def test_export_writes_every_completion_once(store: Store, tmp_path: Path) -> None:
    await store.write(prompt(1, "Was ist 12+3?"), call("c1"))
    await store.write(*(banked(address(number % 700), number // 700) for number in range(1_300)))
    await store.write(CompletionRow(address=ADDRESS, index=0, completion=COMPLETION, created=1.0))
    target = tmp_path / "bank.jsonl"
    assert store.bank_export(target) == 1_301
    lines = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len({(line["stream"], line["request"], line["index"]) for line in lines}) == 1_301
    (one,) = [line for line in lines if line["id"] == COMPLETION.id]
    assert (one["text"], one["model"], one["reasoning"]) == (COMPLETION.text, "small", COMPLETION.reasoning)
    prompts = {line["request"]: line["prompt"] for line in lines if line["prompt"] is not None}
    assert prompts == {f"{1:032x}": {"messages": [{"content": "Was ist 12+3?"}]}}
    with pytest.raises(DataError, match="does not exist"):
        store.bank_export(tmp_path / "nowhere" / "bank.jsonl")
    with pytest.raises(DataError, match="cannot be written"):
        store.bank_export(tmp_path)
    assert sorted(name for name in contents(tmp_path) if not name.startswith("s.db")) == ["bank.jsonl"]


SECRET = 'Zürich "vault"\ncode 7731'


async def test_forgetting_leaves_no_trace_in_any_file(store: Store, tmp_path: Path) -> None:
    await store.write(prompt(1, f"My {SECRET}, please"), prompt(1, SECRET, model="large"), prompt(2, "What is 12+3?"))
    await store.write(banked(address(1)), banked(address(1, "other"), 3), banked(address(2)))
    await store.write(banked(address(2), 1, text=f"I was told {SECRET}."))
    await store.write(run("asked", question=f"My {SECRET}?", answer=SECRET), run("other", question="What is 12+3?"))
    await store.write(call("c1", run="asked", request=f"{1:032x}", error=f"refused: {SECRET}"), call("c2", run="other"))
    kept = replace(CANDIDATE_ROW, run="other")
    secret = replace(CANDIDATE_ROW.candidate, text=SECRET, answer="7731", critiques=(SECRET,))
    await store.write(replace(CANDIDATE_ROW, run="asked", candidate=secret), kept)
    await store.write(replace(EVALUATION, run="asked", answer=SECRET))
    before = store.usage("asked")

    report = store.bank_forget(SECRET)

    assert (report.prompts, report.completions, report.runs, report.candidates) == (2, 3, 1, 1)
    assert [row.hash for row in store.prompts()] == [f"{2:032x}"]
    assert await store.banked(address(1), [0]) == {}
    assert set(await store.banked(address(2), [0, 1])) == {0}
    asked = store.run("asked")
    assert (asked.question, asked.answer) == ("", None)
    (blank,) = store.candidates("asked")
    assert (blank.candidate.text, blank.candidate.answer, blank.candidate.critiques) == ("", None, ("",))
    assert blank.candidate.scores == CANDIDATE_ROW.candidate.scores
    assert store.evaluations("first")[0].answer is None
    assert store.usage("asked") == before, "the accounts stay"
    assert store.run("other").question == "What is 12+3?"
    assert store.candidates("other") == [kept]
    for form in (SECRET, json.dumps(SECRET)[1:-1], "code 7731"):
        for name, data in contents(tmp_path).items():
            assert form.encode() not in data, f"{form!r} is still in {name}"
    assert store.bank_forget(SECRET).completions == 0
    with pytest.raises(UserError, match="needs a text"):
        store.bank_forget("  ")


async def test_forgetting_says_when_another_process_keeps_the_text_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferloom.store.engine.BUSY_SECONDS", 0.1)
    with Store.open(str(tmp_path / "s.db")) as store:
        await store.write(run(question=SECRET))
        with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM runs").fetchone()
            with pytest.raises(DatabaseError, match="is being read by another process"):
                store.bank_forget(SECRET)
        store.bank_forget(SECRET)
        assert all(b"vault" not in data for data in contents(tmp_path).values())
