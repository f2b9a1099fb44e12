"""Nudging: whose words are taken, word by word and token by token, what each model is asked, and how it ends."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from inferloom.core.errors import BudgetExceededError, CapabilityError
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Candidate, Completion, FinishReason, Json, Message, NodeOutput, NodeState, Request
from inferloom.core.types import TokenLogprob as Token
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.nodes.nudging import Nudging, NudgingParams
from inferloom.nodes.relay import pieces, tokens_in, without_repeated_suffix
from inferloom.nodes.testing import HOSTILE, FakeContext, NodeCase, NodeContract, run
from inferloom.pipelines.rules import check_capabilities
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

QUESTION = NodeState(question="2+2?", messages=(Message("user", "2+2?"),))
Replies = Callable[[str, Request, int], Completion]
SURE, UNSURE = 0.9, 0.1


def completion(tokens: list[tuple[str, float]], reason: FinishReason) -> Completion:
    text = "".join(token for token, _ in tokens)
    logprobs = tuple(Token(token, math.log(chance)) for token, chance in tokens)
    return Completion(text=text, finish_reason=reason, logprobs=logprobs, completion_tokens=len(tokens), id=f"<{text}>")


def nudge(text: str, reason: FinishReason = "length") -> tuple[str, Completion]:
    """The nudger's turn: each word is two tokens."""
    halves = [half for word in text.split(" ") for half in (" " + word[:1], word[1:])]
    halves[0] = halves[0][1:]
    return "n", completion([(half, 0.5) for half in halves if half] if text else [], reason)


def base(*tokens: tuple[str, float] | str, reason: FinishReason = "length") -> tuple[str, Completion]:
    """The base model's turn: tokens with their probabilities, sure ones without."""
    return "b", completion([(token, SURE) if isinstance(token, str) else token for token in tokens], reason)


END = nudge("", "stop")
HESITANT = base(("?", UNSURE))


def script(*turns: tuple[str, Completion]) -> Replies:
    """Replies in turn; the model that is asked must be the one whose turn it is, and all must be asked."""
    left = list(turns)

    def reply(model: str, request: Request, index: int) -> Completion:
        whose, made = left.pop(0)
        assert model == whose, f"`{model}` was asked for {made.text!r}"
        return made

    return reply


def write(
    *turns: tuple[str, Completion], limit: int | None = None, state: NodeState = QUESTION, **params: Json
) -> tuple[NodeOutput, FakeContext]:
    """The output, and the context that was asked; every turn must have been taken, as far as the budget went."""
    context = FakeContext(reply=script(*turns), limit=limit)
    node = Nudging(NudgingParams.model_validate({"nudger": "n", "model": "b", **params}))
    output = run(node, state, context)
    assert context.calls == (len(turns) if limit is None else min(limit, len(turns)))
    assert 1 <= context.calls <= node.calls(0)[1]
    return output, context


def written(*turns: tuple[str, Completion], **params: Json) -> Candidate:
    """The one candidate."""
    [candidate] = write(*turns, **params)[0].candidates or ()
    return candidate


def gone_on(context: FakeContext) -> list[tuple[str, str, int]]:
    """(model, output gone on from, tokens) of every request."""
    sent = []
    for model, request in context.requests:
        if request.prefix is None:
            text = request.messages[-1].content if request.continues else ""
        else:
            text = request.prefix.partition("\nAnswer:\n")[2]
        sent.append((model, text, request.max_tokens))
    return sent


class TestNudge:
    def test_the_first_word_is_taken_and_the_base_model_asked_after_each(self) -> None:
        output, context = write(nudge("To add them up"), HESITANT, HESITANT, base(" two", (" x", UNSURE)), END)
        assert (output.candidates or ())[0].text == "To add them two"
        assert gone_on(context) == [
            ("n", "", 16),
            ("b", "To", 16),
            ("b", "To add", 16),
            ("b", "To add them", 16),
            ("n", "To add them two", 16),
        ]
        for model, request in context.requests:
            assert (request.prefix is None) == (model == "n")
            assert request.logprobs == (0 if model == "n" else 1)
            assert (request.temperature, request.n, request.stop) == (0, 1, ())

    def test_words_beyond_as_many_as_there_may_be_tokens_are_not_put_to_the_base_model(self) -> None:
        assert written(nudge("a b c d e"), HESITANT, END, chunk=2).text == "a b c d e"

    def test_where_the_base_model_never_takes_over_the_whole_nudge_is_taken(self) -> None:
        _, context = write(nudge("a b\nc  "), HESITANT, HESITANT, nudge("d", "stop"))
        assert gone_on(context)[-1] == ("n", "a b\nc  ", 16)

    def test_a_single_word_is_taken_without_asking(self) -> None:
        assert written(nudge("word"), nudge("s.", "stop")).text == "words."

    @pytest.mark.parametrize(
        ("first", "takes_over"),
        [
            ((" ad", UNSURE), True),  # begins the next word
            ((" add", UNSURE), True),
            ((" adds", UNSURE), False),
            (("ad", UNSURE), False),  # would go on inside the word before
            ((" ", UNSURE), False),  # begins any word
            ((" x", 0.31), True),
            ((" x", 0.29), False),
        ],
    )
    def test_it_takes_over_where_it_is_sure_or_would_say_the_next_word(
        self, first: tuple[str, float], takes_over: bool
    ) -> None:
        turns = [nudge("To add"), base(first, (" y", UNSURE)), END]
        assert written(*turns).text == ("To" + first[0] if takes_over else "To add")

    def test_a_line_break_that_both_want_is_an_agreement(self) -> None:
        turns = [
            ("n", completion([("To", 0.5), ("\n\n", 0.5), ("add", 0.5)], "length")),
            base(("\n\n", UNSURE), ("x", UNSURE)),
            END,
        ]
        assert written(*turns).text == "To\n\n"

    @pytest.mark.parametrize(("threshold", "text"), [(0.4, "a x"), (0.6, "a b")])
    def test_the_threshold_says_what_sure_is(self, threshold: float, text: str) -> None:
        assert written(nudge("a b"), base((" x", 0.5), (" y", UNSURE)), END, threshold=threshold).text == text

    def test_the_base_models_end_of_text_within_a_nudge_is_no_taking_over(self) -> None:
        assert written(nudge("a b c"), base(reason="stop"), base(reason="stop"), nudge(" d", "stop")).text == "a b c d"


class TestBase:
    def test_tokens_are_taken_up_to_the_first_unsure_one(self) -> None:
        turns = [nudge("a b"), base(" x", " y", (" z", 0.29), " w"), nudge(" c", "stop")]
        assert written(*turns).text == "a x y c"

    def test_what_both_agree_on_is_taken_though_it_is_unsure_and_the_rest_is_weighed(self) -> None:
        assert written(nudge("a bcd"), base((" b", UNSURE), "cd", (" z", UNSURE)), END).text == "a bcd"

    def test_further_chunks_are_asked_for_while_it_is_sure(self) -> None:
        turns = [nudge("a b"), base(" 1", " 2"), base(" 3"), base((" 4", UNSURE)), nudge(" c", "stop")]
        output, context = write(*turns)
        assert (output.candidates or ())[0].text == "a 1 2 3 c"
        assert [(model, text) for model, text, _ in gone_on(context)][1:4] == [
            ("b", "a"),
            ("b", "a 1 2"),
            ("b", "a 1 2 3"),
        ]

    def test_an_agreement_is_only_at_the_beginning(self) -> None:
        # The first token of a further chunk is weighed like all others.
        assert written(nudge("a b"), base(" 1"), base((" 2", UNSURE)), nudge(" c", "stop")).text == "a 1 c"

    def test_tokens_that_are_shown_without_their_space_are_found_in_the_text(self) -> None:
        logprobs = (Token("to", math.log(SURE)), Token("day", math.log(SURE)), Token("x", math.log(UNSURE)))
        reply = Completion(text=" todayx", finish_reason="length", logprobs=logprobs)
        assert written(nudge("a b"), ("b", reply), END).text == "a today"

    def test_half_a_character_is_not_taken(self) -> None:
        logprobs = (Token(" x", math.log(SURE)), Token("\ufffd", math.log(SURE)), Token("\ufffd", math.log(UNSURE)))
        reply = Completion(text=" xé", finish_reason="length", logprobs=logprobs)
        assert written(nudge("a b"), ("b", reply), END).text == "a x"


class TestPieces:
    def reading(self, text: str, *tokens: str) -> list[str]:
        read = pieces(Completion(text=text, finish_reason="length", logprobs=tuple(Token(one, -1.0) for one in tokens)))
        assert "".join(piece for piece, _ in read) == text
        return [piece for piece, _ in read]

    def test_are_the_tokens(self) -> None:
        assert self.reading("a b", "a", " b") == ["a", " b"]

    def test_keep_what_a_token_is_shown_without(self) -> None:
        assert self.reading(" The cat", "The", "cat") == [" The", " cat"]
        assert self.reading("é b", "\ufffd", "\ufffd", " b") == ["", "", "é b"]

    def test_never_say_what_the_text_does_not(self) -> None:
        assert self.reading("ab", "x", "ab", "y") == ["", "ab", ""]
        assert self.reading("ab", "x") == ["ab"]
        assert self.reading("0123456789x", "x", "0123456789x") == ["", "0123456789x"]  # too far ahead
        assert self.reading("ab", "") == ["ab"]

    def test_a_text_without_probabilities_is_unsure(self) -> None:
        assert pieces(Completion(text="ab", finish_reason="length")) == [("ab", 0.0)]
        assert pieces(Completion(text="", finish_reason="stop")) == []

    def test_tokens_of_a_beginning_are_rounded_up(self) -> None:
        found = [("ab", 1.0), ("c", 1.0), ("def", 1.0)]
        assert [tokens_in(found, length) for length in range(1, 7)] == [1, 1, 2, 3, 3, 3]


class TestEnd:
    @pytest.mark.parametrize("last", ["A: 4", ""])
    def test_the_nudgers_end_of_text_is_the_end(self, last: str) -> None:
        candidate = written(nudge("So\n"), nudge(last, "stop"))
        assert (candidate.text, candidate.finished) == ("So\n" + last, True)
        assert candidate.answer == ("4" if last else "So")

    def test_an_empty_answer_is_finished(self) -> None:
        candidate = written(END)
        assert (candidate.text, candidate.finished) == ("", True)

    def test_the_base_models_end_of_text_hands_over_to_the_nudger(self) -> None:
        output, context = write(nudge("a b"), base(" 1", reason="stop"), nudge(" c", "stop"))
        [candidate] = output.candidates or ()
        assert (candidate.text, candidate.finished) == ("a 1 c", True)
        assert gone_on(context)[-1] == ("n", "a 1", 16)

    def test_where_neither_adds_anything_it_ends(self) -> None:
        turns = [nudge("a b"), base(" 1", reason="stop"), nudge(""), base(reason="stop")]
        candidate = written(*turns)
        assert (candidate.text, candidate.finished) == ("a 1", True)
        # An unsure base model has not said that it is the end.
        candidate = written(nudge("a"), nudge("  "), HESITANT)
        assert (candidate.text, candidate.finished) == ("a", False)
        assert written(nudge(""), HESITANT).text == ""
        for last in (base((" x", UNSURE), reason="stop"), base()):
            assert not written(nudge("a"), nudge(""), last).finished

    def test_a_nudger_without_words_leaves_the_text_to_a_sure_base_model(self) -> None:
        assert written(nudge(""), base("x", (" y", UNSURE)), nudge(" z", "stop")).text == "x z"

    def test_max_rounds_cuts_it(self) -> None:
        candidate = written(nudge("a"), nudge("b"), nudge("c"), max_rounds=3)
        assert (candidate.text, candidate.finished) == ("abc", False)

    @pytest.mark.parametrize("who", ["nudger", "base"])
    def test_another_reason_to_end_is_a_cut(self, who: str) -> None:
        turns = [nudge("a", "other")] if who == "nudger" else [nudge("a b"), base(" 1", reason="other")]
        candidate = written(*turns)
        assert (candidate.text, candidate.finished) == ("a" if who == "nudger" else "a 1", False)

    def test_a_chunk_of_more_than_five_words_said_before_ends_it(self) -> None:
        said = [" one", " two", " three", " four", " five", " six"]
        turns = [nudge("a b"), base(*said), base(*said)]
        candidate = written(*turns)
        assert (candidate.text, candidate.finished) == ("a one two three four five six", False)

    def test_five_words_may_be_said_again_and_six_others_too(self) -> None:
        five = [" one", " two", " three", " four", " five"]
        other = [" one", " two", " three", " four", " five", " or"]
        turns = [nudge("a b"), base(*five), base(*five), base(*other, (".", UNSURE)), END]
        assert written(*turns).text == "a" + 2 * "".join(five) + "".join(other)

    def test_unsure_words_are_no_repetition(self) -> None:
        said = [" one", " two", " three", " four", " five", " six"]
        turns = [nudge("a b"), base(*said, (".", UNSURE)), nudge(" b c"), base(*said[:3], (" four", UNSURE)), END]
        assert written(*turns).text == "a one two three four five six b one two three"

    def test_a_repeated_end_is_trimmed(self) -> None:
        line = "This line says the same again.\n"
        candidate = written(nudge("So\n" + line.rstrip("\n") + "\n" + line + line + "", "stop"))
        assert candidate.text == "So\n" + line
        assert candidate.finished

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("", ""),
            ("short short short", "short short short"),
            ("x" * 100, "x" * 40),
            ("x" * 59, "x" * 59),
            ("head " + "0123456789" * 6, "head " + "0123456789" * 3),
            ("0123456789" * 6 + " tail", "0123456789" * 6 + " tail"),
            ("ab" + ("y" * 29 + "z") * 2 + "!", "ab" + ("y" * 29 + "z") * 2 + "!"),
            # The last thirty characters stand there three times, but only the longer period is said twice.
            (2 * ("q" * 40 + "w" * 30 + "e" * 20 + "w" * 30), "q" * 40 + "w" * 30 + "e" * 20 + "w" * 30),
        ],
    )
    def test_only_an_end_said_twice_in_a_row_is_trimmed(self, text: str, left: str) -> None:
        assert without_repeated_suffix(text) == left


class TestMaxTokens:
    def test_what_was_kept_counts_and_no_request_may_pass_the_rest(self) -> None:
        # Words of the nudger are two tokens: "ab cd" is four, of which two are taken.
        turns = [nudge("ab cd"), base(" 1", " 2", (" 3", UNSURE)), nudge(" ef gh"), base(" 4", " 5", " 6")]
        output, context = write(*turns, max_tokens=9)
        assert [tokens for *_, tokens in gone_on(context)] == [9, 7, 5, 3]
        [candidate] = output.candidates or ()
        assert (candidate.text, candidate.finished) == ("ab 1 2 ef 4 5 6", False)

    def test_a_nudge_that_fills_it_is_not_put_to_the_base_model(self) -> None:
        output, context = write(nudge("ab cd"), HESITANT, max_tokens=4)
        [candidate] = output.candidates or ()
        assert (candidate.text, candidate.finished) == ("ab cd", False)
        assert [tokens for *_, tokens in gone_on(context)] == [4, 2]

    def test_nor_are_words_beyond_it_of_a_nudger_that_passed_its_limit(self) -> None:
        assert written(nudge("ab cd ef"), HESITANT, max_tokens=4).text == "ab cd"

    def test_a_nudge_that_ends_the_text_at_the_limit_is_finished(self) -> None:
        assert written(nudge("ab cd", "stop"), max_tokens=4).finished

    @pytest.mark.parametrize("tokens", [1, 7, 40, 100])
    @pytest.mark.parametrize("chance", [SURE, UNSURE])
    def test_calls_stay_within_the_bound(self, tokens: int, chance: float) -> None:
        """A base model that is sure of one token at a time, or never."""
        asked = []

        def reply(model: str, request: Request, index: int) -> Completion:
            asked.append(model)
            if model == "b":
                return completion([(f" b{index}", chance)], "length")
            words = [(f" {len(asked)}n{place}", 0.5) for place in range(request.max_tokens)]
            return completion(words, "length")

        node = Nudging(NudgingParams(nudger="n", model="b", max_tokens=tokens, max_rounds=1000))
        [candidate] = run(node, QUESTION, FakeContext(reply=reply)).candidates or ()
        assert len(asked) <= node.calls(0)[1]
        assert len(candidate.text.split()) == tokens
        assert not candidate.finished


class TestBudget:
    TURNS = (
        nudge("To add them up"),
        HESITANT,
        base(" two", " and", (" x", UNSURE)),
        nudge(" two is"),
        base(" 4", " so"),
        base((" y", UNSURE)),
        nudge("\nA: 4", "stop"),
    )
    TEXTS = ("To", "To add", "To add two and", "To add two and two", *["To add two and two 4 so"] * 2)

    @pytest.mark.parametrize("limit", range(1, 8))
    def test_what_was_received_is_handed_on(self, limit: int) -> None:
        output, _ = write(*self.TURNS, limit=limit)
        [candidate] = output.candidates or ()
        assert candidate.text == (*self.TEXTS, self.TEXTS[-1] + "\nA: 4")[limit - 1]
        assert candidate.finished == (limit == 7)
        assert output.stopped == (None if limit == 7 else "budget")

    def test_where_nothing_was_received_the_refusal_passes_through(self) -> None:
        with pytest.raises(BudgetExceededError):
            write(*self.TURNS, limit=0)

    def test_the_pieces_are_told(self) -> None:
        [candidate] = write(*self.TURNS)[0].candidates or ()
        assert [(step["model"], step["completion"]) for step in candidate.origin["steps"]] == [
            ("n", "<To add them up>"),
            ("b", "< two and x>"),
            ("n", "< two is>"),
            ("b", "< 4 so>"),
            ("n", "<\nA: 4>"),
        ]
        assert (candidate.origin["model"], candidate.origin["completion"]) == ("n", "<\nA: 4>")


class TestPrompts:
    def test_the_nudger_is_asked_in_its_turn_and_the_base_model_by_a_plain_text(self) -> None:
        state = NodeState(
            question="2+2?",
            messages=(
                Message("system", "Be kind."),
                Message("user", "Hi"),
                Message("assistant", "Hello."),
                Message("user", "2+2?"),
            ),
            notes=("Sums.",),
            examples=(("1+1?", "A: 2"),),
        )
        _, context = write(nudge("a b"), base(" 1", (" 2", UNSURE)), END, state=state)
        nudger, asked, again = (request for _, request in context.requests)
        assert nudger.messages[-1] == Message("user", "2+2?")
        assert again.messages == (*nudger.messages, Message("assistant", "a 1"))
        assert asked.messages == ()
        assert asked.prefix is not None
        system, _, rest = asked.prefix.partition("Question: 1+1?\nAnswer:\n")
        for told in ("Be kind.", "Sums.", "step by step"):
            assert told in system
        assert rest == "A: 2\n\nQuestion: Hi\nAnswer:\nHello.\n\nQuestion: 2+2?\nAnswer:\na"


class TestLoops:
    def test_ids_stay_unique_and_old_candidates_stay_if_wished(self) -> None:
        first = written(nudge("a", "stop"))
        state = replace(QUESTION, candidates=(first,))
        made = write(nudge("a", "stop"), state=state, keep=True)[0].candidates or ()
        assert len({candidate.id for candidate in made}) == 2
        assert made[1] == first
        assert write(nudge("a", "stop"), state=state)[0].candidates == made[:1]

    @pytest.mark.parametrize("keep", [False, True])
    def test_one_candidate_is_one_answer(self, keep: bool) -> None:
        node = Nudging(NudgingParams(nudger="n", model="b", keep=keep))
        assert ("one" in node.provides) != keep
        assert node.candidates_out(3) == (4 if keep else 1)


@pytest.mark.parametrize("unable", ["small", "large"])
@pytest.mark.parametrize("capability", ["logprobs", "prefix"])
def test_a_model_without_what_it_takes_is_refused(unable: str, capability: str) -> None:
    spec = PipelineSpec.parse(
        "models: {small: 'scripted:echo', large: 'scripted:echo'}\nsteps: [{nudging: {nudger: small, model: large}}]\n",
        "p.yaml",
    )
    whole = {"logprobs": True, "prefix": True}
    able = {name: Capabilities(**{**whole, capability: name != unable}) for name in ("small", "large")}
    with pytest.raises(CapabilityError, match=f"needs `{capability}`, which model `{unable}`"):
        check_capabilities(spec, able)
    check_capabilities(spec, dict.fromkeys(able, Capabilities(**whole)))


def cut_short(context: FakeContext) -> FakeContext:
    """The context with replies that go on: their tokens are characters, some of them unsure, and none ends the text."""
    said = context.reply

    def reply(model: str, request: Request, index: int) -> Completion:
        made = said(model, request, index)
        text = (made if isinstance(made, str) else made.text)[: request.max_tokens]
        if request.prefix is None and context.calls > 20:
            return Completion(text=text, finish_reason="stop", logprobs=())
        tokens = tuple(Token(character, -0.1 if ord(character) % 3 else -3.0) for character in text)
        return Completion(text=text, finish_reason="length", logprobs=tokens)

    context.reply = reply
    return context


@dataclass(frozen=True)
class CutCase(NodeCase):
    """A case whose models go on and on, so that the base model is asked."""

    def given(self, context: FakeContext) -> FakeContext:
        return cut_short(context)


@pytest.mark.parametrize(
    "case",
    [
        CutCase("nudging", {"nudger": "small", "model": "large", "max_tokens": 60}),
        CutCase("nudging", {"nudger": "small", "model": "large", "chunk": 9, "max_rounds": 9, "keep": True}),
    ],
    ids=str,
)
class TestContractWhereTheBaseModelIsAsked(NodeContract):
    """The contract suite again: with its own replies, the nudger ends the text at once."""

    def test_both_models_are_asked(self, case: NodeCase) -> None:
        context = case.given(FakeContext())
        run(case.make(), self.state(["x"]), context)
        assert {model for model, _ in context.requests} == {"small", "large"}

    def test_hostile_question_and_notes_are_values(self, case: NodeCase) -> None:
        context = case.given(FakeContext())
        state = NodeState(question=HOSTILE[0], messages=(Message("user", HOSTILE[0]),), notes=(HOSTILE[0],))
        run(case.make(), state, context)
        for _, request in context.requests:
            said = request.prefix or "".join(message.content for message in request.messages)
            assert said.count(HOSTILE[0]) == 2


def long_reply(request: Request, seed: int) -> str:
    """Words that depend on all that was asked; the nudger's are seven, so that the second of its chunks is its end."""
    said = request.prefix or "|".join(message.content for message in request.messages)
    number = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    words = [number[place : place + 2] for place in range(0, 14, 2)]
    return " ".join(words if request.prefix is None else words * 9)


register_backend("nudging-long", ScriptedBackend(long_reply, name="nudging-long"))


def test_in_a_pipeline_the_ledger_counts_every_call_and_a_stream_repeats(tmp_path: Path) -> None:
    spec = PipelineSpec.parse(
        "models: {s: 'scripted:nudging-long', l: 'scripted:nudging-long'}\n"
        "steps: [{nudging: {nudger: s, model: l, chunk: 4, max_tokens: 50, threshold: 0.6}}]\n",
        "p.yaml",
    )
    with Store.open(f"{tmp_path}/run.db") as store:
        flow = Pipeline(spec, Gateway(store))
        first, second = (flow.invoke("2+2?", stream="s") for _ in range(2))
        assert store.usage(first.run_id).nominal.calls == first.usage.calls > 10
        by_model = {call.model for call in store.calls(first.run_id)}
        assert len(by_model) == 2
        assert (second.text, second.usage) == (first.text, first.usage)
        assert first.billed.calls > 0 == second.billed.calls
        short = flow.invoke("2+2?", stream="s", budget=Budget(calls=5))
        assert short.stopped == "budget" and first.text.startswith(short.text) and short.text
        completions = [step["completion"] for step in first.candidates[0].origin["steps"]]
        assert len(set(completions)) == len(completions) > 2
