"""What an answer teaches: by code from the verdict alone, by a model's proposals, or by a whole new sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferloom.core.code import code_of
from inferloom.core.memory import Add, Entry, EntryKind, Memory, Operation, Rewrite
from inferloom.core.protocols import NodeContext
from inferloom.core.types import Candidate, NodeState, Request
from inferloom.nodes.common import ask, converse
from inferloom.nodes.curating import CURATE, MOST_CHANGES, REWRITE, Proposals, between, read_changes

_WORDS_PER_TOKEN = 0.6
_TOLD = {True: "The answer was checked and is right.", False: "The answer was checked and is wrong.", None: ""}
_CUT = Proposals([], ["the reply was cut"])


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer from which a memory is to learn."""

    question: str
    candidate: Candidate
    succeeded: bool | None
    """Whether the answer is right; None where nothing says so."""
    memory: Memory
    read: Sequence[str]
    """The ids of the memory's entries that the run read."""
    state: NodeState
    context: NodeContext


async def by_code(lesson: Lesson, keep: Sequence[EntryKind]) -> Proposals:
    """A success as a solved example, and its code as a snippet; a failure as a mistake to avoid."""
    candidate = lesson.candidate
    if candidate.answer is None or not candidate.finished:
        return Proposals([], [])
    if lesson.succeeded is False:
        wrong = Add("mistake", lesson.question, f"The answer {candidate.answer} was found wrong.")
        return Proposals([wrong] if "mistake" in keep else [], [])
    made: list[Operation] = []
    if "example" in keep:
        made.append(Add("example", lesson.question, candidate.text))
    program = code_of(candidate.text, cut=True)
    if program is not None and "snippet" in keep:
        made.append(Add("snippet", lesson.question, program))
    return await _that_run(Proposals(made, []), lesson.context)


async def by_model(
    lesson: Lesson, model: str, keep: Sequence[EntryKind], k: int, max_tokens: int, *, marks: bool
) -> Proposals:
    """Typed operations that a model proposes, who sees up to `k` entries: those that were read, then the nearest.

    `marks` says whether it may mark entries; where there is feedback, that does it.
    """
    everything = {entry.id: entry for entry in await lesson.memory.entries() if entry.kind != "sheet"}
    near = [entry.id for entry in await lesson.memory.nearest(lesson.question, k, keep)]
    ids = [id for id in dict.fromkeys([*lesson.read, *near]) if id in everything][:k]
    shown: list[Entry] = [everything[id] for id in ids]
    entries = [{"kind": entry.kind, "key": entry.key, "text": entry.text} for entry in shown]
    tag = _tag(lesson)
    values = {"entries": entries, "kinds": list(keep), "marks": marks, "changes": MOST_CHANGES}
    reply = await _reply(lesson, model, CURATE, tag, values, max_tokens)
    if reply is None:
        return _CUT
    return await _that_run(read_changes(reply, tag, shown, keep, marks), lesson.context)


async def rewritten(lesson: Lesson, model: str, limit: int | None, max_tokens: int) -> Proposals:
    """The whole sheet as a model writes it anew."""
    version = await lesson.memory.version()
    sheet = "\n\n".join(entry.text for entry in await lesson.memory.entries(("sheet",)))
    tag = _tag(lesson)
    values = {"sheet": sheet, "limit": int((limit or max_tokens) * _WORDS_PER_TOKEN)}
    reply = await _reply(lesson, model, REWRITE, tag, values, max_tokens)
    if reply is None:
        return _CUT
    text = between(reply, f"new-sheet-{tag}")
    return (
        Proposals([], ["the reply has not one whole sheet"])
        if text is None
        else Proposals([Rewrite(text, version)], [])
    )


def _tag(lesson: Lesson) -> str:
    """A word for this call alone."""
    return f"{lesson.context.rng.getrandbits(40):010x}"


async def _reply(
    lesson: Lesson, model: str, role: str, tag: str, values: Mapping[str, object], max_tokens: int
) -> str | None:
    """What a model replies; None where it was cut."""
    told = {"candidate": lesson.candidate.text, "verdict": _TOLD[lesson.succeeded], "tag": tag, **values}
    # What the solver was shown is not the curator's; the entries stand in its prompt where they matter.
    bare = NodeState(question=lesson.state.question, messages=lesson.state.messages)
    request = Request(messages=converse(bare, lesson.context, role, told), temperature=0.0, max_tokens=max_tokens)
    reply = await ask(lesson.context, model, request)
    return None if reply.finish_reason == "length" else reply.text


async def _that_run(proposals: Proposals, context: NodeContext) -> Proposals:
    """Proposals without new snippets that the sandbox does not run to their end."""
    kept, reasons = [], list(proposals.refused)
    for operation in proposals.operations:
        if isinstance(operation, Add) and operation.kind == "snippet":
            ran = await context.sandbox.run(code_of(operation.text) or operation.text)
            if ran.outcome != "ok":
                reasons.append(f"a snippet does not run: {ran.error or ran.outcome}")
                continue
        kept.append(operation)
    return Proposals(kept, reasons)
