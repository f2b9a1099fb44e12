"""The training script: documents as tokens, who sees whom, what is marked, and growing a model without changing it."""

from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inferloom.models.pocket.jobs import Curriculum, Document, Mark, Turn  # noqa: E402
from inferloom.models.pocket.tokenizer import build_tokenizer  # noqa: E402
from inferloom.models.pocket.train import SHAPES, Encoder, Size, batches, doubt_loss, grow, new_model  # noqa: E402

TOKENIZER = build_tokenizer()
ENCODER = Encoder(TOKENIZER)


def branching() -> Document:
    """A document of the curriculum with at least two branches and a mistake."""
    curriculum = Curriculum(Random(1), solve=0.0)
    while True:
        document = curriculum.document()
        if len(document.branches) > 1 and any(not mark.right for mark in document.marks):
            return document


def test_a_branch_sees_the_trunk_up_to_its_cut_and_no_other_branch() -> None:
    document = branching()
    encoded = ENCODER(document)
    before, _ = ENCODER.turns(document.trunk[:-1])
    start = len(before) + 1
    begin = len(ENCODER.turns(document.trunk)[0])
    for branch in document.branches:
        cut = start + len(ENCODER.text(document.trunk[-1].content[: branch.cut]))
        length = 1 + len(ENCODER.turns(branch.turns)[0])
        for row in (begin, begin + length - 1):
            seen = np.flatnonzero(encoded.sees[row])
            assert list(seen) == [*range(cut), *range(begin, row + 1)]
        assert list(encoded.positions[begin : begin + length]) == list(range(cut, cut + length))
        begin += length
    assert begin == len(encoded.ids)


def test_marks_stand_at_the_tokens_of_their_characters() -> None:
    turns = (Turn("user", "18+42=?"), Turn("assistant", "18+42=61\nA: 61", 0.0))
    marks = (Mark(1, 0, True), Mark(1, 7, False))
    encoded = ENCODER(Document(turns, marks=marks))
    assert [int(encoded.marks[i]) for i in np.flatnonzero(encoded.marks >= 0)] == [0, 1]
    assert TOKENIZER.decode(encoded.ids[np.flatnonzero(encoded.marks == 1)[0] - 1]) == "6"


def test_batches_are_full_rows_of_every_shape() -> None:
    for parts in (next(batches(Curriculum(Random(2)), ENCODER, 0)),):
        assert [tuple(part.ids.shape) for part in parts] == [(rows, length) for length, rows in SHAPES]
        for part in parts:
            assert float((part.ids != 0).float().mean()) > 0.7
            assert bool((part.sees.diagonal(dim1=2, dim2=3)).all()), "a row that sees nothing has no softmax"
            assert float(part.weights.sum()) > 0


@pytest.mark.parametrize("layers", [3, 4, 6, 8])
def test_a_grown_model_says_what_its_source_says(layers: int) -> None:
    torch.manual_seed(0)
    source = new_model(Size(hidden=64, layers=3, steps=1, rate=0.1), TOKENIZER).eval()
    grown = new_model(Size(hidden=64, layers=layers, steps=1, rate=0.1), TOKENIZER).eval()
    grow(grown, source)
    ids = torch.tensor([ENCODER.text("18+42=60")])
    with torch.no_grad():
        assert torch.allclose(grown(input_ids=ids).logits, source(input_ids=ids).logits, atol=1e-5)


def test_doubts_count_only_where_something_is_known() -> None:
    marks = torch.tensor([[0, 1, -1]])
    knowing = doubt_loss(torch.tensor([[-9.0, 9.0, 9.0]]), marks)
    assert float(knowing) < 0.01 < float(doubt_loss(torch.tensor([[9.0, 9.0, 9.0]]), marks))
    assert float(doubt_loss(torch.tensor([[1.0]]), torch.tensor([[-1]]))) == 0.0
