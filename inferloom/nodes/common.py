"""What several nodes share: building a conversation, drawing within the budget, making candidates, reading scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from inferloom.core.answers import extract_answer
from inferloom.core.errors import BudgetExceededError, UnknownNameError, UserError
from inferloom.core.protocols import NodeContext
from inferloom.core.tools import calls_answer, calls_text
from inferloom.core.types import Candidate, Completion, Message, NodeState, Origin, Request, candidate_id

T = TypeVar("T")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of candidates shown side by side."""


def converse(
    state: NodeState,
    context: NodeContext,
    role: str,
    values: Mapping[str, object] | None = None,
    *,
    system: str | None = None,
    examples: Sequence[tuple[str, str]] = (),
    with_tools: bool = False,
) -> tuple[Message, ...]:
    """The conversation that puts a role of the prompt pack to a model.

    One system message in front (`system`, the conversation's own, the pack's, the notes), then solved examples as turns
    (`examples`, then the state's), then the conversation's earlier turns, then the role. The role's `question` is the
    last user message. Calls of tools and what the tools said are turns where `with_tools`, for a model that goes on
    from there; else they stand as text in the user message that led to them.
    """
    earlier, question, since = _conversation(state, with_tools)
    asked = context.prompts.render(role, {"question": question, **(values or {})})
    told = [system] if system else []
    told += [message.content for message in (*earlier, *asked) if message.role == "system"]
    if state.notes:
        told += [message.content for message in context.prompts.render("notes", {"notes": list(state.notes)})]
    turns = [Message("system", "\n\n".join(told))] if told else []
    for example_question, answer in (*examples, *state.examples):
        turns += [Message("user", example_question), Message("assistant", answer)]
    turns += [message for message in (*earlier, *asked) if message.role != "system"]
    return (*turns, *since) if with_tools else tuple(turns)


def _conversation(state: NodeState, with_tools: bool) -> tuple[tuple[Message, ...], str, tuple[Message, ...]]:
    """The turns before the last user message, that message, and what tools were called and said since.

    System messages since then count as earlier ones. The bare question where there is no user message.
    """
    turns = state.messages if with_tools else _told(state.messages)
    for index in range(len(turns) - 1, -1, -1):
        if turns[index].role == "user":
            since = tuple([turn for turn in turns[index + 1 :] if turn.role != "system"])
            earlier = (*turns[:index], *(turn for turn in turns[index + 1 :] if turn.role == "system"))
            return earlier, turns[index].content, since if since and since[-1].role == "tool" else ()
    return turns, state.question, ()


def _told(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation without tool turns: what tools said stands in the user message before."""
    calls = {call.id: call.canonical for turn in turns for call in turn.tool_calls}
    told: list[Message] = []
    for turn in turns:
        if turn.role == "tool" and told:
            said = f"{calls.get(turn.tool_call_id or '', 'a tool')} returned: {turn.content}"
            told[-1] = Message(told[-1].role, f"{told[-1].content}\n\n{said}")
        elif not turn.tool_calls:
            told.append(turn)
    return tuple(told)


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> tuple[list[T | None], BudgetExceededError | None]:
    """Run work at once; results in order, None for what the budget refused, and the first refusal.

    Work that the budget still allows goes on after a refusal. Any other error, or a cancel, cancels the rest and waits
    for it to end.
    """
    refusals: list[BudgetExceededError] = []

    async def guarded(one: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await one
        except BudgetExceededError as refusal:
            refusals.append(refusal)
            return None

    first, *rest = work
    if not rest:
        return [await guarded(first)], refusals[0] if refusals else None
    tasks = [asyncio.create_task(guarded(one)) for one in (first, *rest)]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results, refusals[0] if refusals else None


async def draw(
    context: NodeContext, model: str, request: Request
) -> tuple[list[Completion], BudgetExceededError | None]:
    """`request.n` completions, or those that the budget allowed and its refusal of the rest."""
    try:
        return await context.generate(model, request), None
    except BudgetExceededError as refusal:
        return list(refusal.received), refusal


async def ask(context: NodeContext, model: str, request: Request) -> Completion:
    """The one completion of a request with n = 1."""
    return (await context.generate(model, request))[0]


def open_turn(opening: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """A conversation that goes on inside the assistant's turn after `text`; as it was where there is no text yet."""
    if not text:
        return opening
    if opening and opening[-1].role == "assistant":  # a prompt pack may begin the answer itself
        return (*opening[:-1], Message("assistant", opening[-1].content + text))
    return (*opening, Message("assistant", text))


def stop_reason(context: NodeContext, refusal: BudgetExceededError | None) -> str | None:
    """The value for `NodeOutput.stopped`, telling the watchers why; None where nothing was refused."""
    if refusal is None:
        return None
    context.emit("stopped", {"reason": refusal.kind, "limit": refusal.limit, "message": refusal.message})
    return refusal.kind


def candidates_of(
    context: NodeContext,
    drawn: Iterable[tuple[str, Completion]],
    *,
    parents: Sequence[str] = (),
    taken: Iterable[str] = (),
) -> list[Candidate]:
    """New candidates from (model, completion) pairs, with ids other than those `taken` (by a loop's earlier turns)."""
    ids = _fresh_ids(context.path, parents, frozenset(taken))
    return [
        Candidate(
            id=next(ids),
            text="\n".join(part for part in (completion.text, calls_text(completion.tool_calls)) if part),
            answer=calls_answer(completion.tool_calls) or extract_answer(completion.text),
            parents=tuple(parents),
            origin=Origin(node=context.path, model=model, completion=completion.id),
            finished=completion.finish_reason == "stop",
            tool_calls=completion.tool_calls,
        )
        for model, completion in drawn
    ]


def _fresh_ids(path: str, parents: Sequence[str], taken: frozenset[str]) -> Iterator[str]:
    index = 0
    while True:
        new = candidate_id(path, parents, index)
        if new not in taken:
            yield new
        index += 1


def incoming(state: NodeState, context: NodeContext) -> tuple[Candidate, ...]:
    """The state's candidates.

    Raises:
        UserError: There are none; a step before this one must make some.
    """
    if not state.candidates:
        raise UserError(
            "no candidates came in; put a step that makes some, such as `sample`, first", where=context.path
        )
    return state.candidates


def scores_of(candidates: Sequence[Candidate], name: str, context: NodeContext) -> list[float]:
    """The named score of every candidate.

    Raises:
        UnknownNameError: No candidate has this score.
        UserError: Some have it and some do not, or a value is not a number.
    """
    having = [candidate for candidate in candidates if name in candidate.scores]
    if not having:
        known = {score for candidate in candidates for score in candidate.scores}
        raise UnknownNameError("score", name, known, where=context.path)
    if len(having) < len(candidates):
        raise UserError(
            f"{len(candidates) - len(having)} of {len(candidates)} candidates have no score `{name}`; "
            "score them after the last step that adds candidates",
            where=context.path,
        )
    values = [candidate.scores[name] for candidate in candidates]
    if any(math.isnan(value) for value in values):
        raise UserError(f"a score `{name}` is not a number (nan)", where=context.path)
    return values


def lettered(candidates: Sequence[Candidate]) -> list[dict[str, object]]:
    """Candidates as a prompt pack shows them side by side: `letter`, `text` and `critiques`."""
    return [
        {"letter": letter, "text": candidate.text, "critiques": list(candidate.critiques)}
        for letter, candidate in zip(LETTERS, candidates, strict=False)
    ]


def order_by(scores: Sequence[float]) -> list[int]:
    """Positions by descending score; ties keep their order."""
    return sorted(range(len(scores)), key=lambda position: -scores[position])
