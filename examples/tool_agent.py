"""An agent that calls tools and whose final answer is verified before it is given.

    python examples/tool_agent.py 12+34+56

The caller of tools is a scripted model that slips now and then, so that this runs without a key; five tries vote on
which tool to call with which arguments. The verifier is real: nine tries of a bundled model at the whole sum, whose
majority must say what the agent says. Where it does not, the agent is asked once more; then the answer is marked.
"""

from __future__ import annotations

import asyncio
import re
import sys

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from inferloom import ChatInferloom, Pipeline
from inferloom.core.answers import extract_answer, same_answer
from inferloom.core.tools import ToolCall
from inferloom.core.types import Completion, Request
from inferloom.models.client import Gateway
from inferloom.models.scripted import script
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

CALLER = """
models: {caller: scripted:adder}
steps:
  - sample: {model: caller, n: 5}
  - vote
"""
VERIFIER = """
models: {large: pocket:large}
prompts: pocket
steps:
  - sample: {model: large, n: 9, max_tokens: 160}
  - vote
"""


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@script("adder")
def adder(request: Request, seed: int) -> str | Completion:
    """Adds the numbers of a sum one after the other, and takes a wrong number in one try of four."""
    question = next(turn.content for turn in request.messages if turn.role == "user")
    numbers = [int(digits) for digits in re.findall(r"\d+", question)]
    sums = [int(turn.content) for turn in request.messages if turn.role == "tool"]
    if len(sums) >= len(numbers) - 1:
        return f"A: {sums[-1]}"
    slip = 1 if seed % 4 == 0 else 0
    so_far = sums[-1] if sums else numbers[0]
    arguments = f'{{"a": {so_far}, "b": {numbers[len(sums) + 1] + slip}}}'
    call = ToolCall("add", arguments, f"call_{seed}")
    return Completion(text="", finish_reason="stop", completion_tokens=8, tool_calls=(call,))


class State(MessagesState):
    """The conversation, and what became of the verification."""

    verified: bool
    checks: int


async def main(question: str) -> None:
    """Answer a sum."""
    gateway = Gateway(Store.open("inferloom.db"))
    model = ChatInferloom(pipeline=Pipeline(PipelineSpec.parse(CALLER, "caller"), gateway)).bind_tools([add])
    verifier = Pipeline(PipelineSpec.parse(VERIFIER, "verifier"), gateway)

    async def agent(state: State) -> dict[str, object]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def verify(state: State) -> dict[str, object]:
        said = extract_answer(state["messages"][-1].text)
        found = await verifier.ainvoke(question)
        checks = state.get("checks", 0) + 1
        if same_answer(said, found.answer):
            return {"verified": True, "checks": checks}
        again = [HumanMessage(f"A second opinion is {found.answer}. Think again: {question}")] if checks == 1 else []
        return {"verified": False, "checks": checks, "messages": again}

    builder = StateGraph(State)
    builder.add_node("agent", agent)
    builder.add_node("tools", ToolNode([add]))
    builder.add_node("verify", verify)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: "verify"})
    builder.add_edge("tools", "agent")
    builder.add_conditional_edges("verify", lambda state: END if state["verified"] or state["checks"] > 1 else "agent")
    done = await builder.compile().ainvoke({"messages": [HumanMessage(question)]})
    for message in done["messages"]:
        for call in getattr(message, "tool_calls", ()):
            print(f"{call['name']}({call['args']['a']}, {call['args']['b']})")
    print(done["messages"][-1].text, "(verified)" if done["verified"] else "(NOT verified)")


asyncio.run(main(sys.argv[1]))
