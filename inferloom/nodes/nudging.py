"""A small aligned model supplies words where a large base model does not know how to go on.

Nudging of Fei et al. (arXiv 2410.09300), its version for text. Each round the nudger writes a few words, and after each
of them the base model is asked to go on: as soon as it is sure of its first token, or would begin the nudger's next
word itself, it takes over, until it comes to a token of which it is not sure. Where it never does, all of the nudge is
taken. The nudger's end of text is the end. The premise is a base model: an aligned one needs no nudges.

Departures. The base model's repetition ends the text, which then is not finished, where the reference asks the nudger
again. Where both models have nothing to add, it ends, too; by itself the base model's end of text only hands over to
the nudger. Equal nudges in a row end nothing before `max_rounds`. `max_tokens` counts each model's own tokens, which
the log-probabilities of both tell apart, and is never passed; the reference counts by a third tokenizer and may pass
it. Words keep whatever white space is before them. The base model reads a plain prompt, the role `nudge_base`, with
solved examples, earlier turns and notes in front.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Completion, Json, NodeOutput, NodeState, Request
from inferloom.nodes.base import register_node
from inferloom.nodes.common import converse, open_turn
from inferloom.nodes.prompts import add_role
from inferloom.nodes.relay import (
    Relay,
    RelayNode,
    RelayParams,
    Writing,
    pieces,
    side_by_side,
    tokens_in,
    without_repeated_suffix,
)

NUDGE_BASE = add_role(
    "nudge_base", ("question",), system="{{ answer_instruction }}", user="Question: {{ question }}\nAnswer:\n"
)
_REPEATED_WORDS = 5
"""More words than this, said again by the base model, are a repetition."""


class NudgingParams(RelayParams):
    """Parameters of `nudging`."""

    model: str = Field(
        min_length=1,
        description="The large base model, which needs no chat template",
        json_schema_extra={"model": True},
    )
    nudger: str = Field(min_length=1, description="The small aligned model", json_schema_extra={"model": True})
    threshold: float = Field(
        0.3,
        ge=0,
        le=1,
        description="The base model is sure of a token from this probability on",
        json_schema_extra={"search": [0.2, 0.3, 0.4, 0.5]},
    )
    chunk: int = Field(16, ge=2, le=1000, description="Tokens asked for at a time, of either model")
    max_rounds: int = Field(150, ge=1, le=10_000, description="The most nudges")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="The longest solution, in tokens")


@register_node("nudging")
class Nudging(RelayNode):
    """Have a base model write a solution, with words of a small aligned model where the base model is unsure."""

    Params = NudgingParams
    params: NudgingParams
    paper = "https://arxiv.org/abs/2410.09300"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"nudger": "small", "model": "large"}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "prefix"})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve", NUDGE_BASE})

    def calls(self, candidates: int) -> tuple[int, int]:
        # Most: all but the nudger's call and the last of the base model's add a token or follow one.
        most = self.params.max_tokens
        return 1, 2 * min(self.params.max_rounds, most) + most

    def new_candidates(self) -> int:
        return 1

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        text = _Text(self.params, state, context)
        refusal = await side_by_side([text.write()], context)
        text.relay.shown = without_repeated_suffix(text.relay.text)
        return self.hand_on([text.relay], state, context, refusal)


class _Text:
    """The solution on its way."""

    def __init__(self, params: NudgingParams, state: NodeState, context: NodeContext) -> None:
        self.relay = Relay()
        self._params = params
        self._opening = converse(state, context, "solve")
        self._prompt = _raw_prompt(state, context)

    def write(self) -> Writing:
        relay = self.relay
        for _ in range(self._params.max_rounds):
            before = relay.text
            yield from self._round()
            if relay.end:
                return
            if relay.text == before:  # at temperature 0 the next round would be the same
                break
        relay.end = "cut"

    def _round(self) -> Writing:
        """A nudge, and what the base model writes after it."""
        params, relay = self._params, self.relay
        asked = Request(messages=open_turn(self._opening, relay.text), logprobs=0)
        nudge = yield params.nudger, self._sized(asked, 0)
        if nudge is None:
            return
        found = pieces(nudge)
        if nudge.finish_reason != "length":
            relay.keep(params.nudger, nudge, most=params.max_tokens, tokens=len(found))
            return
        words = _words(nudge.text, params.chunk)
        begun, tokens, base = "", 0, None
        for place, word in enumerate(words, 1):
            begun += word
            tokens = max(place, tokens_in(found, len(begun)))
            if place == len(words) or relay.tokens + tokens >= params.max_tokens:
                break
            reply = yield self._to_base(begun, tokens)
            if reply is None:
                break
            token, chance = (*pieces(reply), ("", -1.0))[0]
            # A space would begin any word.
            if chance >= params.threshold or (token.strip(" ") and words[place].startswith(token)):
                base = reply
                break
        relay.keep(params.nudger, nudge, most=params.max_tokens, text=begun, tokens=tokens)
        if not words:
            base = yield self._to_base("", 0)
        yield from self._go_on(base, nudged=bool(words))

    def _go_on(self, reply: Completion | None, *, nudged: bool) -> Writing:
        """Take the base model's tokens up to the first of which it is not sure; behind a nudge, its first anyway."""
        params, relay = self._params, self.relay
        while reply is not None and not relay.end:
            found = pieces(reply)
            first = found[:1] if nudged else []
            sure = [*first, *takewhile(lambda piece: piece[1] >= params.threshold, found[len(first) :])]
            text = "".join(piece for piece, _ in sure)
            if len(text.split()) > _REPEATED_WORDS and text.strip() in relay.text:
                relay.end = "cut"
            elif text:
                relay.keep(params.model, reply, most=params.max_tokens, text=text, tokens=len(sure))
            elif not nudged and not found and reply.finish_reason == "stop":
                relay.end = "finished"  # neither has anything to add
            if len(sure) < len(found) or not text or reply.finish_reason == "stop" or relay.end:
                return
            if reply.finish_reason == "other":  # going on would meet it again
                relay.end = "cut"
                return
            reply, nudged = (yield self._to_base("", 0)), False

    def _to_base(self, begun: str, tokens: int) -> tuple[str, Request]:
        asked = Request(prefix=self._prompt + self.relay.text + begun, logprobs=1)
        return self._params.model, self._sized(asked, tokens)

    def _sized(self, request: Request, tokens: int) -> Request:
        left = self._params.max_tokens - self.relay.tokens - tokens
        return replace(request, max_tokens=min(self._params.chunk, left), temperature=0.0)


def _words(text: str, most: int) -> list[str]:
    """The words of a text with the white space around them, the last with all that is left; none in white space."""
    words = re.findall(r"\s*\S+(?:\s+\Z)?", text) if text.strip() else []
    return words if len(words) <= most else [*words[: most - 1], "".join(words[most - 1 :])]


def _raw_prompt(state: NodeState, context: NodeContext) -> str:
    """What the base model goes on from: the conversation as text, its questions in the words of `nudge_base`."""
    *before, asked = converse(state, context, NUDGE_BASE)
    shown = ""
    for turn in before:
        question = turn.role == "user"
        shown += (
            context.prompts.render(NUDGE_BASE, {"question": turn.content})[-1].content if question else turn.content
        )
        shown += "" if question else "\n\n"
    return shown + asked.content
