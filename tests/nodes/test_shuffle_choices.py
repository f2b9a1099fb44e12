"""Shuffled choices: other orders are asked, answers come back as letters of the question as it stands."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from inferloom.core.answers import extract_answer
from inferloom.core.types import Candidate, Completion, Message, NodeState, Request
from inferloom.nodes.choices import parse_choices, picked
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.shuffle_choices import ShuffleChoices, ShuffleChoicesParams
from inferloom.nodes.testing import FakeContext, NodeCase, NodeContract, make_state, run
from inferloom.nodes.vote import Vote, VoteParams

QUESTION = "Which city is the capital of France?\nA) Rome\nB) Berlin\nC) Paris\nD) Madrid\n\nGive the letter."
STATE = NodeState(question=QUESTION, messages=(Message("user", "Hello."), Message("user", QUESTION)))


def options_of(request: Request) -> dict[str, str]:
    return dict(re.findall(r"^([A-D])\) (.*)$", request.messages[-1].content, re.MULTILINE))


def knows(form: str = "A: {}") -> Callable[[str, Request, int], str]:
    """A model that knows the capital and says it by letter."""

    def reply(model: str, request: Request, index: int) -> str:
        letter = next(letter for letter, city in options_of(request).items() if city == "Paris")
        return "It is Paris.\n" + form.format(letter)

    return reply


def shuffled(
    reply: Callable[[str, Request, int], str | Completion], *, n: int = 8, seed: int = 0, state: NodeState = STATE
) -> tuple[tuple[Candidate, ...], FakeContext]:
    context = FakeContext(reply=reply, seed=seed)
    output = run(ShuffleChoices(ShuffleChoicesParams(model="small", n=n)), state, context)
    assert output.candidates is not None
    return output.candidates, context


@pytest.mark.parametrize("form", ["A: {}", "A: ({})", "A: {}) Paris", "The answer is {}.", r"\boxed{{\text{{{}}}}}"])
def test_an_answer_is_mapped_back_in_answer_and_text(form: str) -> None:
    candidates, context = shuffled(knows(form))
    orders = [tuple(options_of(request).values()) for _, request in context.requests]
    assert len(set(orders)) == len(orders) == 8
    assert all(set(order) == {"Rome", "Berlin", "Paris", "Madrid"} for order in orders)
    assert len({order.index("Paris") for order in orders}) > 1
    for candidate in candidates:
        assert candidate.answer == "C"
        assert candidate.text.startswith("It is Paris.\n")
        said = extract_answer(candidate.text)
        assert said is not None and picked(said, ["Rome", "Berlin", "Paris", "Madrid"]) == 2


def test_under_the_questions_own_order_the_text_stays_as_it_is() -> None:
    candidates, context = shuffled(knows(), n=24)
    own = ["Rome", "Berlin", "Paris", "Madrid"]
    [place] = [i for i, (_, request) in enumerate(context.requests) if list(options_of(request).values()) == own]
    assert candidates[place].text == "It is Paris.\nA: C"
    assert sum("another order" in candidate.text for candidate in candidates) == 23


def test_the_rest_of_the_question_and_of_the_conversation_stays() -> None:
    _, context = shuffled(knows(), n=3)
    for _, request in context.requests:
        assert [message.content for message in request.messages[1:-1]] == ["Hello."]
        asked = request.messages[-1].content
        assert asked.startswith("Which city is the capital of France?\nA) ")
        assert asked.endswith("\n\nGive the letter.") and len(asked) == len(QUESTION)


def test_the_answer_may_be_the_options_text() -> None:
    candidates, _ = shuffled(lambda model, request, index: "A: paris")
    assert {candidate.answer for candidate in candidates} == {"C"}


def test_a_lean_to_a_place_is_outvoted_by_what_is_known() -> None:
    def leaning(model: str, request: Request, index: int) -> str:
        # Takes the first option, unless the right one stands in one of the first three places.
        right = next(letter for letter, city in options_of(request).items() if city == "Paris")
        return f"A: {right if right < 'D' else 'A'}"

    candidates, context = shuffled(leaning, n=24)
    assert len(Counter(candidate.answer for candidate in candidates)) > 1
    voted = run(Vote(VoteParams()), replace(STATE, candidates=candidates), context)
    assert voted.candidates is not None and voted.candidates[0].answer == "C"


def test_an_answer_that_names_no_option_has_no_vote() -> None:
    candidates, context = shuffled(lambda model, request, index: "A: Lisbon", n=2)
    assert [candidate.answer for candidate in candidates] == [None, None]
    assert [event for event, _ in context.events] == ["parse_failed", "parse_failed"]


def test_what_came_in_stays_in_front() -> None:
    state = replace(STATE, candidates=make_state(["one"]).candidates)
    candidates, _ = shuffled(knows(), n=2, state=state)
    assert [candidate.text for candidate in candidates[:1]] == ["one"] and len(candidates) == 3


def test_with_more_answers_than_orders_each_order_is_asked_as_often() -> None:
    state = NodeState(question="A) x\nB) y", messages=(Message("user", "A) x\nB) y"),))
    candidates, context = shuffled(lambda model, request, index: "A: x", n=6, state=state)
    assert sorted(request.n for _, request in context.requests) == [3, 3]
    assert [candidate.answer for candidate in candidates] == ["A"] * 6


def test_the_seed_decides_the_orders() -> None:
    def asked(seed: int) -> list[str]:
        return [request.messages[-1].content for _, request in shuffled(knows(), seed=seed)[1].requests]

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


@pytest.mark.parametrize("question", ["What is 2 + 3?", "A) only one", "A) x\nB) y\nC) both A and B"])
def test_a_question_without_options_is_answered_as_it_stands(question: str) -> None:
    state = NodeState(question=question, messages=(Message("user", question),))
    candidates, context = shuffled(lambda model, request, index: "A: 5", n=3, state=state)
    [(_, request)] = context.requests
    assert request.messages[-1].content == question and request.n == 3
    assert [candidate.answer for candidate in candidates] == ["5"] * 3
    assert context.events == [("no_options", {"question": question})]


def test_the_pocket_models_are_asked_in_their_own_words() -> None:
    context = FakeContext(reply=knows(), prompts=load_pack("pocket"))
    run(ShuffleChoices(ShuffleChoicesParams(model="small", n=2)), STATE, context)
    assert all([turn.role for turn in request.messages] == ["user", "user"] for _, request in context.requests)


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (QUESTION, ["Rome", "Berlin", "Paris", "Madrid"]),
        ("Which?\n(A) one\n(B) two", ["one", "two"]),
        ("Which?\nA. one \nB. two\nSay the letter.", ["one", "two"]),
        ("Which? A) 3, B) 4, C) five and six", ["3", "4", "five and six"]),
        ("Which? (A) 3; (B) 4\nThink first.", ["3", "4"]),
        ("A) one\n   more\nB) two\n   more\n\nSay the letter.", ["one\n   more", "two\n   more"]),
        ("As in: A) x B) y. Now: A) p B) q", ["p", "q"]),
        ("Vitamin A. is not an option", None),
        ("A) one\nC) three", None),
        ("A) one\nB) all of the above", None),
        ("A) x\nB) y\nC) neither A nor B", None),
        ("", None),
    ],
)
def test_options_are_found_in_the_ways_in_which_they_are_written(question: str, options: list[str] | None) -> None:
    choices = parse_choices(question)
    assert (None if choices is None else list(choices.options)) == options
    if choices is not None:
        assert choices.in_order(range(len(choices.options))) == question


def test_an_option_about_the_others_keeps_its_place() -> None:
    choices = parse_choices("A) x\nB) y\nC) None of the above\nD) z")
    assert choices is not None
    orders = choices.orders(6, Random(0))
    assert len(set(orders)) == 6 and {order[2] for order in orders} == {2}


@pytest.mark.parametrize(
    ("answer", "index"),
    [("b", 1), ("(B)", 1), ("B. two", 1), ("Option B", 1), ("**B**", 1), ("TWO", 1), ("C", None), ("Bananas", None)],
)
def test_an_answer_names_an_option_by_letter_or_text(answer: str, index: int | None) -> None:
    assert picked(answer, ["one", "two"]) == index


@pytest.mark.parametrize("case", [NodeCase("shuffle_choices", {"model": "small", "n": 5})], ids=str)
class TestOnAQuestionWithOptions(NodeContract):
    def state(self, texts: Sequence[str]) -> NodeState:
        plain = make_state(texts, self.score_names)
        return replace(plain, question=QUESTION, messages=(*plain.messages[:-1], Message("user", QUESTION)))
