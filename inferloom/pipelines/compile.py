"""From a checked pipeline to one LangGraph graph.

LangGraph decides what runs when. What a node reads, we gather ourselves: the outputs of its predecessors in declared
edge order, never in order of arrival. The state is JSON-plain throughout. Whatever can be worked out beforehand is
worked out here, since a node's own cost matters when completions come from the bank.

In a graph with conditional edges every node notes in its output which edges it took and how often (`fired`), and what
it has read (`consumed`); a node reads the edges that fired since, which makes loops work. Nodes with several edges in
wait until nothing else is running, and until no waiting node stands before them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Protocol, TypeAlias, TypedDict

from inferloom.core.errors import SetupError
from inferloom.core.memory import Recalled
from inferloom.core.tools import ToolCall, ToolCallJson, Tools
from inferloom.core.types import Candidate, CandidateJson, Message, NodeOutput, NodeState, Role, Usage
from inferloom.pipelines.graph import Edge
from inferloom.pipelines.spec import PipelineSpec, StepSpec

if TYPE_CHECKING:
    from langgraph.graph import StateGraph
    from langgraph.graph.state import CompiledStateGraph

    App: TypeAlias = CompiledStateGraph["State", None, "State", "State"]


class TurnJson(TypedDict):
    """A turn of the conversation; the fields are those of `Message`."""

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCallJson]]
    tool_call_id: NotRequired[str]


def turn_json(message: Message) -> TurnJson:
    """A turn as plain JSON."""
    turn: TurnJson = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [call.to_json() for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def read_turn(turn: TurnJson) -> Message:
    """The turn that `turn_json` wrote."""
    calls = tuple([ToolCall.from_json(call) for call in turn.get("tool_calls", ())])
    role: Role = turn["role"]  # type: ignore[assignment] # roles are checked where they come in
    return Message(role, turn["content"], calls, turn.get("tool_call_id"))


class Record(TypedDict):
    """What a node handed on: its part of the state."""

    candidates: list[CandidateJson]
    notes: list[str]
    examples: list[list[str]]
    recalled: NotRequired[list[list[str]]]
    """(memory, entry) for every entry of a memory that was read on the way here."""
    count: int
    """How often the node has run."""
    fired: NotRequired[dict[str, int]]
    """How often each edge out was taken, by target; only in graphs with conditions."""
    consumed: NotRequired[dict[str, int]]
    """The count of each edge in when the node last read it, by source."""
    arm: NotRequired[str]
    """The arm that a route chose."""
    next: NotRequired[list[str]]
    """Where the run goes on from here."""


AFRESH = ""
"""Where a thread goes on with another question: the key, or the reason to stop, that empties what is gathered."""


def merge_outputs(left: dict[str, Record], right: dict[str, Record]) -> dict[str, Record]:
    """Outputs of different nodes side by side; a node's newer output replaces its older one."""
    return {} if AFRESH in right else {**left, **right}


def first_reason(left: str | None, right: str | None) -> str | None:
    """The first reason to stop that was given stays."""
    return (left or right) if right != AFRESH else None


class State(TypedDict):
    """The state of a run. Give `question` and, where there are any, `turns`, `notes`, `examples`, `tools`."""

    question: str
    turns: NotRequired[list[TurnJson]]
    notes: NotRequired[list[str]]
    examples: NotRequired[list[list[str]]]
    tools: NotRequired[list[str] | None]
    """Definitions and choice, as in `Tools`."""
    outputs: NotRequired[Annotated[dict[str, Record], merge_outputs]]
    answer: NotRequired[str | None]
    stopped: NotRequired[Annotated[str | None, first_reason]]


class Execute(Protocol):
    """Runs one node; supplied by the runner, which finds the run's context in a context variable."""

    def __call__(self, step: StepSpec, state: NodeState) -> Awaitable[NodeOutput]:
        """The node's output; what it leaves None stays as it came in."""
        ...


Spent: TypeAlias = Callable[[], Usage]
"""What the current run has spent so far (nominal)."""

STATE_KEYS = frozenset({*State.__annotations__, "messages", "run", "drawn", "result"})
"""Also those that `embed` adds."""


class CompiledGraph:
    """A pipeline as a LangGraph graph, with what the runner needs to know of its shape.

    Attributes:
        spec: The pipeline.
        app: The compiled LangGraph graph; its state is `State`.
        ancestors: For each node, by path, the others from which it can be reached.
        lanes: For each node the number of its twins before it (see `lanes`).
    """

    def __init__(self, spec: PipelineSpec, app: App) -> None:
        self.spec = spec
        self.app = app
        self.ancestors = ancestors(spec)
        self.lanes = lanes(spec)

    async def run(
        self,
        question: str,
        messages: Sequence[Message] = (),
        notes: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        tools: Tools | None = None,
    ) -> tuple[tuple[Candidate, ...], str | None]:
        """The candidates that the last node handed on, and why the run was stopped, if it was."""
        state = await self.app.ainvoke(
            {
                "question": question,
                "turns": [turn_json(message) for message in messages],
                "notes": list(notes),
                "examples": [list(example) for example in examples],
                "tools": None if tools is None else [tools.definitions, tools.choice],
            }
        )
        final = state["outputs"][self.spec.graph.end]
        return tuple(Candidate.from_json(candidate) for candidate in final["candidates"]), state.get("stopped")


def compile_graph(spec: PipelineSpec, execute: Execute, spent: Spent | None = None) -> CompiledGraph:
    """One LangGraph graph for a pipeline, which uses no checkpointer, not even that of a graph around it.

    Args:
        spec: The checked pipeline.
        execute: Runs a node; its result is read for candidates, notes, examples and `stopped`.
        spent: Tells what the current run has spent; needed by conditions on `calls` and `tokens`.

    Raises:
        SetupError: A condition looks at `calls` or `tokens` and `spent` is missing.
    """
    from langgraph.graph import START, StateGraph

    builder = StateGraph(State)
    wire(builder, spec, execute, spent, START)
    app = builder.compile(checkpointer=False, name=spec.name)
    return CompiledGraph(spec, app.with_config(recursion_limit=recursion_limit(spec)))


def wire(
    builder: StateGraph[Any, Any, Any, Any],
    spec: PipelineSpec,
    execute: Execute,
    spent: Spent | None,
    first: str,
    around: Callable[[StepSpec, NodeFunction], Any] | None = None,
) -> None:
    """Add a pipeline's nodes and edges to a graph whose state holds `State`.

    Args:
        builder: The graph in the making.
        spec: The checked pipeline.
        execute: As in `compile_graph`.
        spent: As in `compile_graph`.
        first: The node of the graph after which the pipeline begins.
        around: Makes what LangGraph is to run of a node's function.

    Raises:
        SetupError: A condition looks at `calls` or `tokens` and `spent` is missing.
    """
    from langgraph.graph import END

    graph = spec.graph
    if spent is None and any(edge.when is not None and edge.when.needs_usage for edge in graph.edges):
        raise SetupError("a condition on `calls` or `tokens` needs `compile_graph(..., spent=...)`")
    for step in spec.steps:
        sources = [edge.source for edge in graph.into(step.path)]
        node: Any  # LangGraph's node types want a runnable, a sync or an async function in one signature.
        if graph.conditional:
            node = _branching_node(spec, step, execute, spent)
        else:
            node = _plain_node(spec, step, sources, execute)
        if around is not None:
            node = around(step, node)
        builder.add_node(graph_name(step.path), node, defer=graph.conditional and len(sources) > 1)
    for path in graph.starts:
        builder.add_edge(first, graph_name(path))
    for step in spec.steps:
        name, into, onward = graph_name(step.path), graph.into(step.path), graph.out_of(step.path)
        if not graph.conditional:
            names = [graph_name(edge.source) for edge in into]
            if names:
                builder.add_edge(names if len(names) > 1 else names[0], name)
        elif len(into) > 1 or any(edge.conditional for edge in onward):
            # Only nodes that choose, or may have to wait, pay for a routing step.
            ways: dict[Hashable, str] = {path: graph_name(path) for path in (*(e.target for e in onward), step.path)}
            builder.add_conditional_edges(name, _router(step.path), {**ways, END: END})
        else:
            for edge in onward:
                builder.add_edge(name, graph_name(edge.target))


def graph_name(path: str) -> str:
    """A node's name inside LangGraph, where names of state keys are taken."""
    return f"{path}/" if path in STATE_KEYS else path


def recursion_limit(spec: PipelineSpec) -> int:
    """More supersteps than a run can take, loops and waiting included."""
    executions = sum(spec.graph.executions(path) for path in spec.graph.paths)
    return 10 + executions * (2 + len(spec.steps) if spec.graph.conditional else 1)


def ancestors(spec: PipelineSpec) -> dict[str, frozenset[str]]:
    """For each node, by path, the others from which it can be reached."""
    return spec.graph.ancestors


def lanes(spec: PipelineSpec, *, any_type: bool = False) -> dict[str, int]:
    """For each node the number of its twins before it in declared order.

    Twins can run beside one another (neither leads to the other), are of one type and share a model: they might ask the
    same thing at the same time, and the lane keeps their draws apart without looking at the clock. With `any_type` the
    type does not count, which is for runs that cannot tell in which order parallel nodes asked. Arms of a route never
    run beside one another, so an arm draws as its pipeline draws alone.
    """
    before = spec.graph.ancestors
    result: dict[str, int] = {}
    for position, step in enumerate(spec.steps):
        models = set(step.node.model_names)
        result[step.path] = sum(
            (any_type or type(other.node) is type(step.node))
            and not models.isdisjoint(other.node.model_names)
            and other.path not in before[step.path]
            and step.path not in before[other.path]
            and not spec.graph.exclusive(step.path, other.path)
            for other in spec.steps[:position]
        )
    return result


# Nodes

NodeFunction: TypeAlias = Callable[[State], Awaitable[dict[str, Any]]]


def _plain_node(spec: PipelineSpec, step: StepSpec, sources: Sequence[str], execute: Execute) -> NodeFunction:
    """A node of a graph without conditions: it runs once, when all its sources have."""
    path, final = step.path, step.path == spec.graph.end
    whole_text = spec.answer == "text"

    async def run(state: State) -> dict[str, Any]:
        outputs = state.get("outputs") or {}
        incoming = _joined([outputs[source] for source in sources]) if sources else _initial(state)
        record, stopped = await _execute(step, state, incoming, execute)
        record["count"] = 1
        return _update(path, record, stopped, final, whole_text)

    return run


def _branching_node(spec: PipelineSpec, step: StepSpec, execute: Execute, spent: Spent | None) -> NodeFunction:
    """A node of a graph with conditions: it reads the edges that fired since it last ran, and chooses its way on."""
    path, final = step.path, step.path == spec.graph.end
    whole_text = spec.answer == "text"
    graph = spec.graph
    starts = path in graph.starts
    into = [edge.source for edge in graph.into(path)]
    choose = _chooser(graph.out_of(path), spent)
    # The deferred nodes that this one must not overtake.
    waiting_before = [
        (other, [edge.source for edge in graph.into(other)])
        for other in graph.order
        if len(into) > 1
        and len(graph.into(other)) > 1
        and other in graph.ancestors[path]
        and (path not in graph.ancestors[other] or graph.order.index(other) < graph.order.index(path))
    ]

    async def run(state: State) -> dict[str, Any]:
        outputs = state.get("outputs") or {}
        mine = outputs.get(path)
        if any(_fresh(outputs, other, sources) for other, sources in waiting_before):
            held: Record = {**(mine or _blank()), "next": [path]}
            return {"outputs": {path: held}}
        fresh = _fresh(outputs, path, into)
        if not fresh and not (starts and (mine is None or mine["count"] == 0)):
            return {"outputs": {path: {**(mine or _blank()), "next": []}}}
        incoming = _joined([outputs[source] for source in fresh]) if fresh else _initial(state)
        record, stopped = await _execute(step, state, incoming, execute)
        record["count"] = (mine["count"] if mine else 0) + 1
        taken = mine.get("consumed", {}) if mine else {}
        record["consumed"] = {**taken, **{source: outputs[source].get("fired", {})[path] for source in fresh}}
        fired = dict(mine.get("fired", {})) if mine else {}
        targets = choose(record, fired, bool(stopped or state.get("stopped")))
        for target in targets:
            fired[target] = fired.get(target, 0) + 1
        record["fired"] = fired
        record["next"] = targets
        return _update(path, record, stopped, final and not targets, whole_text)

    return run


def _chooser(edges: Sequence[Edge], spent: Spent | None) -> Callable[[Record, Mapping[str, int], bool], list[str]]:
    """Decides which edges out are taken: the conditional ones that hold, else the plain ones."""
    plain = [edge.target for edge in edges if not edge.conditional]
    conditional = [edge for edge in edges if edge.conditional]

    def choose(record: Record, fired: Mapping[str, int], stopping: bool) -> list[str]:
        if stopping or not conditional:
            return plain
        answers = [candidate["answer"] for candidate in record["candidates"]]
        scores = [candidate["scores"] for candidate in record["candidates"]]
        targets = []
        for edge in conditional:
            if edge.at_most is not None and fired.get(edge.target, 0) >= edge.at_most:
                continue
            if edge.arm is not None:
                if edge.arm == record.get("arm"):
                    targets.append(edge.target)
                continue
            usage = spent() if spent is not None and edge.when is not None and edge.when.needs_usage else None
            if edge.when is None or edge.when.holds(answers, scores, usage):
                targets.append(edge.target)
        return targets or plain

    return choose


def _router(path: str) -> Callable[[State], list[str] | str]:
    from langgraph.graph import END

    def route(state: State) -> list[str] | str:
        return state["outputs"][path].get("next") or END

    return route


def _fresh(outputs: Mapping[str, Record], path: str, sources: Sequence[str]) -> list[str]:
    """The sources whose edge to a node fired since the node last read it, in declared order."""
    mine = outputs.get(path)
    consumed = mine.get("consumed", {}) if mine else {}
    return [
        source
        for source in sources
        if source in outputs and outputs[source].get("fired", {}).get(path, 0) > consumed.get(source, 0)
    ]


async def _execute(step: StepSpec, state: State, incoming: Record, execute: Execute) -> tuple[Record, str | None]:
    """Run a node on what comes in; a run that was stopped passes it on untouched."""
    if state.get("stopped"):
        return incoming, None
    tools = state.get("tools")
    node_state = NodeState(
        question=state["question"],
        messages=tuple([read_turn(turn) for turn in state.get("turns") or ()]),
        tools=None if tools is None else Tools(*tools),
        candidates=tuple([Candidate.from_json(candidate) for candidate in incoming["candidates"]]),
        notes=tuple(incoming["notes"]),
        examples=tuple([(question, answer) for question, answer in incoming["examples"]]),
        recalled=tuple([Recalled(memory, entry) for memory, entry in incoming.get("recalled", ())]),
    )
    output = await execute(step, node_state)
    if output.candidates is not None:
        incoming["candidates"] = [candidate.to_json() for candidate in output.candidates]
    if output.notes is not None:
        incoming["notes"] = list(output.notes)
    if output.examples is not None:
        incoming["examples"] = [[question, answer] for question, answer in output.examples]
    if output.recalled is not None:
        incoming["recalled"] = [list(one) for one in output.recalled]
    if output.choice is not None:
        incoming["arm"] = output.choice.arm
    return incoming, output.stopped


def _update(path: str, record: Record, stopped: str | None, final: bool, whole_text: bool) -> dict[str, Any]:
    update: dict[str, Any] = {"outputs": {path: record}}
    if stopped is not None:
        update["stopped"] = stopped
    if final:
        candidates = record["candidates"]
        update["answer"] = candidates[0]["text" if whole_text else "answer"] if candidates else None
    return update


def _blank() -> Record:
    return {"candidates": [], "notes": [], "examples": [], "count": 0}


def _initial(state: State) -> Record:
    """What a node at the start reads. A new record each time: the node fills it in."""
    return {
        "candidates": [],
        "notes": list(state.get("notes") or ()),
        "examples": list(state.get("examples") or ()),
        "count": 0,
    }


def _joined(records: Sequence[Record]) -> Record:
    """What several nodes handed on, in their order. A candidate that came by two ways has what either way added."""
    if len(records) == 1:
        only = records[0]
        alone: Record = {
            "candidates": only["candidates"],
            "notes": only["notes"],
            "examples": only["examples"],
            "count": 0,
        }
        if "recalled" in only:
            alone["recalled"] = only["recalled"]
        return alone
    candidates: dict[str, CandidateJson] = {}
    for record in records:
        for candidate in record["candidates"]:
            twin = candidates.get(candidate["id"])
            candidates[candidate["id"]] = candidate if twin is None else _merged(twin, candidate)
    notes = dict.fromkeys(note for record in records for note in record["notes"])
    examples = {tuple(example): example for record in records for example in record["examples"]}
    joined: Record = {
        "candidates": list(candidates.values()),
        "notes": list(notes),
        "examples": list(examples.values()),
        "count": 0,
    }
    recalled = {tuple(one): one for record in records for one in record.get("recalled", ())}
    if recalled:
        joined["recalled"] = list(recalled.values())
    return joined


def _merged(left: CandidateJson, right: CandidateJson) -> CandidateJson:
    if left == right:
        return left
    return {
        **left,
        "scores": {**right["scores"], **left["scores"]},
        "critiques": list(dict.fromkeys([*left["critiques"], *right["critiques"]])),
        "tests": left["tests"] or right["tests"],
    }
