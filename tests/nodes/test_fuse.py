"""Fuse: what it shows, what it makes, what it keeps."""

from inferloom.nodes.fuse import Fuse, FuseParams
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.testing import FakeContext, make_state, run


def fuse(**params: object) -> Fuse:
    return Fuse(FuseParams.model_validate({"model": "large", **params}))


def test_writes_n_new_candidates_from_those_that_came_in() -> None:
    state = make_state(["one", "two"])
    context = FakeContext(reply=lambda model, request, index: f"both\nA: {index}")
    output = run(fuse(n=2), state, context)
    assert output.candidates is not None and len(context.requests) == 1
    assert [candidate.answer for candidate in output.candidates] == ["0", "1"]
    for candidate in output.candidates:
        assert candidate.parents == tuple(parent.id for parent in state.candidates)
        assert candidate.scores == {} and candidate.critiques == ()


def test_keep_puts_the_old_ones_after_the_new() -> None:
    state = make_state(["one", "two"])
    output = run(fuse(keep=True), state, FakeContext(reply=lambda model, request, index: "new"))
    assert output.candidates is not None
    assert [candidate.text for candidate in output.candidates] == ["new", "one", "two"]
    assert fuse().provides == {"candidates", "one"} and fuse(keep=True).provides == {"candidates"}
    assert {"scores", "critiques"} <= fuse(keep=True).drops


def test_shows_the_first_candidates_with_their_critiques() -> None:
    context = FakeContext()
    run(fuse(), make_state(["one", "two"]), context)
    shown = context.requests[0][1].messages[-1].content
    assert shown.index("one") < shown.index("critique 0") < shown.index("two") < shown.index("critique 1")


def test_shows_no_more_than_the_pack_does() -> None:
    context = FakeContext(prompts=load_pack("pocket"))
    state = make_state([f"text{index}" for index in range(6)])
    output = run(fuse(), state, context)
    shown = context.requests[0][1].messages[-1].content
    assert "D)\ntext3\ncombine" in shown and "text4" not in shown and "critique" not in shown
    assert output.candidates is not None
    assert output.candidates[0].parents == tuple(candidate.id for candidate in state.candidates[:4])


def test_the_budget_lets_through_what_fits() -> None:
    output = run(fuse(n=4), make_state(["one", "two"]), FakeContext(limit=2))
    assert output.candidates is not None and len(output.candidates) == 2 and output.stopped == "budget"
