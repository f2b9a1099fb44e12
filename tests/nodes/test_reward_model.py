"""Reward model: a tiny real one with random weights, batches, the thread, and what is missing."""

import asyncio
import importlib.util
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferloom.core.errors import SetupError, UserError
from inferloom.core.types import Message
from inferloom.nodes import rewarder as rewarder_module
from inferloom.nodes.reward_model import RewardModel, RewardModelParams, bounded
from inferloom.nodes.rewarder import Judged, Rewarder, rewarder
from inferloom.nodes.testing import HOSTILE, FakeContext, make_state, run

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def save_tokenizer(folder: Path, template: str | None) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate([*alphabet, "<end>"])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", model_input_names=inputs)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def save_model(folder: Path, labels: int, head: bool = True) -> None:
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
    )

    torch.manual_seed(7)
    if folder.name == "encoder":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        wide = BertConfig(vocab_size=257, num_labels=labels, initializer_range=0.6, **sizes)
        BertForSequenceClassification(wide).save_pretrained(folder)
        return
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        num_labels=labels,
        initializer_range=0.6,
    )
    kind = LlamaForSequenceClassification if head else LlamaForCausalLM
    kind(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("models")
    for name, labels, template in (
        ("chat", 1, TEMPLATE),
        ("pair", 1, None),
        ("encoder", 1, None),
        ("three", 3, TEMPLATE),
    ):
        save_tokenizer(root / name, template)
        save_model(root / name, labels)
    save_tokenizer(root / "headless", TEMPLATE)
    save_model(root / "headless", 1, head=False)
    return root


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    rewarder.cache_clear()
    yield
    rewarder.cache_clear()


def model(path: Path | str, **params: object) -> RewardModel:
    return RewardModel(RewardModelParams.model_validate({"path": str(path), "device": "cpu", **params}))


def scores(node: RewardModel, texts: list[str], context: FakeContext | None = None) -> list[float]:
    output = run(node, make_state(texts), context or FakeContext())
    assert output.candidates is not None and [candidate.text for candidate in output.candidates] == texts
    return [candidate.scores[node.params.name] for candidate in output.candidates]


@pytest.mark.parametrize("name", ["chat", "pair", "encoder"])
def test_scores_are_the_sigmoid_of_the_output_and_differ(models: Path, name: str) -> None:
    context = FakeContext()
    texts = ["1 + 1 = 2", "A: 5", "no idea"]
    given = scores(model(models / name), texts, context)
    raw = scores(model(models / name, normalise=False), texts)
    assert given == pytest.approx([1 / (1 + math.exp(-output)) for output in raw])
    assert len(set(given)) == 3 and all(0 <= score <= 1 for score in given)
    assert context.calls == 0
    event, data = context.events[0]
    assert event == "reward_model" and data["texts"] == 3
    assert isinstance(data["tokens"], int) and data["tokens"] > 30
    assert isinstance(data["seconds"], float) and data["seconds"] > 0


@pytest.mark.parametrize("name", ["chat", "pair", "encoder"])
def test_a_batch_of_unequal_lengths_changes_no_score(models: Path, name: str) -> None:
    texts = ["a", "a much longer answer than the first", "", "b" * 60, "é ﷽ \ud800"]
    together = scores(model(models / name, batch=5, normalise=False), texts)
    alone = scores(model(models / name, batch=1, normalise=False), texts)
    assert together == pytest.approx(alone, abs=1e-4)


def test_an_encoder_is_told_which_part_is_the_answer(models: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(models / "encoder")("Hello.\n\nHello, what can I do?\n\nWhat is 2 + 3?", "5")
    assert set(tokens["token_type_ids"]) == {0, 1}
    real = AutoModelForSequenceClassification.from_pretrained(models / "encoder")
    expected = real(**tokens.convert_to_tensors("pt", prepend_batch_axis=True)).logits[0, 0].item()
    assert scores(model(models / "encoder", normalise=False), ["5"]) == pytest.approx([expected], abs=1e-4)


def test_equal_texts_are_scored_once(models: Path) -> None:
    context = FakeContext()
    given = scores(model(models / "chat"), ["x", "y", "x"], context)
    assert given[0] == given[2] and context.events[0][1]["texts"] == 2


def test_long_texts_lose_their_beginning(models: Path) -> None:
    texts = ["one " * 3 + "x" * 20, "two " * 7 + "x" * 20, "one " * 3 + "y" * 20]
    cut = scores(model(models / "chat", max_tokens=16), texts)
    assert cut[0] == cut[1] != cut[2]
    assert len(set(scores(model(models / "chat"), texts))) == 3
    assert all(map(math.isfinite, scores(model(models / "chat"), [text for text in HOSTILE if len(text) < 200_000])))


def test_the_label_of_several_outputs_is_its_part(models: Path) -> None:
    parts = [scores(model(models / "three", label=label), ["x", "y"]) for label in range(3)]
    assert [math.fsum(each) for each in zip(*parts, strict=True)] == pytest.approx([1, 1])
    with pytest.raises(UserError, match="steps/1: label is 3; the model has 3 outputs"):
        scores(model(models / "three", label=3), ["x"])
    assert bounded([0.0], 0) == 0.5 and bounded([800.0], 0) == 1.0 and bounded([-800.0], 0) == 0.0
    assert bounded([1.0, 1.0], 1) == 0.5


def test_the_whole_conversation_is_read(models: Path) -> None:
    judge = rewarder(str(models / "chat"), None, "cpu")

    def outputs(*earlier: Message) -> Judged:
        return asyncio.run(judge.judge([*earlier, Message("user", "q")], ["a"], batch=1, max_tokens=256))

    assert outputs().rows != outputs(Message("user", "before"), Message("assistant", "this")).rows


def test_a_model_without_a_trained_head_is_refused(models: Path) -> None:
    with pytest.raises(SetupError, match=r"headless: is no reward model: it has no weights `score.weight`"):
        scores(model(models / "headless"), ["x"])


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"is not the folder of a model \(it has no config.json\)"):
        scores(model(tmp_path), ["x"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SetupError, match="cannot be loaded as a reward model: "):
        scores(model(tmp_path), ["x"])


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"needs the package `torch`; run `pip install 'inferloom\[pocket\]'`"):
        scores(model(tmp_path), ["x"])


class Slow(Rewarder):
    """A model whose batches wait until they are let go."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.started, self.go, self.done = threading.Event(), threading.Event(), 0

    def _run(self, *asked: object) -> Judged:
        self.started.set()
        assert self.go.wait(30)
        self.done += 1
        return Judged(([0.0],))


def test_a_cancel_waits_for_the_batch_at_work_and_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr("inferloom.nodes.reward_model.rewarder", lambda *named: slow)

    async def cancelled() -> None:
        task = asyncio.create_task(model("slow", batch=1).run(make_state(["a", "b", "c"]), FakeContext()))
        await asyncio.to_thread(slow.started.wait, 30)  # the event loop is free meanwhile
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.done == 1

    asyncio.run(cancelled())


def test_one_model_serves_the_whole_process(models: Path) -> None:
    loads: list[str] = []
    read = Rewarder._load

    def counted(self: Rewarder) -> object:
        loads.append("once")
        return read(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewarder_module.Rewarder, "_load", counted)
        scores(model(models / "chat", batch=1), ["a", "b"])
        scores(model(models / "chat", name="again"), ["c"])
    assert loads == ["once"]
