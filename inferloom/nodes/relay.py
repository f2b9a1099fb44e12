"""What nodes share in which two models write one text in turns: the text on its way, asking, reading, handing on.

How a text is written stands in one generator per text: it yields what it asks of which model, and is sent the reply.
So texts go on side by side, request by request, and which of them asks first never depends on the clock.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, zip_longest
from typing import Literal, TypeAlias

from pydantic import Field

from inferloom.core.errors import BudgetExceededError
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, Completion, NodeOutput, NodeState, Request, StepRecord
from inferloom.nodes.base import Node, Params, Thing
from inferloom.nodes.common import candidates_of, draw, gather, stop_reason

Writing: TypeAlias = Generator[tuple[str, Request], Completion | None, None]
"""Yields (model, request with n = 1); is sent the completion, or None where the budget refused it: the last reply."""

_REPEATED_SUFFIX = 30
"""Characters, at least, that are cut off the end where they stand there twice."""
_SKIP = 8
"""Characters that a token may leave out in front: servers show some without their space, some not at all."""


@dataclass(slots=True)
class Relay:
    """A text on its way."""

    text: str = ""
    """What is continued."""
    shown: str = ""
    """What is handed on: the same without a separator at the end."""
    tokens: int = 0
    """Of what was kept and a model wrote."""
    end: Literal["", "finished", "cut"] = ""
    """Why it is not continued: its text ended, or it met a limit."""
    steps: list[StepRecord] = field(default_factory=list)
    """A record of every piece that was kept."""

    def keep(
        self,
        model: str,
        completion: Completion,
        *,
        most: int,
        tokens: int | None = None,
        text: str | None = None,
        cue: str = "",
        separator: str | None = None,
        rejected: Completion | None = None,
    ) -> bool:
        """Go on with a piece; whether it ended at the separator.

        At the separator, it is put back; at the end of the text, the text is finished; at the limit of the piece, the
        next goes on in its middle. A text that reached its own limit is cut, and so is one that the server ended for
        another reason, such as a filter.

        Args:
            model: Who wrote it.
            completion: What was written.
            most: The limit of the text, in tokens.
            tokens: Of the piece; None: the completion's.
            text: What is kept of the completion, where that is not all: then its end is not the text's.
            cue: What stands in front of it and no model wrote.
            separator: What ended the piece, if it is the stop reason.
            rejected: Another completion for this place.
        """
        record = StepRecord(model=model, completion=completion.id)
        if rejected is not None:
            record["rejected"] = rejected.id
        self.steps.append(record)
        self.tokens += completion.completion_tokens if tokens is None else tokens
        reason = completion.finish_reason if text is None else "length"
        separated = reason == "stop" and separator is not None and completion.stop_reason == separator
        if reason == "stop" and not separated:
            self.end = "finished"
        elif reason == "other" or self.tokens >= most:
            self.end = "cut"
        written = completion.text if text is None else text
        if written or self.end != "finished":  # an end right behind a separator or a cue leaves neither
            self.shown = self.text + cue + written
        self.text += cue + written + (separator if separated and separator else "")
        return separated


async def side_by_side(writings: Sequence[Writing], context: NodeContext) -> BudgetExceededError | None:
    """Let all texts be written until they have ended or the budget refuses; the first refusal.

    Equal requests are asked as one with a larger n, so that their draws differ.
    """
    pending = [(writing, next(writing)) for writing in writings]
    refusal: BudgetExceededError | None = None
    while pending and refusal is None:
        alike: dict[tuple[str, Request], list[Writing]] = {}
        for writing, asked in pending:
            alike.setdefault(asked, []).append(writing)
        drawn, _ = await gather(
            draw(context, model, replace(request, n=len(asking))) for (model, request), asking in alike.items()
        )
        pending = []
        for asking, reply in zip(alike.values(), drawn, strict=True):
            completions, refused = reply or ([], None)
            refusal = refusal or refused
            for writing, completion in zip_longest(asking, completions):
                try:
                    pending.append((writing, writing.send(completion)))
                except StopIteration:
                    continue
    return refusal


class RelayParams(Params):
    """What every node takes in which two models write in turns."""

    keep: bool = Field(False, description="Keep the candidates that came in, after the new ones")


class RelayNode(Node):
    """What the nodes are alike in."""

    params: RelayParams
    static = False

    @abstractmethod
    def new_candidates(self) -> int:
        """The candidates that it makes."""

    @property
    def provides(self) -> frozenset[Thing]:
        one = self.new_candidates() == 1 and not self.params.keep
        return frozenset({"candidates", "one"} if one else {"candidates"})

    @property
    def drops(self) -> frozenset[Thing]:
        # The new candidates have none of these, whatever a kept one has.
        return frozenset[Thing]({"scores", "critiques", "tests", "one"}) - self.provides

    def candidates_out(self, candidates: int) -> int:
        return self.new_candidates() + (candidates if self.params.keep else 0)

    def hand_on(
        self, relays: Sequence[Relay], state: NodeState, context: NodeContext, refusal: BudgetExceededError | None
    ) -> NodeOutput:
        """The texts as candidates, finished ones first, and why the run stops, if it does.

        A candidate's origin names the model and the completion of its last piece, and all pieces under `steps`. Texts
        without any piece are left out.

        Raises:
            BudgetExceededError: Nothing was received.
        """
        received = sorted((relay for relay in relays if relay.steps), key=lambda relay: relay.end != "finished")
        if not received and refusal is not None:
            raise refusal
        pairs = [(relay.steps[-1]["model"], _whole(relay)) for relay in received]
        made = candidates_of(context, pairs, taken=(candidate.id for candidate in state.candidates))
        told = (_with_steps(candidate, relay) for candidate, relay in zip(made, received, strict=True))
        kept = state.candidates if self.params.keep else ()
        return NodeOutput(candidates=(*told, *kept), stopped=stop_reason(context, refusal))


def _whole(relay: Relay) -> Completion:
    reason: Literal["stop", "length"] = "stop" if relay.end == "finished" else "length"
    return Completion(text=relay.shown, finish_reason=reason, id=relay.steps[-1]["completion"])


def _with_steps(candidate: Candidate, relay: Relay) -> Candidate:
    return replace(candidate, origin={**candidate.origin, "steps": relay.steps})


def pieces(completion: Completion) -> list[tuple[str, float]]:
    """A completion's text by tokens, each with its probability; at temperature 0 that is the highest there is."""
    text, at = completion.text, 0
    found: list[tuple[str, float]] = []
    for token in completion.logprobs or ():
        place = text.find(token.token, at, at + _SKIP + len(token.token))
        end = at if place < 0 else place + len(token.token)
        found.append((text[at:end], math.exp(token.logprob)))
        at = end
    if at < len(text):
        last, chance = found.pop() if found else ("", 0.0)
        found.append((last + text[at:], chance))
    return found


def tokens_in(found: Sequence[tuple[str, float]], length: int) -> int:
    """How many tokens it takes to write so many characters."""
    ends = accumulate(len(piece) for piece, _ in found)
    return min(len(found), 1 + sum(end < length for end in ends))


def without_repeated_suffix(text: str) -> str:
    """The text without what its end says twice, as often as it says it."""
    while (end := len(text)) >= 2 * _REPEATED_SUFFIX:
        tail, before = text[-_REPEATED_SUFFIX:], end - _REPEATED_SUFFIX
        while (before := text.rfind(tail, 0, before)) >= 0:
            length = end - _REPEATED_SUFFIX - before
            if text.endswith(text[end - length :], 0, end - length):
                break
            before += _REPEATED_SUFFIX - 1
        else:
            return text
        text = text[: end - length]
    return text
