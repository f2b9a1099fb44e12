"""The network's training, in torch. What it predicts with is in `model`, in numpy.

A trunk sees the question and gives `u`; every arm has a vector made from its features plus a small one of its own. The
log-odds of a right answer are the arm's log-odds on the mean, plus `u . v`, plus a small net of both. A second head
gives the logarithm of the cost as a multiple of the arm's mean.

Losses: the binomial likelihood of every cell that was run (`count` runs at once), and of its cost the squared error of
the logarithm; a pairwise logistic term on the pairs of arms that did not tie on a question, as EquiRouter has it (arXiv
2602.03478), since with ties labels of the best arm are mostly noise. Arm features hold the arm's success by cluster of
questions, as UniRoute has it (arXiv 2502.08773); the arms' own vectors are left out for a part of the batches, so that
an arm can do without one.

All members are trained at once, as one batched product, each on its own bootstrap sample. They start from one common
beginning, so that their weights may be averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inferloom.core.errors import SetupError

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float32]
HIDDEN, UNITS, BENT = 64, 32, 8
COMMON = 0.15
"""Of the epochs, before the members part."""
PAIRWISE, COSTS, OWN = 0.2, 0.5, 0.02
"""Weights of the pairwise term, the cost term, and the penalty on the arms' own vectors."""
DROPOUT, NO_OWN = 0.3, 0.3
RATE, DECAY = 3e-3, 0.2
MOST_RUNS = 8.0
"""Of a cell that count; more say little more about other questions."""
STEP = 256
"""Questions in a batch; for many questions twice and four times that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What the network learns from."""

    x: Matrix
    """(N, W)."""
    quality: Matrix
    """(N, A), nan where not run."""
    count: Matrix
    """(N, A)."""
    cost: Matrix
    """(N, A): the logarithm of the cost as a multiple of the arm's mean; nan where not run."""
    arms: Matrix
    """(A, F): arm features."""
    base: Matrix
    """(A): log-odds of each arm on the mean."""


def need_torch() -> None:
    """See that torch is there.

    Raises:
        SetupError: It is not.
    """
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise SetupError("training a router needs the package `torch`; run `pip install 'inferloom[router]'`")


def train_network(
    cells: Cells,
    times: NDArray[np.int64],
    watch: Cells,
    *,
    epochs: int,
    seed: int,
) -> dict[str, Matrix]:
    """Train, and give the arrays `net.*` of `model`.

    Args:
        cells: The training questions.
        times: (M, N): how often each is in each member's sample.
        watch: Held-out questions; the weights of the epoch with the least loss on them are kept.
        epochs: At most so many.
        seed: Of the beginning, the batches and the dropout.
    """
    need_torch()
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Threads cost more than they give at this size, and sums come out the same on every machine.
        torch.set_num_threads(1)
        try:
            trainer = _Trainer(cells, times, watch, epochs, seed)
            made = trainer.run()
        finally:
            torch.set_num_threads(threads)
    return _flat(made, cells)


class _Trainer:
    """One training."""

    def __init__(self, cells: Cells, times: NDArray[np.int64], watch: Cells, epochs: int, seed: int) -> None:
        import torch

        self.cells, self.epochs = cells, epochs
        self.x = torch.from_numpy(cells.x)
        self.base = torch.from_numpy(cells.base)
        self.arms = torch.from_numpy(cells.arms)
        self.weight = torch.from_numpy(np.minimum(cells.count, MOST_RUNS) * ~np.isnan(cells.quality)).float()
        self.quality = torch.from_numpy(np.nan_to_num(cells.quality))
        self.priced = torch.from_numpy((~np.isnan(cells.cost)).astype(np.float32))
        self.cost = torch.from_numpy(np.nan_to_num(cells.cost))
        self.times = torch.from_numpy(times.astype(np.float32))
        self.watch = watch
        self.rng = np.random.default_rng([seed, 23])
        self.params = self._beginning(len(times))

    def _beginning(self, members: int) -> dict[str, Tensor]:
        import torch

        width, (arms, features) = self.cells.x.shape[1], self.cells.arms.shape

        def normal(rows: int, columns: int, scale: float) -> Tensor:
            return torch.randn(rows, columns) * scale

        one = {
            "w1": normal(width, HIDDEN, (1 / width) ** 0.5),
            "b1": torch.zeros(HIDDEN),
            "w2": normal(HIDDEN, UNITS, (1 / HIDDEN) ** 0.5),
            "b2": torch.zeros(UNITS),
            "z": normal(features, UNITS, 0.1),
            "own": torch.zeros(arms, UNITS),
            "shift": torch.zeros(features, 1),
            "bias": torch.zeros(arms),
            "p": normal(UNITS, BENT, (1 / UNITS) ** 0.5),
            "q": normal(UNITS, BENT, (1 / UNITS) ** 0.5),
            "r": torch.zeros(BENT),
            "c": torch.zeros(arms, UNITS),
            "d": torch.zeros(arms),
        }
        return {name: value[None].expand(members, *value.shape).clone().requires_grad_() for name, value in one.items()}

    def run(self) -> dict[str, Matrix]:
        """Train to the end; the weights with the least loss on the watched questions."""
        import torch

        step = STEP * (1 + (len(self.x) > 4000) + 2 * (len(self.x) > 10_000))
        batches = max(1, round(len(self.x) / step))
        decayed = [self.params[name] for name in ("w1", "w2", "z", "p", "q")]
        others = [value for name, value in self.params.items() if name not in ("w1", "w2", "z", "p", "q")]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}], lr=RATE
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=self.epochs * batches + 1)
        best, kept = np.inf, self._arrays()
        for epoch in range(self.epochs):
            together = epoch < COMMON * self.epochs
            for rows in np.array_split(self.rng.permutation(len(self.x)), batches):
                optimiser.zero_grad()
                self._loss(torch.from_numpy(rows), together).backward()  # type: ignore[no-untyped-call] # torch's own
                if together:
                    # The same step for all: the mean of what each would do.
                    for value in self.params.values():
                        assert value.grad is not None
                        value.grad[:] = value.grad.mean(dim=0, keepdim=True)
                optimiser.step()
                schedule.step()
            now = self._arrays()
            loss = self._watched(now)
            if loss < best and not together:
                best, kept = loss, now
        return kept

    def _loss(self, rows: Tensor, together: bool) -> Tensor:
        import torch
        from torch.nn import functional

        params = self.params
        members = len(self.times)
        # In the common part all see all: one dropout mask, one weight.
        keep = (torch.rand(1 if together else members, 1, HIDDEN) > DROPOUT).float() / (1 - DROPOUT)
        inner = functional.gelu(torch.matmul(self.x[rows], params["w1"]) + params["b1"][:, None], approximate="tanh")
        u = functional.gelu(torch.matmul(inner * keep, params["w2"]) + params["b2"][:, None], approximate="tanh")
        own = params["own"] * float(self.rng.random() > NO_OWN)
        v = torch.matmul(self.arms, params["z"]) + own
        straight = torch.matmul(u, v.transpose(1, 2)) + self._bias(params)[:, None]
        mixed = torch.matmul(u, params["p"])[:, :, None] + torch.matmul(v, params["q"])[:, None]
        logits = straight + (functional.gelu(mixed, approximate="tanh") * params["r"][:, None, None]).sum(dim=-1)
        times = torch.ones(members, len(rows)) if together else self.times[:, rows]
        weight = times[:, :, None] * self.weight[rows]
        target = self.quality[rows].expand_as(logits)
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = (weight * each).sum() / self.weight[rows].sum().clamp(min=1)
        priced = times[:, :, None] * self.priced[rows]
        costs = torch.matmul(u, params["c"].transpose(1, 2)) + params["d"][:, None]
        loss = loss + COSTS * (priced * (costs - self.cost[rows]) ** 2).sum() / self.priced[rows].sum().clamp(min=1)
        loss = loss + PAIRWISE * self._pairs(logits, target[0], times, rows)
        return loss + OWN * (params["own"] ** 2).sum()

    def _pairs(self, logits: Tensor, target: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        from torch.nn import functional

        seen = (self.weight[rows] > 0).float()
        apart = target[:, :, None] - target[:, None, :]
        weight = apart.clamp(min=0) * seen[:, :, None] * seen[:, None, :]
        gain = logits[:, :, :, None] - logits[:, :, None, :]
        return (times[:, :, None, None] * weight * functional.softplus(-gain)).sum() / weight.sum().clamp(min=1)

    def _bias(self, params: dict[str, Tensor]) -> Tensor:
        import torch

        return self.base + torch.matmul(self.arms, params["shift"])[:, :, 0] + params["bias"]

    def _arrays(self) -> dict[str, Matrix]:
        return {name: value.detach().numpy().copy() for name, value in self.params.items()}

    def _watched(self, arrays: dict[str, Matrix]) -> float:
        from inferloom.routing.fitting import log_loss
        from inferloom.routing.model import hidden, network_logits, sigmoid

        made = _flat(arrays, self.cells)
        chances = sigmoid(network_logits(made, hidden(made, self.watch.x))).mean(axis=0)
        return log_loss(chances, self.watch.quality.astype(float), self.watch.count.astype(float))


def averaged(arrays: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """One member with the mean of the members' weights."""
    made = {name: value.mean(axis=0, keepdims=True) for name, value in arrays.items() if name.startswith("net.")}
    return made | {"net.q": made["net.v"] @ made["net.mix"]}


def _flat(params: dict[str, Matrix], cells: Cells) -> dict[str, Matrix]:
    """What `model` computes with: arms' vectors and shifts as numbers, with what makes them for a new arm."""
    v = cells.arms @ params["z"] + params["own"]
    made = {
        "w1": params["w1"],
        "b1": params["b1"],
        "w2": params["w2"],
        "b2": params["b2"],
        "v": v,
        "b": cells.base + (cells.arms @ params["shift"])[:, :, 0] + params["bias"],
        "p": params["p"],
        "q": v @ params["q"],
        "r": params["r"],
        "c": params["c"],
        "d": params["d"],
        "z": params["z"],
        "shift": params["shift"][:, :, 0],
        "mix": params["q"],
    }
    return {f"net.{name}": np.ascontiguousarray(value, dtype=np.float32) for name, value in made.items()}
