"""Train a pocket model from scratch: `python -m inferloom.models.pocket.train --size small --out FOLDER`.

One run per size. The steps are a plain language-model loop over packed documents (`jobs.py`); at a few points the
model itself answers fresh items, and its attempts and those of its peers, judged exactly by the task families, become
what the judging jobs are taught on. The folder written loads in `transformers` and in vLLM.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from inferloom.models.pocket.jobs import (
    DIGIT_WEIGHT,
    RIGHT_DIGIT,
    WRONG_DIGIT,
    Attempt,
    Curriculum,
    Document,
    Turn,
    attempt_of,
)
from inferloom.models.pocket.tasks import Item
from inferloom.models.pocket.tokenizer import END, PAD, ROLES, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHAPES = ((480, 2), (240, 10))
"""The packed rows of a step: tokens in a row, and how many such rows; attention over short rows is cheaper."""
SAMPLE_AT = (0.1, 0.4, 0.65, 0.85)
"""The parts of the run after which the model's own attempts are drawn anew."""
SAMPLED_ITEMS, SAMPLES_EACH, SAMPLE_TEMPERATURE = 700, 4, 0.8


@dataclass(frozen=True, slots=True)
class Size:
    """What is trained, for how long, at which rate."""

    hidden: int
    layers: int
    steps: int
    rate: float
    easy_part: float = 0.4
    """The first part of the run, on easier items and mostly on solving: what cannot be solved cannot be judged."""
    solve_early: float = 0.85
    solve_late: float = 0.5
    """The shares of documents that only solve, in that part and after it."""
    doubt: int | None = None
    """The layer after which every character of an attempt must tell whether it is a mistake; None: nowhere."""


SIZES = {
    "small": Size(hidden=64, layers=3, steps=4200, rate=2e-2, easy_part=1.0, solve_early=0.76),
    "medium": Size(hidden=96, layers=4, steps=5000, rate=2e-2, easy_part=1.0, solve_early=0.76),
    "large": Size(
        hidden=96, layers=8, steps=8000, rate=1.2e-2, easy_part=0.2, solve_early=0.7, solve_late=0.35, doubt=7
    ),
}
DAMAGED = (0.8, 0.25)
"""The share of damaged solutions among the judged ones, from the beginning to the end of the run."""
DOUBT_WEIGHT, MEMORY_WEIGHT, MISTAKE_WEIGHT = 1.0, 0.1, 8.0
"""The weights of the heads beside the language model, of the memory in them, of a mistake beside what is right."""


def new_model(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of this size with fresh weights and heads of width 32."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.hidden // 32,
            num_key_value_heads=size.hidden // 32,
            intermediate_size=size.hidden * 8 // 3 // 32 * 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
        )
    )


@torch.no_grad()
def grow(model: LlamaForCausalLM, source: LlamaForCausalLM) -> None:
    """Give `model` the weights of a model of the same width and as many or fewer layers.

    Every added layer follows the one it copies and adds nothing at first (its two output matrices are zero), so that
    the grown model says what its source says. What does not divide goes on top: three layers become eight as
    1 1 2 2 3 3 3 3.
    """
    own = len(source.model.layers)
    copies = len(model.model.layers) // own
    model.model.embed_tokens.load_state_dict(source.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(source.model.norm.state_dict())
    for index, layer in enumerate(model.model.layers):
        layer.load_state_dict(source.model.layers[min(index // copies, own - 1)].state_dict())
        if index % copies or index // copies >= own:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as tokens: ids, positions, loss weights and marks of shape (n,), and who sees whom, (n, n)."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    weights: NDArray[np.float32]
    sees: NDArray[np.bool_]
    marks: NDArray[np.int8]
    """1 at a mistake, 0 at what is right, -1 where nothing is known."""


class Encoder:
    """Turns documents into tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._fast = tokenizer.backend_tokenizer
        self._end = int(tokenizer.convert_tokens_to_ids(END))
        self._roles = {role: int(tokenizer.convert_tokens_to_ids(token)) for role, token in ROLES.items()}

    def text(self, text: str) -> list[int]:
        """The token ids of a text."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def turns(self, turns: tuple[Turn, ...]) -> tuple[list[int], list[float]]:
        """The token ids of a conversation and their weights in the loss."""
        ids: list[int] = []
        weights: list[float] = []
        for turn in turns:
            content = self.text(turn.content)
            ids += [self._roles[turn.role], *content, self._end]
            weights += [0.0, *([turn.weight] * (len(content) + 1))]
        return ids, weights

    def __call__(self, document: Document) -> Encoded:
        """The document as tokens."""
        ids, weights = self.turns(document.trunk)
        positions = list(range(len(ids)))
        trunk = len(ids)
        last = document.trunk[-1]
        start = trunk - len(self.text(last.content)) - 1
        spans: list[tuple[int, int]] = []
        for branch in document.branches:
            cut = start + len(self.text(last.content[: branch.cut]))
            more, more_weights = self.turns(branch.turns)
            spans.append((cut, len(ids)))
            ids += [self._end, *more]
            weights += [0.0, *more_weights]
            positions += range(cut, cut + len(more) + 1)
        marks = np.full(len(ids), -1, dtype=np.int8)
        for place, right in self._marks(document):
            marks[place] = not right
        sees = np.tri(len(ids), dtype=np.bool_)
        ends = [*(begin for _, begin in spans[1:]), len(ids)]
        for (cut, begin), end in zip(spans, ends, strict=False):  # no branch: one end, no span
            sees[begin:end, cut:begin] = False
        return Encoded(np.array(ids), np.array(positions), np.array(weights, dtype=np.float32), sees, marks)

    def _marks(self, document: Document) -> Iterator[tuple[int, bool]]:
        """The marked tokens of the trunk: where they stand, and whether they are right."""
        turn, places = -1, [0]
        for mark in document.marks:
            if mark.turn != turn:
                turn = mark.turn
                start = sum(len(self.text(one.content)) + 2 for one in document.trunk[:turn]) + 1
                spans = self._fast.encode(document.trunk[turn].content, add_special_tokens=False).offsets
                places = [start + token for token, (begin, end) in enumerate(spans) for _ in range(begin, end)]
                places.append(start + len(spans))
            yield places[mark.at], mark.right


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: ids, positions, targets (B, T) int64; weights (B, T) float; sees (B, 1, T, T) bool; marks (B, T)."""

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    sees: torch.Tensor
    marks: torch.Tensor

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(*(getattr(self, one.name).to(device) for one in fields(self)))


def batches(curriculum: Curriculum, encoder: Encoder, pad: int) -> Iterator[tuple[Batch, ...]]:
    """Pack documents into rows, first fit, for ever: a step's batches, one of each shape."""
    (longest, _), (shorter, _) = SHAPES
    waiting: dict[bool, list[Encoded]] = {True: [], False: []}

    def fitting(room: int) -> Encoded | None:
        while len(waiting[False]) < 24:
            encoded = encoder(curriculum.document())
            long = len(encoded.ids) > shorter
            if len(encoded.ids) <= longest and len(waiting[long]) < 200:
                waiting[long].append(encoded)
        for queue in (waiting[True], waiting[False]):
            fit = next((i for i, e in enumerate(queue) if len(e.ids) <= room), None)
            if fit is not None:
                return queue.pop(fit)
        return None

    while True:
        yield tuple(_packed(fitting, length, rows, pad) for length, rows in SHAPES)


def _packed(fitting: Callable[[int], Encoded | None], length: int, rows: int, pad: int) -> Batch:
    """A batch of `rows` rows of `length` tokens, filled with what fits."""
    ids = np.full((rows, length), pad, dtype=np.int64)
    positions = np.zeros((rows, length), dtype=np.int64)
    targets = np.full((rows, length), pad, dtype=np.int64)
    weights = np.zeros((rows, length), dtype=np.float32)
    marks = np.full((rows, length), -1, dtype=np.int8)
    sees = np.broadcast_to(np.eye(length, dtype=np.bool_), (rows, 1, length, length)).copy()
    for row in range(rows):
        filled = 0
        while (e := fitting(length - filled)) is not None:
            end = filled + len(e.ids)
            ids[row, filled:end], positions[row, filled:end] = e.ids, e.positions
            targets[row, filled : end - 1], weights[row, filled : end - 1] = e.ids[1:], e.weights[1:]
            sees[row, 0, filled:end, filled:end] = e.sees
            marks[row, filled:end] = e.marks
            filled = end
    return Batch(*(torch.from_numpy(a) for a in (ids, positions, targets, weights, sees, marks)))


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], most: int = 160
) -> list[str]:
    """One answer to each rendered prompt, at the temperature of the bars."""
    texts: list[str] = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), 256):
        chosen = order[start : start + 256]
        inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        out = model.generate(
            **inputs.to(model.device), do_sample=True, temperature=SAMPLE_TEMPERATURE, top_k=0, max_new_tokens=most
        )
        decoded = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, decoded, strict=True):
            texts[i] = text
    return texts


def own_attempts(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: Random
) -> list[tuple[Item, list[Attempt]]]:
    """Fresh items with the model's attempts at them."""
    curriculum = Curriculum(rng)
    items = [curriculum.item() for _ in range(SAMPLED_ITEMS)]
    messages = [[{"role": "user", "content": item.question}] for item in items]
    for item, turns in zip(items, messages, strict=True):
        if item.notes:
            turns.insert(0, {"role": "system", "content": "\n".join(item.notes)})
    prompts = [str(tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True)) for m in messages]
    texts = sample(model, tokenizer, [p for p in prompts for _ in range(SAMPLES_EACH)])
    return [
        (item, [attempt_of(item, text) for text in texts[i * SAMPLES_EACH : (i + 1) * SAMPLES_EACH]])
        for i, item in enumerate(items)
    ]


class Trainee(torch.nn.Module):
    """A model with two heads that only training has, on two of its upper layers.

    The layer `doubt` must tell of every token whether it is a mistake. To compare a token with what was expected in its
    place, a layer must still know the token, which the layers that predict the next one forget (a linear probe found it
    again in six of ten cases): so the layer before must tell which token it stands at.
    """

    def __init__(self, model: LlamaForCausalLM, doubt: int | None) -> None:
        super().__init__()
        self.model = model
        self.layer = doubt
        width = model.config.hidden_size
        self.doubt = torch.nn.Linear(width, 1) if doubt else None
        self.memory = torch.nn.Linear(width, model.config.vocab_size) if doubt else None

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of every next token, (B, T), and the sum of the two heads' losses, over the marked tokens."""
        out = self.model(
            input_ids=batch.ids,
            attention_mask=torch.where(batch.sees, 0.0, -1e9),
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=self.layer is not None,
        )
        losses = torch.nn.functional.cross_entropy(
            out.logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
        ).view_as(batch.weights)
        if self.layer is None or self.doubt is None or self.memory is None:
            return losses, losses.new_zeros(())
        doubts = self.doubt(out.hidden_states[self.layer]).squeeze(-1).float()
        tokens = self.memory(out.hidden_states[self.layer - 1]).float()
        known = torch.nn.functional.cross_entropy(tokens.flatten(0, 1), batch.ids.flatten(), reduction="none")
        marked = (batch.marks >= 0).float()
        remembered = (known.view_as(marked) * marked).sum() / marked.sum().clamp(min=1.0)
        return losses, doubt_loss(doubts, batch.marks) + MEMORY_WEIGHT * remembered


def doubt_loss(doubts: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of telling mistakes from what is right, over the marked tokens; a mistake weighs more."""
    wrong = (marks == 1).float()
    weights = torch.where(marks < 0, 0.0, 1.0 + (MISTAKE_WEIGHT - 1.0) * wrong)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(doubts, wrong, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)


def optimizers(trainee: Trainee, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices; AdamW for the norms, the doubts and the embedding, which is the output layer too.

    A step of AdamW moves a logit by up to rate times width, hence the rate that falls with the width.
    """
    matrices = [p for n, p in trainee.model.named_parameters() if p.ndim == 2 and "embed" not in n]
    taken = {id(p) for p in matrices}
    others = [p for p in trainee.parameters() if id(p) not in taken]
    width = trainee.model.config.hidden_size
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.4 / width, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate_at(part: float) -> float:
    """The share of the full learning rate after `part` of the run: a short warm-up, then a cosine down to 2%."""
    return min(1.0, 0.01 + part / 0.04) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


@dataclass(slots=True)
class Meter:
    """The mean losses since the last line of the log: of all tokens, of the digits of the judge, of the heads."""

    started: float = field(default_factory=time.time)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    count: int = 0

    def add(self, *losses: float) -> None:
        """Take a step's losses."""
        self.sums = [a + b for a, b in zip(self.sums, losses, strict=True)]
        self.count += 1

    def minutes(self) -> float:
        """How long the run has gone on."""
        return (time.time() - self.started) / 60

    def line(self, step: int) -> str:
        """The line of the log, after which the means begin anew."""
        all_tokens, digits, heads = (value / self.count for value in self.sums)
        self.sums, self.count = [0.0, 0.0, 0.0], 0
        return f"step {step} loss {all_tokens:.4f} judge {digits:.4f} heads {heads:.4f} minutes {self.minutes():.1f}"


def step_losses(
    trainee: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    parts: Sequence[Batch],
    device: str,
    digits: torch.Tensor,
) -> tuple[float, float, float]:
    """Add a step's gradients; the losses of all tokens, of the judge's digits, of the heads."""
    weight = float(sum(part.weights.sum() for part in parts))
    whole, doubted, judged = 0.0, 0.0, list[float]()
    for part in parts:
        batch = part.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            losses, heads = trainee(batch)
        loss = (losses * batch.weights).sum() / weight
        (loss + DOUBT_WEIGHT * heads / len(parts)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        whole += float(loss.detach())
        doubted += float(heads.detach()) / len(parts)
        asked = (batch.weights == DIGIT_WEIGHT) & torch.isin(batch.targets, digits)
        judged += losses.detach()[asked].tolist()
    return whole, sum(judged) / max(1, len(judged)), doubted


def loaded(peers: list[Path]) -> list[tuple[Item, list[Attempt]]]:
    """The attempts in these files."""
    return [entry for peer in peers if peer.exists() for entry in pickle.loads(peer.read_bytes())]


def train(size_name: str, out: Path, seed: int, peers: list[Path], steps: int | None, init: Path | None) -> None:
    """Train one size, from `init`'s weights where given; write its folder, its attempts and a log."""
    torch.manual_seed(seed)
    size = SIZES[size_name]
    total = steps or size.steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer()
    model = new_model(size, tokenizer)
    if init is not None:
        grow(model, LlamaForCausalLM.from_pretrained(init, dtype=torch.float32))
    print(
        f"{size_name}: {sum(p.numel() for p in model.parameters()):,} parameters, {total} steps on {device}", flush=True
    )
    model.set_attn_implementation("eager")  # on a CPU torch's fused attention is slower at these sizes
    trainee = Trainee(model, size.doubt).to(device)
    curriculum = Curriculum(Random(seed))
    curriculum.refill(loaded(peers))
    own: list[tuple[Item, list[Attempt]]] = []
    stream = batches(curriculum, Encoder(tokenizer), int(tokenizer.convert_tokens_to_ids(PAD)))
    digits = torch.tensor(tokenizer.convert_tokens_to_ids([RIGHT_DIGIT, WRONG_DIGIT]), device=device)
    compiled = torch.compile(trainee, dynamic=False)
    tuners = optimizers(trainee, size.rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(tuner, lambda step: rate_at(step / total)) for tuner in tuners]
    sample_steps = {int(part * total) for part in SAMPLE_AT}
    meter = Meter()
    for step in range(total):
        curriculum.easier = step < size.easy_part * total
        curriculum.damaged = DAMAGED[0] + (DAMAGED[1] - DAMAGED[0]) * step / total
        curriculum.solve = size.solve_early if curriculum.easier else size.solve_late
        meter.add(*step_losses(compiled, next(stream), device, digits))
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for tuner in tuners:
            tuner.step()
            tuner.zero_grad()
        for schedule in schedules:
            schedule.step()
        if (step + 1) % 50 == 0:
            print(meter.line(step + 1), flush=True)
        if step + 1 in sample_steps:
            fresh = own_attempts(model, tokenizer, Random(f"{seed} {step}"))
            right = [a.right for _, attempts in fresh for a in attempts]
            print(f"sampled {len(right)}: {sum(right) / len(right):.1%} right", flush=True)
            own = [*fresh, *own][: 2 * SAMPLED_ITEMS]
            curriculum.refill(own + loaded(peers))
            write(model, tokenizer, out, own)
    write(model, tokenizer, out, own)
    (out / "training.json").write_text(
        json.dumps({"size": size_name, "steps": total, "seed": seed, "minutes": round(meter.minutes(), 1)})
    )


def write(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, own: list[tuple[Item, list[Attempt]]]
) -> None:
    """Save the folder in fp16 with its tokenizer, and the attempts beside it."""
    out.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "attempts.pkl").write_bytes(pickle.dumps(own))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="fewer or more steps than the size's own")
    parser.add_argument("--init", type=Path, help="a folder whose weights to go on from")
    parser.add_argument("--peer", type=Path, action="append", default=[], help="attempts.pkl of another size")
    arguments = parser.parse_args()
    train(arguments.size, arguments.out, arguments.seed, arguments.peer, arguments.steps, arguments.init)


if __name__ == "__main__":
    main()
