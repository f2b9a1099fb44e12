"""The memories through LangGraph's store: an agent and a pipeline share them."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph

from inferloom.core.errors import UserError
from inferloom.core.memory import Add, Mark, Rules
from inferloom.memory.agent_store import AgentStore
from inferloom.memory.book import MemoryBook
from inferloom.memory.scope import MemoryScope


class State(TypedDict):
    said: str


async def test_an_agent_puts_what_a_pipeline_recalls_and_reads_what_it_learned(book: MemoryBook) -> None:
    async def remember(state: State) -> State:
        store = get_store()
        await store.aput(("ann", "rules"), "tip", {"kind": "strategy", "when": "sums", "text": state["said"]})
        return state

    builder = StateGraph(State)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", END)
    agents = AgentStore(book)
    await builder.compile(store=agents).ainvoke({"said": "ones first"})
    memory = MemoryScope("ann").memory(book, "rules", "s", "r")
    [entry] = await memory.entries()
    assert (entry.id, entry.kind, entry.key, entry.text) == ("tip", "strategy", "sums", "ones first")
    await memory.commit([Mark("tip", "helpful"), Add("example", "2+2?", "A: 4")], Rules())
    item = await agents.aget(("ann", "rules"), "tip")
    assert item is not None and (item.value["text"], item.value["helpful"]) == ("ones first", 1)
    assert {found.value["kind"] for found in await agents.asearch(("ann",))} == {"strategy", "example"}


async def test_any_value_comes_back_as_it_was(book: MemoryBook) -> None:
    agents = AgentStore(book)
    for value in ({"text": "x"}, {"likes": ["tea", {"sort": 1}]}, {}, {"kind": "sheet", "text": "x"}):
        await agents.aput(("notes",), "k", value)
        item = await agents.aget(("notes",), "k")
        assert item is not None and item.value == value
    await agents.adelete(("notes",), "k")
    await agents.adelete(("notes",), "k")
    assert await agents.aget(("notes",), "k") is None
    assert await agents.aget(("nobody", "there"), "k") is None


async def test_search_ranks_filters_and_pages(book: MemoryBook) -> None:
    agents = AgentStore(book)
    for number, letter in enumerate("abcd"):
        await agents.aput(("u", "m"), letter, {"kind": "mistake", "when": letter * 6, "text": letter * 6})
        await agents.aput(("u", "raw"), letter, {"number": number, "tags": {"even": number % 2 == 0}})
    near = await agents.asearch(("u", "m"), query="bbbbb", limit=2)
    assert near[0].key == "b" and near[0].score is not None and near[0].score > 0.9
    assert [one.key for one in await agents.asearch(("u", "m"), query="bbbbb", limit=1, offset=1)] == [near[1].key]

    async def keys(wanted: dict[str, Any]) -> list[str]:
        return sorted(one.key for one in await agents.asearch(("u",), filter=wanted))

    assert await keys({"number": {"$gte": 2}}) == ["c", "d"]
    assert await keys({"tags": {"even": True}}) == ["a", "c"]
    assert await keys({"kind": "mistake", "when": {"$ne": "aaaaaa"}}) == ["b", "c", "d"]
    assert await keys({"number": {"$lt": "x"}}) == []
    with pytest.raises(UserError, match="unknown comparison"):
        await keys({"number": {"$near": 2}})


async def test_namespaces_are_listed(book: MemoryBook) -> None:
    agents = AgentStore(book)
    for place in (("a", "x", "m"), ("a", "y", "m"), ("b", "n"), ("alone",)):
        await agents.aput(place, "k", {"v": 1})
    assert await agents.alist_namespaces() == [("a", "x", "m"), ("a", "y", "m"), ("alone",), ("b", "n")]
    assert await agents.alist_namespaces(prefix=("a", "*"), max_depth=2) == [("a", "x"), ("a", "y")]
    assert await agents.alist_namespaces(suffix=("m",), limit=1, offset=1) == [("a", "y", "m")]


async def test_synchronous_calls_work_inside_a_running_loop(book: MemoryBook) -> None:
    agents = AgentStore(book)
    agents.put(("m",), "k", {"v": 1})
    item = agents.get(("m",), "k")
    assert item is not None and item.value == {"v": 1}


async def test_personal_data_is_masked_and_what_cannot_be_kept_is_refused(book: MemoryBook) -> None:
    agents = AgentStore(book)
    await agents.aput(("m",), "k", {"mail": "ann@example.org"})
    item = await agents.aget(("m",), "k")
    assert item is not None and item.value == {"mail": "[email]"}
    await AgentStore(book, masked=False).aput(("m",), "k", {"mail": "ann@example.org"})
    item = await agents.aget(("m",), "k")
    assert item is not None and item.value == {"mail": "ann@example.org"}
    for place, value in ((("a/b", "m"), {"v": 1}), (("m",), {"kind": "strategy", "text": " "})):
        with pytest.raises(UserError):
            await agents.aput(place, "k", value)
