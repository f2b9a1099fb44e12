"""Have a model write tests for the question, run every candidate's program against each, and order by the share passed.

Archon's unit test generator and evaluator (arXiv 2409.15254) in one. Departures: the tests are programs and they are
executed, in a sandbox without files or network, where Archon's are sentences and a model only judges whether each would
pass; candidates are put in order and none is dropped; a test that the sandbox cannot run (`unsupported`) counts neither
way, and a candidate of which no test could be run scores 0.5. The tests are as fallible as their author: one that is
wrong fails right programs too. A candidate without a whole program (it was cut inside one) passes none. Where the
sandbox is `isolated`, a program that forges its own result cannot be told from one that passes. A reply without tests
is reported as the event `parse_failed`; then all score 0.5.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from inferloom.core.code import code_of, split_tests
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.common import ask, converse, gather, incoming, order_by
from inferloom.nodes.prompts import add_role

ROLE = add_role(
    "unit_tests",
    {"question", "count"},
    system=(
        "You write tests for programming tasks in Python. The tests decide which of several programs is right, so test "
        "what the task asks for, and nothing that it leaves open."
    ),
    user=(
        "<question>\n{{ question }}\n</question>\n\n"
        "Write up to {{ count }} tests for a program that answers the question; do not write the program. Cover "
        "ordinary cases first, then edge cases. Use the names that the question gives, and import nothing outside the "
        "standard library. Each test is one `assert` statement at the left margin. Reply with one block of Python code "
        "and nothing else."
    ),
)
_UNKNOWN = 0.5
"""The score of a candidate of which nothing could be tested: below any that pass more tests than they fail."""


class UnitTestsParams(Params):
    """Parameters of `unit_tests`."""

    model: str = Field(min_length=1, description="The model that writes the tests", json_schema_extra={"model": True})
    cap: int = Field(8, ge=1, le=64, description="The most tests", json_schema_extra={"search": [4, 8, 16]})
    name: str = Field("tests", min_length=1, description="The score's name: the share of tests passed")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the tests")
    max_tokens: int = Field(1024, ge=1, le=1_000_000, description="The longest reply with tests, in tokens")


@register_node("unit_tests")
class UnitTests(Node):
    """Order the candidates by the share of a model's tests that their programs pass when run."""

    Params = UnitTestsParams
    params: UnitTestsParams
    paper = "https://arxiv.org/abs/2409.15254"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "large"}

    @property
    def requires(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"tests", "scores"})

    @property
    def scores_out(self) -> frozenset[str]:
        return frozenset({self.params.name})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({ROLE})

    def calls(self, candidates: int) -> tuple[int, int]:
        return min(candidates, 1), min(candidates, 1)

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        candidates = incoming(state, context)
        tests = await self._write(state, context)
        programs = [code_of(candidate.text, cut=not candidate.finished) for candidate in candidates]
        passed = await _passed(list(dict.fromkeys(program for program in programs if program)), tests, context)
        none = (False,) * len(tests)
        tested = [
            self._with(candidate, passed[program] if program else none)
            for candidate, program in zip(candidates, programs, strict=True)
        ]
        order = order_by([candidate.scores[self.params.name] for candidate in tested])
        return NodeOutput(candidates=tuple(tested[position] for position in order))

    async def _write(self, state: NodeState, context: NodeContext) -> list[str]:
        """The tests that the model wrote."""
        request = Request(
            messages=converse(state, context, ROLE, {"count": self.params.cap}),
            temperature=self.params.temperature,
            max_tokens=self.params.max_tokens,
        )
        reply = await ask(context, self.params.model, request)
        tests = split_tests(code_of(reply.text) or "")
        if reply.finish_reason == "length":
            tests = tests[:-1]  # the last one was cut
        if not tests:
            context.emit("parse_failed", {"role": ROLE, "reply": reply.text[:200]})
        return tests[: self.params.cap]

    def _with(self, candidate: Candidate, passed: tuple[bool, ...]) -> Candidate:
        score = sum(passed) / len(passed) if passed else _UNKNOWN
        return replace(candidate, tests=passed).with_score(self.params.name, score)


async def _passed(programs: list[str], tests: list[str], context: NodeContext) -> dict[str, tuple[bool, ...]]:
    """For every program, whether it passed each of the tests that could be run."""
    pairs = [(program, test) for program in programs for test in tests]
    passed: dict[str, list[bool]] = {program: [] for program in programs}
    if pairs:
        results, _ = await gather(context.sandbox.run(f"{program}\n\n{test}\n") for program, test in pairs)
        unsupported = 0
        for (program, _), result in zip(pairs, results, strict=True):
            if result is None or result.outcome == "unsupported":
                unsupported += 1
            else:
                passed[program].append(result.outcome == "ok")
        context.emit("tested", {"tests": len(tests), "runs": len(pairs), "unsupported": unsupported})
    return {program: tuple(each) for program, each in passed.items()}
