"""The scripted model behaves as a model does: stops, limits, log-probabilities, seeds, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from inferloom.core.errors import RequestRejectedError, ServerFaultError, SpecError, UnknownNameError
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Completion, Message, Request
from inferloom.models.backends import open_backend
from inferloom.models.scripted import ScriptedBackend, register_backend, script, tokens
from inferloom.models.spec import ModelSpec

ASK = Request(messages=(Message("system", "be brief"), Message("user", "what is 1 + 1 ?")))


async def said(name: str, request: Request = ASK, seed: int = 0) -> Completion:
    [completion] = await open_backend(ModelSpec.parse(f"scripted:{name}")).generate(request, [seed])
    return completion


async def test_the_built_in_scripts() -> None:
    assert (await said("echo")).text == "what is 1 + 1 ?"
    assert (await said("constant")).text == "A: 1"
    assert (await said("constant:A: 7 or so")).text == "A: 7 or so"
    with pytest.raises(UnknownNameError, match="unknown script `ecko`; did you mean `echo`"):
        await said("ecko")


async def test_tokens_are_words_and_the_prompt_stands_on_the_first() -> None:
    made = await ScriptedBackend(lambda request, seed: " a  b\nc\n").generate(ASK, [1, 2])
    assert [completion.prompt_tokens for completion in made] == [8, 0]
    assert [completion.completion_tokens for completion in made] == [4, 4]
    assert tokens(" a  b\nc\n") == [" a", "  b", "\nc", "\n"]


async def test_whichever_of_stop_and_limit_comes_first_ends_the_text() -> None:
    model = ScriptedBackend(lambda request, seed: "one two three\nfour\n\nfive")
    for stop, limit, expected in [
        (("\n\n", "\n"), 9, ("one two three", "stop", "\n", 3)),
        (("\n",), 2, ("one two", "length", None, 2)),
        (("\n",), 3, ("one two three", "stop", "\n", 3)),
        (("six",), 9, ("one two three\nfour\n\nfive", "stop", None, 5)),
        ((), 5, ("one two three\nfour\n\nfive", "stop", None, 5)),
    ]:
        [made] = await model.generate(Request(messages=ASK.messages, stop=stop, max_tokens=limit), [1])
        assert (made.text, made.finish_reason, made.stop_reason, made.completion_tokens) == expected


async def test_log_probabilities_are_consistent() -> None:
    request = Request(messages=ASK.messages, logprobs=3)
    model = ScriptedBackend(lambda request, seed: f"a b {seed}")
    [first, second] = await model.generate(request, [1, 2])
    [again] = await model.generate(request, [1])
    assert first.logprobs == again.logprobs
    assert first.logprobs != second.logprobs
    for scored in first.logprobs or ():
        assert scored.top[0] == (scored.token, scored.logprob)
        assert len(scored.top) == 3
        assert list(scored.top) == sorted(scored.top, key=lambda pair: -pair[1])
        assert sum(math.exp(logprob) for _, logprob in scored.top) <= 1
    assert "".join(scored.token for scored in first.logprobs or ()) == first.text
    [plain] = await model.generate(Request(messages=ASK.messages, logprobs=0), [1])
    assert {scored.top for scored in plain.logprobs or ()} == {()}


async def test_seeds_choose_and_temperature_zero_does_not() -> None:
    model = ScriptedBackend(lambda request, seed: str(seed))
    assert [made.text for made in await model.generate(ASK, [3, 4])] == ["3", "4"]
    cold = Request(messages=ASK.messages, temperature=0)
    assert [made.text for made in await model.generate(cold, [3, 4])] == ["0", "0"]


async def test_what_is_not_declared_is_refused() -> None:
    able = ScriptedBackend(lambda request, seed: "x", capabilities=Capabilities(seed=True))
    assert (await able.generate(ASK, [1]))[0].text == "x"
    for request, seeds in [
        (ASK, [1, 2]),
        (Request(messages=ASK.messages, logprobs=0), [1]),
        (Request(prefix="x"), [1]),
        (Request(messages=(*ASK.messages, Message("assistant", "A:"))), [1]),
        (Request(messages=ASK.messages, schema="{}"), [1]),
    ]:
        with pytest.raises(RequestRejectedError, match="does not support"):
            await able.generate(request, seeds)
    stated = open_backend(ModelSpec.parse({"model": "scripted:echo", "capabilities": {"n": False}}))
    assert stated.capabilities == Capabilities(logprobs=True, prefix=True, seed=True, structured=True, tools=True)


async def test_requests_are_kept_and_scripts_may_fail() -> None:
    def moody(request: Request, seed: int) -> str:
        if seed == 13:
            raise ServerFaultError("bad luck")
        return "fine"

    model = register_backend("test-moody", ScriptedBackend(moody))
    assert open_backend(ModelSpec.parse("scripted:test-moody")) is model
    with pytest.raises(ServerFaultError):
        await model.generate(ASK, [13])
    await model.generate(ASK, [1, 2])
    assert [entry.seeds for entry in model.served] == [(13,), (1, 2)]
    assert model.served[0].request == ASK


async def test_a_registered_reply_may_be_a_whole_completion() -> None:
    whole = Completion(text="t", finish_reason="other", reasoning="r", completion_tokens=5)

    @script("test-whole")
    def reply(request: Request, seed: int) -> Completion:
        return whole

    made = await said("test-whole")
    assert (made.reasoning, made.completion_tokens, made.prompt_tokens) == ("r", 5, 8)


async def test_streamed_words_join_to_the_text() -> None:
    heard: dict[int, str] = {0: "", 1: ""}

    def sink(index: int, text: str) -> None:
        heard[index] += text

    made = await ScriptedBackend(lambda request, seed: f"a b\n {seed}").generate(ASK, [1, 2], sink)
    assert [heard[0], heard[1]] == [completion.text for completion in made]


RULES = """
- when: '1 \\+ 1'
  say: ['A: 2', 'A: 3']
- say: 'A: none'
"""


async def test_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.yaml"
    path.write_text(RULES)
    assert (await said(str(path), seed=4)).text == "A: 2"
    assert (await said(str(path), seed=5)).text == "A: 3"
    assert (await said(str(path), Request(messages=(Message("user", "hm"),)))).text == "A: none"
    assert (await said(str(path), Request(prefix="so 1 + 1 ="))).text == "A: 2"
    before = await open_backend(ModelSpec.parse(f"scripted:{path}")).fingerprint()
    path.write_text("- {when: never, say: x}")
    assert await open_backend(ModelSpec.parse(f"scripted:{path}")).fingerprint() != before
    with pytest.raises(RequestRejectedError, match=r"no rule of .* matches `what is 1"):
        await said(str(path))


@pytest.mark.parametrize(
    ("text", "said_"),
    [
        ("when: x\n", "replies.yaml:1: a script must be a list of rules"),
        ("- {say: a}\n- {when: b}\n", "replies.yaml:2: a rule must be"),
        ("- {say: a}\n- {when: '(', say: b}\n", "replies.yaml:2: `when` is not a regular expression"),
        ("- {say: 3}\n", "replies.yaml:1: `say` must be a text or a list of texts"),
        ("- {say: a\n", "replies.yaml:2: not YAML"),
    ],
)
def test_mistakes_in_a_script_file(tmp_path: Path, text: str, said_: str) -> None:
    path = tmp_path / "replies.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=said_):
        open_backend(ModelSpec.parse(f"scripted:{path}"))


def test_a_missing_script_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none.yaml: cannot read the script: No such file"):
        open_backend(ModelSpec.parse(f"scripted:{tmp_path / 'none.yaml'}"))
