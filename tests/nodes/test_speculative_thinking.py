"""Speculative thinking: who writes what from where, each trigger with its counters, and how a solution ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from inferloom.core.errors import BudgetExceededError, CapabilityError
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Candidate, Completion, Json, Message, NodeOutput, NodeState, Request
from inferloom.nodes.prompts import load_pack
from inferloom.nodes.speculative_thinking import SpeculativeThinking, SpeculativeThinkingParams, hits
from inferloom.nodes.testing import FakeContext, run
from inferloom.pipelines.rules import check_capabilities
from inferloom.pipelines.spec import PipelineSpec

QUESTION = NodeState(question="?", messages=(Message("user", "?"),))
STOP = ("\n\n",)
Replies = Callable[[str, Request, int], Completion]


def paragraph(text: str, tokens: int = 1) -> Completion:
    """A text that ended at the delimiter."""
    return Completion(text=text, finish_reason="stop", stop_reason="\n\n", completion_tokens=tokens, id=f"<{text}>")


def cut(text: str, tokens: int = 1) -> Completion:
    """A text that its token limit cut."""
    return Completion(text=text, finish_reason="length", completion_tokens=tokens, id=f"<{text}>")


def end(text: str, tokens: int = 1) -> Completion:
    """A text that came to its end."""
    return Completion(text=text, finish_reason="stop", completion_tokens=tokens, id=f"<{text}>")


def script(*turns: tuple[str, Completion]) -> Replies:
    """Replies in turn; the model that is asked must be the one whose turn it is."""
    left = list(turns)

    def reply(model: str, request: Request, index: int) -> Completion:
        whose, completion = left.pop(0)
        assert model == whose, f"`{model}` was asked for {completion.text!r}"
        return completion

    return reply


def think(
    reply: Replies, /, *, limit: int | None = None, state: NodeState = QUESTION, **params: Json
) -> tuple[NodeOutput, FakeContext]:
    """The output, and the context that was asked; the pack is that of the pocket models, whose question stands bare."""
    context = FakeContext(reply=reply, limit=limit, prompts=load_pack("pocket"))
    node = SpeculativeThinking(SpeculativeThinkingParams.model_validate({"draft": "s", "model": "l", **params}))
    output = run(node, state, context)
    least, most = node.calls(len(state.candidates))
    assert context.calls <= most
    assert output.stopped is not None or context.calls >= least
    return output, context


def written(output: NodeOutput) -> Candidate:
    """The one candidate."""
    assert output.candidates is not None
    [candidate] = output.candidates
    return candidate


def asked(context: FakeContext) -> list[tuple[str, str, int]]:
    """(model, text gone on from, tokens) of every request."""
    return [
        (model, request.messages[1].content if request.continues else "", request.max_tokens)
        for model, request in context.requests
    ]


def steps(candidate: Candidate) -> list[tuple[str, str, str | None]]:
    """(model, completion, rejected) of every piece."""
    return [(step["model"], step["completion"], step.get("rejected")) for step in candidate.origin["steps"]]


def always(mood: str, verify: str = "") -> Replies:
    """Endless paragraphs, each followed by a draft and a takeover in this mood."""

    def reply(model: str, request: Request, index: int) -> Completion:
        if model == "l":
            return cut(f"{mood}{verify} ")
        if request.max_tokens == 20:
            return cut(f"{mood} ")
        return paragraph("so") if request.stop else end("A: 1")

    return reply


class TestSmallModel:
    def test_a_draft_without_a_mood_is_its_own_continuation(self) -> None:
        reply = script(("s", paragraph("a")), ("s", cut("b")), ("s", paragraph("c")), ("s", cut("d")), ("s", end("e")))
        output, context = think(reply)
        candidate = written(output)
        assert (candidate.text, candidate.finished) == ("a\n\nbc\n\nde", True)
        texts = [("", 1024), ("a\n\n", 20), ("a\n\nb", 1024), ("a\n\nbc\n\n", 20), ("a\n\nbc\n\nd", 1024)]
        assert asked(context) == [("s", text, tokens) for text, tokens in texts]
        assert {request.stop for _, request in context.requests} == {STOP}
        assert {(request.temperature, request.top_p) for _, request in context.requests} == {(0.6, 0.95)}
        assert steps(candidate) == [("s", f"<{text}>", None) for text in "abcde"]

    def test_a_draft_may_be_a_paragraph_and_is_followed_by_the_next_draft(self) -> None:
        reply = script(("s", paragraph("a")), ("s", paragraph("b")), ("s", cut("c")), ("s", end("d")))
        output, context = think(reply)
        assert written(output).text == "a\n\nb\n\ncd"
        assert [tokens for *_, tokens in asked(context)] == [1024, 20, 20, 1024]

    def test_another_delimiter(self) -> None:
        line = Completion(text="a", finish_reason="stop", stop_reason="\n")
        output, context = think(script(("s", line), ("s", end("b"))), step="\n")
        assert written(output).text == "a\nb"
        assert {request.stop for _, request in context.requests} == {("\n",)}

    def test_a_paragraph_cut_at_its_limit_is_no_reflection_point_and_goes_on_in_its_middle(self) -> None:
        output, context = think(script(("s", cut("wait")), ("s", cut("wait")), ("s", end("b"))), segment_tokens=7)
        assert written(output).text == "waitwaitb"
        assert asked(context) == [("s", "", 7), ("s", "wait", 7), ("s", "waitwait", 7)]


class TestTakeover:
    @pytest.mark.parametrize("draft", ["Yes, so", "wait a bit", "now verify"])
    def test_a_mood_hands_the_same_place_to_the_large_model(self, draft: str) -> None:
        reply = script(("s", paragraph("a")), ("s", cut(draft)), ("l", cut("B")), ("s", end("c")))
        output, context = think(reply, lookahead=9, takeover_tokens=8)
        assert written(output).text == "a\n\nBc"
        assert asked(context) == [("s", "", 1024), ("s", "a\n\n", 9), ("l", "a\n\n", 8), ("s", "a\n\nB", 1024)]
        assert context.requests[2][1].stop == ()
        assert steps(written(output)) == [("s", "<a>", None), ("l", "<B>", f"<{draft}>"), ("s", "<c>", None)]

    @pytest.mark.parametrize(
        ("draft", "takeover", "kept"),
        [
            ("wait", "yes", "takeover"),
            ("wait", "so", "takeover"),
            ("yes", "wait", "takeover"),
            ("yes", "so", "draft"),
            ("yes", "yeah", "draft"),
            ("wait", "another", "draft"),
        ],
    )
    def test_where_asked_to_it_wins_only_if_one_doubts_and_the_other_does_not(
        self, draft: str, takeover: str, kept: str
    ) -> None:
        reply = script(("s", paragraph("a")), ("s", cut(draft)), ("l", cut(takeover)), ("s", end("c")))
        candidate = written(think(reply, choose="disagreement")[0])
        mine, other = (takeover, draft) if kept == "takeover" else (draft, takeover)
        assert candidate.text == f"a\n\n{mine}c"
        assert steps(candidate)[1] == ("l" if kept == "takeover" else "s", f"<{mine}>", f"<{other}>")

    def test_a_kept_draft_that_was_a_paragraph_is_a_reflection_point(self) -> None:
        reply = script(
            ("s", paragraph("a")), ("s", paragraph("wait")), ("l", cut("wait")), ("s", cut("b")), ("s", end("c"))
        )
        output, context = think(reply, choose="disagreement")
        assert written(output).text == "a\n\nwait\n\nbc"
        assert [tokens for *_, tokens in asked(context)] == [1024, 20, 20, 20, 1024]

    def test_the_large_model_verifies_where_what_was_kept_says_so(self) -> None:
        reply = script(
            ("s", paragraph("a")), ("s", cut("wait")), ("l", cut("I check ")), ("l", cut("1+1")), ("s", end("c"))
        )
        output, context = think(reply)
        assert written(output).text == "a\n\nI check 1+1c"
        assert asked(context)[3] == ("l", "a\n\nI check ", 125)

    def test_a_draft_that_lost_is_not_verified(self) -> None:
        reply = script(("s", paragraph("a")), ("s", cut("I check")), ("l", cut("so")), ("s", end("c")))
        assert written(think(reply)[0]).text == "a\n\nsoc"

    def test_a_draft_that_was_kept_is_verified(self) -> None:
        reply = script(
            ("s", paragraph("a")), ("s", cut("I check")), ("l", cut("wait")), ("l", cut("1+1")), ("s", end("c"))
        )
        output, context = think(reply, choose="disagreement", verify_tokens=6)
        assert written(output).text == "a\n\nI check1+1c"
        assert asked(context)[3] == ("l", "a\n\nI check", 6)


class TestMood:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("check", 1),
            ("Check, CHECK (check)", 3),
            ("checking, recheck, check_it, checks", 0),
            ("hold on", 1),
            ("Hold\n on, Hold On", 2),
            ("hold, on; holdon", 0),
            ("hold on tight", 1),
            ("hold on yes", 2),
            ("check yes", 1),
            ("yesterday", 0),
            ("", 0),
        ],
    )
    def test_keywords_are_whole_words_in_any_case(self, text: str, found: int) -> None:
        assert hits(("check", "hold on", "hold on tight", "yes", "check yes"), text) == found
        assert hits((), text) == 0

    def test_keywords_are_no_patterns(self) -> None:
        assert hits(("a+b", "c?", "(d"), "a+b and c? and (d") == 3
        assert hits(("a+b", ".", "c?"), "aab c") == 0

    @pytest.mark.parametrize("draft", ["yesterday", "rechecking", "The waiter", "confidently"])
    def test_a_part_of_a_word_is_no_mood(self, draft: str) -> None:
        assert (
            written(think(script(("s", paragraph("a")), ("s", cut(draft)), ("s", end(""))))[0]).text == f"a\n\n{draft}"
        )

    def test_the_words_are_parameters(self) -> None:
        lists: dict[str, Json] = {"positive": ["jawohl"], "negative": ["halt"], "verify": ["noch einmal"]}
        for word in ("jawohl", "halt", "noch einmal"):
            reply = script(("s", paragraph("a")), ("s", cut(word)), ("l", end("B")))
            assert written(think(reply, **lists)[0]).text == "a\n\nB"
        for word in ("yes", "wait", "check"):
            assert written(think(script(("s", paragraph("a")), ("s", end(word))), **lists)[0]).text == f"a\n\n{word}"
        with pytest.raises(ValidationError, match="positive"):
            SpeculativeThinkingParams.model_validate({"draft": "s", "model": "l", "positive": ["yes", " "]})

    @pytest.mark.parametrize(
        ("kept", "doubts"),
        [("yes wait", True), ("yes yes wait", False), ("yes wait check", True), ("check", True), ("yes", False)],
    )
    def test_doubts_are_what_was_kept_and_does_not_affirm_more_than_it_doubts(self, kept: str, doubts: bool) -> None:
        turns = [("s", paragraph("a")), ("s", cut("yes")), ("l", cut(kept))]
        turns += [("l", cut("verified"))] if "check" in kept else []
        turns += [("s", paragraph("b")), ("l" if doubts else "s", end("the end"))]
        candidate = written(think(script(*turns), negative_limit=1, cue="CUE ")[0])
        assert candidate.text.endswith("b\n\nCUE the end" if doubts else "b\n\nthe end")


class TestExcessiveDoubt:
    def test_at_the_limit_a_cue_is_written_and_the_large_model_looks_back(self) -> None:
        doubt = [("s", paragraph("a")), ("s", cut("yes")), ("l", cut("wait "))]
        reply = script(*doubt, *doubt, ("s", paragraph("b")), ("l", cut(" It is right.")), ("s", end("c")))
        output, context = think(reply, negative_limit=2, recap_tokens=50, cue="Wrong?")
        assert written(output).text == "a\n\nwait a\n\nwait b\n\nWrong? It is right.c"
        # The paragraph that finds the limit reached is not followed by a draft.
        assert asked(context)[6:] == [
            ("s", "a\n\nwait a\n\nwait ", 1024),
            ("l", "a\n\nwait a\n\nwait b\n\nWrong?", 50),
            ("s", "a\n\nwait a\n\nwait b\n\nWrong? It is right.", 1024),
        ]

    def test_a_doubt_that_was_averted_does_not_count(self) -> None:
        averted = [("s", paragraph("a")), ("s", cut("wait")), ("l", cut("so"))]
        assert written(think(script(*averted, *averted, ("s", end("b"))), negative_limit=1)[0]).text.endswith("b")

    @pytest.mark.parametrize(
        ("limit", "recap", "limits", "recaps"),
        [
            (1, 125, [1, 6, 11, 16, 21, 26, 30, 30], [125, 150, 175, 200, 200, 200, 200, 200]),
            (13, 60, [13, 18, 23, 28, 30, 30], [60, 85, 110, 135, 160, 185]),
            (29, 199, [29, 30, 30], [199, 200, 200]),
            (40, 300, [40, 40], [300, 300]),
        ],
    )
    def test_counter_limit_and_length_after_each_cue(
        self, limit: int, recap: int, limits: list[int], recaps: list[int]
    ) -> None:
        _, context = think(
            always("wait"), negative_limit=limit, recap_tokens=recap, max_segments=sum(limits) + len(limits) + 2
        )
        large = [tokens for model, _, tokens in asked(context) if model == "l"]
        expected = []
        for doubts, tokens in zip(limits, recaps, strict=True):
            expected += [20] * doubts + [tokens]
        assert large == expected

    def test_the_default_cue_holds_no_keyword_of_a_takeover_and_comes_after_fifteen_doubts(self) -> None:
        output, context = think(always("wait"), max_segments=18)
        cue = SpeculativeThinkingParams(model="l", draft="s").cue
        assert hits(("verify", "think again", "recap", "check"), cue) == 0
        assert [tokens for model, _, tokens in asked(context) if model == "l"] == [20] * 15 + [125]
        assert written(output).text.count(cue) == 1


class TestBegin:
    def test_the_large_model_may_begin_and_nothing_else_happens_there(self) -> None:
        output, context = think(script(("l", cut("wait ")), ("s", end("a"))), begin_tokens=100, negative_limit=1)
        assert written(output).text == "wait a"
        assert asked(context) == [("l", "", 100), ("s", "wait ", 1024)]

    def test_it_begins_once(self) -> None:
        _, context = think(always("so"), begin_tokens=100, max_segments=9)
        assert [model for model, *_ in asked(context)].count("l") == 1


class TestEnd:
    DOUBT = ("s", paragraph("a")), ("s", cut("wait")), ("l", cut("wait check "))

    @pytest.mark.parametrize(
        ("turns", "text"),
        [
            ([("l", end("A: 1"))], "A: 1"),
            ([("l", cut("b ")), ("s", end("\nA: 1"))], "b \nA: 1"),
            ([("l", cut("b ")), ("s", paragraph("a")), ("s", end("A: 1"))], "b a\n\nA: 1"),
            ([("l", cut("b ")), ("s", paragraph("a")), ("s", end("wait")), ("l", end("A: 1"))], "b a\n\nA: 1"),
            ([("l", cut("b ")), *DOUBT, ("l", end("\nA: 1"))], "b a\n\nwait check \nA: 1"),
            (
                [("l", cut("b ")), *DOUBT, ("l", cut("c ")), ("s", paragraph("d")), ("l", end("\nA: 1"))],
                "b a\n\nwait check c d\n\n!\nA: 1",
            ),
        ],
        ids=["begin", "segment", "draft", "takeover", "verification", "recap"],
    )
    def test_the_end_of_the_text_ends_it_whoever_writes(self, turns: list[tuple[str, Completion]], text: str) -> None:
        candidate = written(think(script(*turns), begin_tokens=5, negative_limit=1, cue="!")[0])
        assert (candidate.text, candidate.answer, candidate.finished) == (text, "1", True)
        model, completion = turns[-1]
        assert (candidate.origin["model"], candidate.origin["completion"]) == (model, completion.id)

    def test_a_kept_draft_that_ended_is_the_end(self) -> None:
        reply = script(("s", paragraph("a")), ("s", end("check, wait")), ("l", cut("wait")))
        candidate = written(think(reply, choose="disagreement")[0])
        assert (candidate.text, candidate.finished) == ("a\n\ncheck, wait", True)

    def test_an_end_behind_delimiter_or_cue_leaves_neither(self) -> None:
        candidate = written(think(script(("s", paragraph("A: 1")), ("s", end(""))))[0])
        assert (candidate.text, candidate.finished) == ("A: 1", True)
        doubt = [("s", paragraph("a")), ("s", cut("wait")), ("l", cut("wait "))]
        reply = script(*doubt, ("s", paragraph("A: 1")), ("l", end("")))
        candidate = written(think(reply, negative_limit=1)[0])
        assert (candidate.text, candidate.finished) == ("a\n\nwait A: 1", True)

    @pytest.mark.parametrize("place", range(3))
    def test_another_reason_to_end_is_a_cut(self, place: int) -> None:
        turns = [("s", paragraph("a")), ("s", cut("wait")), ("l", cut("b"))][: place + 1]
        model, last = turns.pop()
        filtered = Completion(text=last.text, finish_reason="other")
        if place == 1:  # a draft that is judged first is not what ends it
            filtered = Completion(text="so", finish_reason="other")
        candidate = written(think(script(*turns, (model, filtered)))[0])
        assert (candidate.text, candidate.finished) == (["a", "a\n\nso", "a\n\nb"][place], False)

    def test_an_empty_answer_is_finished(self) -> None:
        candidate = written(think(script(("s", end(""))))[0])
        assert (candidate.text, candidate.finished, candidate.answer) == ("", True, None)


class TestLimits:
    def test_max_tokens_holds_for_every_request_and_counts_what_was_kept(self) -> None:
        reply = script(
            ("s", paragraph("a", 100)),
            ("s", cut("wait", 20)),
            ("l", cut("check", 20)),
            ("l", cut("b", 30)),
        )
        output, context = think(reply, max_tokens=150)
        # The draft that lost is not part of the solution.
        assert [tokens for *_, tokens in asked(context)] == [150, 20, 20, 30]
        assert (written(output).text, written(output).finished) == ("a\n\ncheckb", False)

    @pytest.mark.parametrize("trigger", ["begin", "draft", "takeover", "recap"])
    def test_no_trigger_passes_max_tokens(self, trigger: str) -> None:
        a = ("s", paragraph("a", 90))
        turns = {
            "begin": [("l", cut("a", 100))],
            "draft": [a, ("s", cut("so", 10))],
            "takeover": [a, ("s", cut("wait", 10)), ("l", cut("b", 10))],
            "recap": [("s", paragraph("a", 1)), ("s", cut("yes")), ("l", cut("wait", 1)), a, ("l", cut("b", 8))],
        }[trigger]
        output, context = think(
            script(*turns), max_tokens=100, begin_tokens=500 if trigger == "begin" else 0, negative_limit=1
        )
        assert asked(context)[-1][2] == turns[-1][1].completion_tokens
        assert not written(output).finished

    def test_a_paragraph_that_meets_the_limit_shows_no_delimiter(self) -> None:
        candidate = written(think(script(("s", paragraph("a", 9))), max_tokens=9)[0])
        assert (candidate.text, candidate.finished) == ("a", False)

    def test_the_last_paragraph_runs_to_the_end_without_a_takeover(self) -> None:
        output, context = think(script(("s", paragraph("a")), ("s", end("wait\n\nA: 1"))), max_segments=2)
        assert written(output).text == "a\n\nwait\n\nA: 1"
        assert asked(context) == [("s", "", 1024), ("s", "a\n\n", 4095)]
        assert [request.stop for _, request in context.requests] == [STOP, ()]
        output, context = think(script(("s", end("a\n\nb"))), max_segments=1, max_tokens=77)
        assert (written(output).text, asked(context)) == ("a\n\nb", [("s", "", 77)])

    def test_drafts_that_are_paragraphs_count_among_them(self) -> None:
        reply = script(("s", paragraph("a")), ("s", paragraph("b")), ("s", paragraph("c")), ("s", end("d")))
        output, context = think(reply, max_segments=4)
        assert written(output).text == "a\n\nb\n\nc\n\nd"
        assert [tokens for *_, tokens in asked(context)] == [1024, 20, 20, 4093]

    def test_paragraphs_that_their_limit_cut_count_among_them(self) -> None:
        _, context = think(lambda model, request, index: cut("x"), max_segments=3, max_tokens=5000)
        # The last one is the last, whatever room it left.
        assert [tokens for *_, tokens in asked(context)] == [1024, 1024, 4998]

    @pytest.mark.parametrize("segments", [1, 2, 3, 7])
    @pytest.mark.parametrize("begin", [0, 5])
    def test_the_most_and_the_least_calls_are_reached(self, segments: int, begin: int) -> None:
        params: dict[str, Json] = {"n": 2, "max_segments": segments, "begin_tokens": begin, "negative_limit": 1000}
        node = SpeculativeThinking(SpeculativeThinkingParams.model_validate({"draft": "s", "model": "l", **params}))
        _, context = think(always("wait", " check"), **params)
        assert context.calls == node.calls(0)[1]
        _, context = think(lambda model, request, index: end("A: 1"), **params)
        assert context.calls == node.calls(0)[0] == 2


class TestBudget:
    TURNS = (
        ("l", cut("b ")),
        ("s", paragraph("c")),
        ("s", cut("wait")),
        ("l", cut("check ")),
        ("l", cut("d ")),
        ("s", paragraph("e")),
        ("l", cut(" f ")),
        ("s", end("A: 1")),
    )
    TEXTS = (
        "b ",
        "b c",
        "b c\n\nwait",  # the draft, since the takeover was refused
        "b c\n\ncheck ",
        "b c\n\ncheck d ",
        "b c\n\ncheck d e",  # no cue without what it asks for
        "b c\n\ncheck d e\n\n! f ",
        "b c\n\ncheck d e\n\n! f A: 1",
    )

    @pytest.mark.parametrize("limit", range(1, 9))
    def test_what_was_received_is_handed_on(self, limit: int) -> None:
        output, context = think(script(*self.TURNS), limit=limit, begin_tokens=9, negative_limit=1, cue="!")
        candidate = written(output)
        assert (candidate.text, candidate.finished) == (self.TEXTS[limit - 1], limit == 8)
        assert output.stopped == (None if limit == 8 else "budget")
        assert context.calls == limit
        kept = [step["completion"] for step in candidate.origin["steps"]]
        assert kept[-1] == candidate.origin["completion"] == self.TURNS[limit - 1][1].id

    def test_where_nothing_was_received_the_refusal_passes_through(self) -> None:
        with pytest.raises(BudgetExceededError):
            think(script(), limit=0)


class TestChains:
    def reply(self, model: str, request: Request, index: int) -> Completion:
        said = request.messages[1].content if request.continues else ""
        replies = {
            "": [paragraph("a"), paragraph("a"), end("A: 3")],
            "a\n\n": [cut("wait"), cut("so ")] if model == "s" else [cut("b ")],
            "a\n\nb ": [cut("endless", 5000)],
            "a\n\nso ": [end("A: 2")],
        }[said]
        return replies[index]

    def test_go_on_together_and_equal_requests_are_one(self) -> None:
        output, context = think(self.reply, n=3)
        sent = [
            (model, request.messages[1].content if request.continues else "", request.n)
            for model, request in context.requests
        ]
        assert sent[:2] == [("s", "", 3), ("s", "a\n\n", 2)]
        assert sorted(sent[2:]) == [("l", "a\n\n", 1), ("s", "a\n\nb ", 1), ("s", "a\n\nso ", 1)]
        made = output.candidates or ()
        # Finished ones first, otherwise in their order.
        assert [(one.text, one.finished) for one in made] == [
            ("a\n\nso A: 2", True),
            ("A: 3", True),
            ("a\n\nb endless", False),
        ]

    def test_a_budget_that_ends_within_a_request_leaves_the_others_their_part(self) -> None:
        output, _ = think(self.reply, n=3, limit=2)
        assert [one.text for one in output.candidates or ()] == ["a", "a"]
        assert output.stopped == "budget"

    def test_ids_stay_unique_in_loops_and_old_candidates_stay_if_wished(self) -> None:
        first, _ = think(self.reply, n=3)
        state = NodeState(question="?", messages=QUESTION.messages, candidates=first.candidates or ())
        again, _ = think(self.reply, state=state, n=3, keep=True)
        made = again.candidates or ()
        assert len({candidate.id for candidate in made}) == 6
        assert made[3:] == first.candidates
        assert think(self.reply, state=state, n=3)[0].candidates == made[:3]

    @pytest.mark.parametrize(("n", "keep", "one"), [(1, False, True), (2, False, False), (1, True, False)])
    def test_one_chain_is_one_answer(self, n: int, keep: bool, one: bool) -> None:
        node = SpeculativeThinking(SpeculativeThinkingParams(draft="s", model="l", n=n, keep=keep))
        assert ("one" in node.provides) == one
        assert ("one" in node.drops) != one


@pytest.mark.parametrize("unable", ["small", "large"])
def test_a_model_that_cannot_go_on_from_a_text_is_refused(unable: str) -> None:
    spec = PipelineSpec.parse(
        "models: {small: pocket:small, large: pocket:large}\n"
        "steps: [{speculative_thinking: {draft: small, model: large}}]\n",
        "p.yaml",
    )
    able = {name: Capabilities(prefix=name != unable) for name in ("small", "large")}
    with pytest.raises(CapabilityError, match=f"needs `prefix`, which model `{unable}`"):
        check_capabilities(spec, able)
    check_capabilities(spec, dict.fromkeys(able, Capabilities(prefix=True)))
