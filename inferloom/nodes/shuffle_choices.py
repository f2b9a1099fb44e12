"""Answer a multiple-choice question under several orders of its options, and map the answers back.

The choice shuffling of Medprompt (Nori et al., arXiv 2311.16452); a `vote` after it is the paper's ensemble. Models
lean to places and letters; over many orders the lean cancels and what they know stays. Departures: orders differ as
long as there are different ones, so with few options the same order can come again; options such as "none of the above"
keep their place, and a question whose options name each other by letter ("A and C") is left as it is; the temperature
is a parameter and nothing is retried.

A candidate's text ends with its answer in the question's own order, so that later steps read what they would read had
the question been asked as it stands. An answer that names no option is None (it has no vote), reported as the event
`parse_failed`. A question without options is answered n times as it stands, reported as the event `no_options`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from inferloom.core.answers import extract_answer
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, Json, Message, NodeOutput, NodeState, Request
from inferloom.nodes.base import Node, Params, Thing, register_node
from inferloom.nodes.choices import Choices, parse_choices, picked
from inferloom.nodes.common import LETTERS, candidates_of, converse, draw, gather, stop_reason
from inferloom.nodes.nearest import last_question


class ShuffleChoicesParams(Params):
    """Parameters of `shuffle_choices`."""

    model: str = Field(min_length=1, description="The model that answers", json_schema_extra={"model": True})
    n: int = Field(
        5, ge=1, le=1024, description="Orders of the options, an answer each", json_schema_extra={"search": [3, 5, 10]}
    )
    temperature: float = Field(
        0.8, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.0, 0.4, 0.8]}
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest completion, in tokens")


@register_node("shuffle_choices")
class ShuffleChoices(Node):
    """Draw n answers under n orders of the question's options, after the candidates that came in."""

    Params = ShuffleChoicesParams
    params: ShuffleChoicesParams
    paper = "https://arxiv.org/abs/2311.16452"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"model": "small", "n": 5}

    @property
    def provides(self) -> frozenset[Thing]:
        return frozenset({"candidates"})

    @property
    def drops(self) -> frozenset[Thing]:
        return frozenset({"scores", "critiques", "tests", "one"})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve"})

    def calls(self, candidates: int) -> tuple[int, int]:
        return self.params.n, self.params.n

    def candidates_out(self, candidates: int) -> int:
        return candidates + self.params.n

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        params = self.params
        choices = parse_choices(last_question(state))
        if choices is None:
            context.emit("no_options", {"question": last_question(state)[:200]})
            orders: dict[tuple[int, ...] | None, int] = {None: params.n}
        else:
            orders = dict(Counter(choices.orders(params.n, context.rng)))
        draws, _ = await gather(
            draw(context, params.model, self._request(state, context, choices, order, count))
            for order, count in orders.items()
        )
        made = [
            (order, completion)
            for order, drawn in zip(orders, draws, strict=True)
            for completion in (drawn[0] if drawn else [])
        ]
        refusal = next((drawn[1] for drawn in draws if drawn and drawn[1]), None)
        if refusal and not made:
            raise refusal
        pairs: list[tuple[str, Completion]] = [(params.model, completion) for _, completion in made]
        new = candidates_of(context, pairs, taken=(candidate.id for candidate in state.candidates))
        if choices is not None:
            new = [
                _mapped_back(candidate, choices, order or (), context)
                for candidate, (order, _) in zip(new, made, strict=True)
            ]
        return NodeOutput(candidates=(*state.candidates, *new), stopped=stop_reason(context, refusal))

    def _request(
        self,
        state: NodeState,
        context: NodeContext,
        choices: Choices | None,
        order: tuple[int, ...] | None,
        count: int,
    ) -> Request:
        if choices is not None and order is not None:
            state = _asking(state, choices.in_order(order))
        return Request(
            messages=converse(state, context, "solve"),
            n=count,
            max_tokens=self.params.max_tokens,
            temperature=self.params.temperature,
            top_p=self.params.top_p,
        )


def _asking(state: NodeState, question: str) -> NodeState:
    """The state with another text as what the user asked last."""
    turns = list(state.messages)
    for position in range(len(turns) - 1, -1, -1):
        if turns[position].role == "user":
            turns[position] = Message("user", question)
            break
    return replace(state, question=question, messages=tuple(turns))


def _mapped_back(candidate: Candidate, choices: Choices, order: Sequence[int], context: NodeContext) -> Candidate:
    """The candidate with its answer as a letter of the question as the user asked it."""
    if candidate.answer is None:
        return candidate
    place = picked(candidate.answer, [choices.options[index] for index in order])
    if place is None:
        context.emit("parse_failed", {"role": "solve", "reply": candidate.text[-200:]})
        return replace(candidate, answer=None)
    own = LETTERS[order[place]]
    if list(order) == sorted(order):
        return replace(candidate, answer=own)
    note = f"\n\nThe options stood in another order: {LETTERS[place]} is {own} of the question.\n"
    # A boxed answer goes before a marked one, so the last line says it in the form that will be found.
    for line in (f"A: {own}", f"\\boxed{{{own}}}"):
        if extract_answer(candidate.text + note + line) == own:
            return replace(candidate, text=candidate.text + note + line, answer=own)
    return replace(candidate, answer=own)
