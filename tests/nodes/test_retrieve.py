"""Retrieve: the nearest documents become notes, nearest first."""

import pytest

from inferloom.core.errors import DataError
from inferloom.core.types import Json, Message, NodeOutput, NodeState
from inferloom.nodes.retrieve import Retrieve, RetrieveParams
from inferloom.nodes.testing import FakeContext, run

STATE = NodeState(
    question="aaaa",
    messages=(Message("user", "aaaa"), Message("assistant", "zzz"), Message("user", "aaaa")),
    notes=("aaab",),
)
FILES: dict[str, list[dict[str, Json]]] = {
    "d.jsonl": [{"text": text} for text in ("zzz", "aab", "aaab", "aaz", "aab", "aabb")]
}


def noted(**params: Json) -> tuple[str, ...] | None:
    node = Retrieve(RetrieveParams.model_validate({"documents": "d.jsonl", **params}))
    return run(node, STATE, FakeContext(files=FILES)).notes


def test_the_nearest_follow_the_notes_that_are_there_each_once() -> None:
    assert noted(k=3) == ("aaab", "aab", "aaz", "aabb")
    assert noted(k=1) == ("aaab", "aab")
    assert noted(k=99) == ("aaab", "aab", "aaz", "aabb", "zzz")


def test_documents_that_are_too_far_are_left_out() -> None:
    # The cosine of a word with another is that of its letters' counts: aab 2/sqrt(5), aabb 1/sqrt(2).
    assert noted(k=9, least=0.8) == ("aaab", "aab", "aaz")
    assert noted(k=9, least=1.0) == ("aaab",)


def test_k_0_switches_it_off() -> None:
    node = Retrieve(RetrieveParams(documents="there is no such file", k=0))
    assert run(node, STATE, FakeContext()) == NodeOutput()
    assert node.provides == frozenset()


def test_a_mistake_in_the_file_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"d.jsonl: row 1: the field `body` is missing; the row has `text`"):
        noted(text="body")
    with pytest.raises(DataError, match=r"the file has no rows"):
        run(Retrieve(RetrieveParams(documents="d.csv")), STATE, FakeContext(files={"d.csv": []}))
