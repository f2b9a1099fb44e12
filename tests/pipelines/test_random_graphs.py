"""Graphs drawn at random, run with nodes that take a random time, against a plain walk in topological order."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from inferloom.core.types import Candidate, Json, NodeOutput, NodeState
from inferloom.pipelines.compile import compile_graph
from inferloom.pipelines.rules import predict
from inferloom.pipelines.spec import PipelineSpec, StepSpec


def drawn(rng: Random, loops: bool) -> PipelineSpec:
    """A pipeline of `sample` nodes, each of which adds one candidate, with plain and conditional edges."""
    count = rng.randint(3, 8)
    wanted: set[tuple[int, int]] = {(node, rng.randint(node + 1, count - 1)) for node in range(count - 1)}
    for node in range(1, count):
        if not any(target == node for _, target in wanted):
            wanted.add((rng.randint(0, node - 1), node))
    edges: list[Json] = [[f"n{source}", f"n{target}"] for source, target in wanted]
    for _ in range(rng.randint(1, count)):
        source = rng.randint(0, count - 2)
        target = rng.randint(source + 1, count - 1)
        if (source, target) not in wanted:
            wanted.add((source, target))
            condition = f"candidates {rng.choice(['<', '>='])} {rng.randint(1, count)}"
            edges.append({"from": f"n{source}", "to": f"n{target}", "when": condition})
    before: dict[int, set[int]] = {node: {node} for node in range(count)}
    for source, target in sorted(wanted):
        before[target] |= before[source]
    for _ in range(rng.randint(1, 2) if loops else 0):
        source = rng.randint(0, count - 1)
        target = rng.choice(sorted(before[source]))
        if (source, target) not in wanted:
            wanted.add((source, target))
            bound = {"when": "candidates < 40", "at_most": rng.randint(1, 3)}
            edges.append({"from": f"n{source}", "to": f"n{target}", **bound})
    rng.shuffle(edges)
    nodes: dict[str, Json] = {f"n{node}": {"sample": "m"} for node in range(count)}
    return PipelineSpec.from_data({"models": {"m": "pocket:small"}, "nodes": nodes, "edges": edges})


class Sampler:
    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.read: dict[str, list[list[str]]] = {}

    async def __call__(self, step: StepSpec, state: NodeState) -> NodeOutput:
        await asyncio.sleep(self.rng.random() / 500)
        turns = self.read.setdefault(step.path, [])
        turns.append([candidate.id for candidate in state.candidates])
        new = Candidate(id=f"{step.path}#{len(turns)}", text="", answer="1")
        return NodeOutput(candidates=(*state.candidates, new))


def walked(spec: PipelineSpec) -> dict[str, list[list[str]]]:
    """What every node reads, by the definition: each node once, after all before it, if an edge to it was taken."""
    read: dict[str, list[list[str]]] = {}
    made: dict[str, list[str]] = {}
    taken: set[tuple[str, str]] = set()
    for path in spec.graph.order:
        sources = [edge.source for edge in spec.graph.into(path) if (edge.source, path) in taken]
        if not sources and path not in spec.graph.starts:
            continue
        incoming = list(dict.fromkeys(one for source in sources for one in made[source]))
        read[path] = [incoming]
        made[path] = [*incoming, f"{path}#1"]
        onward = spec.graph.out_of(path)
        answers: list[str | None] = ["1"] * len(made[path])
        holding = [edge for edge in onward if edge.when is not None and edge.when.holds(answers, [])]
        taken |= {(path, edge.target) for edge in holding or [edge for edge in onward if not edge.conditional]}
    return read


@pytest.mark.parametrize("seed", range(60))
async def test_without_loops_every_node_reads_what_the_plain_walk_says(seed: int) -> None:
    rng = Random(seed)
    spec = drawn(rng, loops=False)
    sampler = Sampler(rng)
    await compile_graph(spec, sampler).run("q")
    assert sampler.read == walked(spec)


@pytest.mark.parametrize("seed", range(60))
async def test_loops_end_within_their_bounds_and_do_not_depend_on_timing(seed: int) -> None:
    spec = drawn(Random(seed), loops=True)
    first, second = Sampler(Random(1)), Sampler(Random(2))
    candidates, _ = await compile_graph(spec, first).run("q")
    await compile_graph(spec, second).run("q")
    assert first.read == second.read
    assert candidates
    for path, forecast in predict(spec).items():
        turns = first.read.get(path, [])
        assert forecast.executions[0] <= len(turns) <= forecast.executions[1]
        assert forecast.calls[0] <= len(turns) <= forecast.calls[1]
        for incoming in turns:
            assert forecast.candidates_in[0] <= len(incoming) <= forecast.candidates_in[1]
