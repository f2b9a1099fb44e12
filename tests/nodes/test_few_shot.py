"""Few-shot: which examples are shown and in which order; a file is embedded once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from inferloom.core.errors import DataError
from inferloom.core.types import Json, Message, NodeOutput, NodeState
from inferloom.nodes.common import converse
from inferloom.nodes.few_shot import FewShot, FewShotParams
from inferloom.nodes.testing import FakeContext, run


def rows() -> list[dict[str, Json]]:
    asked = ["zzz", "aab", "aaab", "What is  AAAA?", "what is aaaa?", "aaz", "aab"]
    return [{"question": question, "answer": f"A: {index}"} for index, question in enumerate(asked)]


STATE = NodeState(question="What is aaaa?", messages=(Message("user", "What is aaaa?"),))


def shown(state: NodeState = STATE, *, seed: int = 0, **params: Json) -> list[str]:
    node = FewShot(FewShotParams.model_validate({"examples": "e.jsonl", **params}))
    output = run(node, state, FakeContext(files={"e.jsonl": rows()}, seed=seed))
    assert output.candidates is None and output.notes is None
    return [answer for _, answer in output.examples or ()]


def test_the_nearest_come_nearest_last_and_never_the_question_itself_or_one_twice() -> None:
    # By letters: aaab, then aab (twice in the file), then aaz, then zzz; "What is AAAA?" is the question.
    assert shown(k=3) == ["A: 5", "A: 1", "A: 2"]
    assert shown(k=64) == ["A: 0", "A: 5", "A: 1", "A: 2"]


def test_examples_stand_between_what_is_there_and_the_question() -> None:
    state = replace(STATE, examples=(("AAAB", "A: own"),))
    node = FewShot(FewShotParams(examples="e.jsonl", k=2))
    context = FakeContext(files={"e.jsonl": rows()})
    output = run(node, state, context)
    assert output.examples == (("AAAB", "A: own"), ("aaz", "A: 5"), ("aab", "A: 1"))
    turns = converse(replace(state, examples=output.examples), context, "solve")
    assert [turn.content for turn in turns[-3:]] == ["aab", "A: 1", "What is aaaa?"]
    again = run(node, replace(state, examples=output.examples), context)
    assert again.examples is not None and len(set(again.examples)) == len(again.examples)


def test_other_methods_need_no_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: FakeContext, texts: Sequence[str]) -> list[tuple[float, ...]]:
        raise AssertionError("embedded")

    monkeypatch.setattr(FakeContext, "embed", refuse)
    assert shown(k=3, method="first") == ["A: 0", "A: 1", "A: 2"]
    drawn = {tuple(shown(k=2, method="random", seed=seed)) for seed in range(20)}
    assert len(drawn) > 5 and all(len(set(each)) == 2 for each in drawn)
    assert shown(k=2, method="random", seed=3) == shown(k=2, method="random", seed=3)


def test_k_0_switches_it_off() -> None:
    node = FewShot(FewShotParams(examples="there is no such file", k=0))
    assert run(node, STATE, FakeContext()) == NodeOutput()
    assert node.provides == frozenset()
    assert FewShot(FewShotParams(examples="e.jsonl", k=1)).provides == {"examples"}


def test_the_files_fields_can_have_other_names() -> None:
    files: dict[str, list[dict[str, Json]]] = {"e.csv": [{"q": "aab", "worked": 7}]}
    node = FewShot(FewShotParams(examples="e.csv", question="q", answer="worked"))
    assert run(node, STATE, FakeContext(files=files)).examples == (("aab", "7"),)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "e.jsonl: "),
        ({"e.jsonl": []}, "e.jsonl: the file has no rows"),
        ({"e.jsonl": [{"question": "a", "answer": "b"}, {"questoin": "c"}]}, "row 2: .*did you mean `questoin`"),
        ({"e.jsonl": [{"question": "a"}]}, "row 1: the field `answer` is missing; the row has `question`"),
        ({"e.jsonl": [{"question": ["a"], "answer": "b"}]}, "row 1: the field `question` must be text or a number"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(files: dict[str, list[dict[str, Json]]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        run(FewShot(FewShotParams(examples="e.jsonl", k=1)), STATE, FakeContext(files=files))


@dataclass
class Counting(FakeContext):
    """Remembers what was embedded; another run gets its turn meanwhile."""

    embedded: list[str] = field(default_factory=list)

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        self.embedded += texts
        await asyncio.sleep(0)
        return await super().embed(texts)


def test_a_file_is_embedded_once_for_all_runs_until_it_is_read_anew() -> None:
    node, read = FewShot(FewShotParams(examples="once.jsonl", k=1)), rows()
    contexts = [Counting(files={"once.jsonl": read}) for _ in range(5)]

    async def at_once() -> None:
        await asyncio.gather(*(node.run(STATE, context) for context in contexts))

    asyncio.run(at_once())
    counts = sorted(len(context.embedded) for context in contexts)
    assert counts == [1, 1, 1, 1, 1 + len(read)]
    later = Counting(files={"once.jsonl": rows()})
    run(node, STATE, later)
    assert len(later.embedded) == 1 + len(read)


def test_a_run_that_is_cancelled_while_embedding_leaves_the_file_to_the_next() -> None:
    node, read = FewShot(FewShotParams(examples="cut.jsonl", k=1)), rows()

    async def cut() -> NodeOutput:
        first = asyncio.create_task(node.run(STATE, Counting(files={"cut.jsonl": read})))
        second = asyncio.create_task(node.run(STATE, Counting(files={"cut.jsonl": read})))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(20):
            return await second

    assert asyncio.run(cut()).examples == (("aaab", "A: 2"),)
