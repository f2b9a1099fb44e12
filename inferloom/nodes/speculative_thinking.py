"""A small model thinks, and a large one takes over where its words say that it affirms, doubts or checks.

Speculative Thinking of Yang et al. (arXiv 2504.12329). Where the small model comes to the end of a paragraph, the first
of these applies: if it has doubted too often, a cue is written and the large model looks back for mistakes; else the
small model drafts a few tokens, and if their keywords tell a mood, the large model writes as many in their place, and
goes on for longer if what was kept says that it checks. The large model may also begin the text.

Departures. Keywords are whole words and phrases, where the reference also finds `check` in `checking`. A draft without
a mood is kept as the small model's own continuation instead of being thrown away and drawn again: the distribution is
the same, for fewer tokens; so a draft stops at the end of a paragraph too. Texts are continued as texts, so that the
two models need no tokenizer in common. `max_tokens` is on what the models write, without prompt and cue, and nothing
passes it. The last of `max_segments` paragraphs runs to the end of the text, without a takeover. There is no top-k, no
time limit, and no switch that takes over at every paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from inferloom.core.protocols import NodeContext
from inferloom.core.types import Completion, Json, Message, NodeOutput, NodeState, Request
from inferloom.nodes.base import register_node
from inferloom.nodes.common import converse, open_turn
from inferloom.nodes.relay import Relay, RelayNode, RelayParams, Writing, side_by_side

_RECAP_MORE, _RECAP_MOST = 25, 200
_LIMIT_MORE, _LIMIT_MOST = 5, 30
Keywords: TypeAlias = tuple[Annotated[str, Field(pattern=r"\S")], ...]


class SpeculativeThinkingParams(RelayParams):
    """Parameters of `speculative_thinking`."""

    model: str = Field(min_length=1, description="The large model, which takes over", json_schema_extra={"model": True})
    draft: str = Field(min_length=1, description="The small model, which writes", json_schema_extra={"model": True})
    n: int = Field(1, ge=1, le=256, description="Solutions written side by side", json_schema_extra={"search": [1, 4]})
    step: str = Field("\n\n", min_length=1, description="What ends a paragraph, where the large model may take over")
    begin_tokens: int = Field(
        0, ge=0, le=1_000_000, description="Tokens by the large model first", json_schema_extra={"search": [0, 100]}
    )
    lookahead: int = Field(20, ge=1, le=1_000_000, description="Tokens drafted to tell the small model's mood")
    takeover_tokens: int = Field(
        20, ge=1, le=1_000_000, description="Tokens of a takeover", json_schema_extra={"search": [20, 40]}
    )
    verify_tokens: int = Field(125, ge=1, le=1_000_000, description="Tokens more where what was kept says it checks")
    recap_tokens: int = Field(125, ge=1, le=1_000_000, description="Tokens behind the cue, 25 more each time up to 200")
    negative_limit: int = Field(15, ge=1, le=1000, description="Doubts before the cue, 5 more each time up to 30")
    cue: str = Field(
        "Before I go on, I look over the steps above once more. Is one of them wrong?",
        min_length=1,
        description="Written where the doubts reach their limit, in front of the large model's recap",
    )
    choose: Literal["large", "disagreement"] = Field(
        "large",
        description="The takeover is kept always, or only where just one of draft and takeover doubts",
        json_schema_extra={"search": ["large", "disagreement"]},
    )
    positive: Keywords = Field(("yeah", "yes", "final answer", "confident"), description="Words that affirm")
    negative: Keywords = Field(("wait", "alternatively", "hold on", "another"), description="Words that doubt")
    verify: Keywords = Field(("verify", "think again", "recap", "check"), description="Words that check; doubts too")
    segment_tokens: int = Field(1024, ge=1, le=1_000_000, description="The longest paragraph; it goes on as the next")
    max_segments: int = Field(128, ge=1, le=10_000, description="The most paragraphs that the small model writes")
    temperature: float = Field(
        0.6, ge=0, le=2, description="Sampling temperature", json_schema_extra={"search": [0.4, 0.6, 0.8, 1.0]}
    )
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus sampling: the share of probability drawn from")
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="The longest solution, in tokens")


@register_node("speculative_thinking")
class SpeculativeThinking(RelayNode):
    """Have a small model write solutions, and a large one take over at its points of reflection."""

    Params = SpeculativeThinkingParams
    params: SpeculativeThinkingParams
    paper = "https://arxiv.org/abs/2504.12329"

    @classmethod
    def example(cls) -> dict[str, Json]:
        return {"draft": "small", "model": "large"}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"prefix"})

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"solve"})

    def calls(self, candidates: int) -> tuple[int, int]:
        # Most: a draft, a takeover and a verification behind every paragraph but the last two.
        most = bool(self.params.begin_tokens) + self.params.max_segments + 3 * max(0, self.params.max_segments - 2)
        return self.params.n, self.params.n * most

    def new_candidates(self) -> int:
        return self.params.n

    async def run(self, state: NodeState, context: NodeContext) -> NodeOutput:
        opening = converse(state, context, "solve")
        chains = [_Chain(self.params, opening) for _ in range(self.params.n)]
        refusal = await side_by_side([chain.write() for chain in chains], context)
        return self.hand_on([chain.relay for chain in chains], state, context, refusal)


class _Chain:
    """One solution on its way."""

    def __init__(self, params: SpeculativeThinkingParams, opening: tuple[Message, ...]) -> None:
        self.relay = Relay()
        self._params = params
        self._opening = opening
        self._paragraph = False
        """Whether the small model just came to the end of one."""
        self._segments = self._doubts = 0
        self._limit, self._recap = params.negative_limit, params.recap_tokens

    def write(self) -> Writing:
        params, relay = self._params, self.relay
        if params.begin_tokens:
            yield from self._piece(params.model, params.begin_tokens)
        while not relay.end:
            last = self._segments + 1 >= params.max_segments
            if self._paragraph and not last:
                yield from self._reflect()
                self._segments += self._paragraph  # the draft was a paragraph of its own
            else:
                self._segments += 1
                tokens, stop = (params.max_tokens, ()) if last else (params.segment_tokens, (params.step,))
                yield from self._piece(params.draft, tokens, stop)
                relay.end = relay.end or ("cut" if last else "")

    def _reflect(self) -> Writing:
        """What is written at the end of a paragraph before the small model goes on."""
        params = self._params
        if self._doubts >= self._limit:
            yield from self._piece(params.model, self._recap, cue=params.cue)
            self._doubts = 0
            self._recap = max(self._recap, min(self._recap + _RECAP_MORE, _RECAP_MOST))
            self._limit = max(self._limit, min(self._limit + _LIMIT_MORE, _LIMIT_MOST))
            return
        draft = yield self._asked(params.draft, params.lookahead, (params.step,))
        mood = self._mood(draft)
        takeover = (yield self._asked(params.model, params.takeover_tokens)) if draft and mood else None
        if takeover and (params.choose == "large" or (mood < 0) != (self._mood(takeover) < 0)):
            kept, mood = takeover, self._mood(takeover)
            self._keep(params.model, takeover, rejected=draft)
        elif draft:  # also where the budget refused the takeover
            kept = draft
            self._keep(params.draft, draft, rejected=takeover)
        self._doubts += mood < 0
        if takeover and not self.relay.end and hits(params.verify, kept.text):
            yield from self._piece(params.model, params.verify_tokens)

    def _piece(self, model: str, tokens: int, stop: tuple[str, ...] = (), cue: str = "") -> Writing:
        reply = yield self._asked(model, tokens, stop, cue)
        if reply:
            self._keep(model, reply, cue=cue)

    def _asked(self, model: str, tokens: int, stop: tuple[str, ...] = (), cue: str = "") -> tuple[str, Request]:
        params = self._params
        return model, Request(
            messages=open_turn(self._opening, self.relay.text + cue),
            max_tokens=min(tokens, max(1, params.max_tokens - self.relay.tokens)),
            temperature=params.temperature,
            top_p=params.top_p,
            stop=stop,
        )

    def _keep(self, model: str, reply: Completion, *, cue: str = "", rejected: Completion | None = None) -> None:
        self._paragraph = self.relay.keep(
            model, reply, most=self._params.max_tokens, cue=cue, separator=self._params.step, rejected=rejected
        )

    def _mood(self, reply: Completion | None) -> int:
        """1 where a text affirms, -1 where it doubts or checks at least as often, 0 where no keyword is in it."""
        text = reply.text if reply else ""
        affirming = hits(self._params.positive, text)
        doubting = hits(self._params.negative, text) + hits(self._params.verify, text)
        return (affirming > doubting) - (0 < doubting >= affirming)


def hits(keywords: Sequence[str], text: str) -> int:
    """How often keywords stand in a text as whole words; of those that overlap, the longest counts."""
    return len(_pattern(tuple(keywords)).findall(text)) if keywords else 0


@cache
def _pattern(keywords: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(keywords, key=len, reverse=True)
    words = "|".join(r"\s+".join(map(re.escape, keyword.split())) for keyword in longest_first)
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
