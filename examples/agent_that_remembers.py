"""An agent that solves with a pipeline and remembers, for each user, between sessions.

    python examples/agent_that_remembers.py ann '7$5=?' --explain 'a$b=3*a+b'
    python examples/agent_that_remembers.py ann '6$4=?'

Two kinds of memory, both in one database: what the user explains goes into LangGraph's store (`AgentStore`) and stands
in front of later questions; what the pipeline has solved goes into its own memory `solved`. The conversation itself is
a thread of LangGraph's checkpointer.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime

import inferloom
from inferloom.memory.agent_store import AgentStore

HERE = Path(__file__).parent


class State(MessagesState):
    """A conversation with a user, who may explain something before asking."""

    user: str
    explained: str | None


async def learn(state: State, runtime: Runtime) -> dict[str, list[SystemMessage]]:
    """Keep what the user explains, and begin the conversation with all that this user ever explained."""
    assert runtime.store is not None
    place = (state["user"], "explained")
    if text := state.get("explained"):
        entry = {"kind": "strategy", "when": text, "text": text}
        await runtime.store.aput(place, text, entry)
    known = [item.value["text"] for item in await runtime.store.asearch(place)]
    return {"messages": [SystemMessage("\n".join(known), id="explained")] if known else []}


async def main() -> None:
    """Answer one question of a user."""
    parser = argparse.ArgumentParser()
    parser.add_argument("user")
    parser.add_argument("question")
    parser.add_argument("--explain")
    parser.add_argument("--thread", default="1")
    given = parser.parse_args()

    pipeline = inferloom.load(str(HERE / "solver.yaml"))
    builder = StateGraph(State)
    builder.add_node("learn", learn)
    builder.add_node("solve", pipeline.graph)
    builder.add_edge(START, "learn")
    builder.add_edge("learn", "solve")
    async with AsyncSqliteSaver.from_conn_string("threads.db") as saver:
        agent = builder.compile(checkpointer=saver, store=AgentStore(pipeline.gateway.store))
        asked = {"user": given.user, "explained": given.explain, "messages": [HumanMessage(given.question)]}
        names = {"thread_id": f"{given.user}/{given.thread}", "inferloom_namespace": given.user}
        done = await agent.ainvoke(asked, {"configurable": names})
    answer = done["messages"][-1]
    print(answer.text)
    print("calls:", sum(used["calls"] for used in answer.response_metadata["usage_by_model"].values()))


asyncio.run(main())
