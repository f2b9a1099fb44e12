"""What every search is held against: each model alone, and the plain techniques at the winner's own cost.

Sources: self-consistency, Wang et al. (arXiv 2203.11171); best-of-n, Cobbe et al. (arXiv 2110.14168). That searched
compositions often lose to self-consistency at equal cost is why it stands in every study (arXiv 2606.13003).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from inferloom.core.types import Json
from inferloom.pipelines.spec import PipelineSpec

MOST = 64
"""The most samples that a baseline may draw."""
SELF_CONSISTENCY = "self-consistency"
BEST_OF_N = "best-of-n"
_KEPT = ("model", "n", "logprobs", "stop")
"""What a baseline does not take over from the winner's `sample` step."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A pipeline that the winner is compared with."""

    label: str
    spec: PipelineSpec
    model: str
    family: str
    """`single`, `greedy`, `self-consistency` or `best-of-n`."""


class Baselines:
    """Makes baselines after the manner of a winner: the same models, prompts and sampling parameters.

    Args:
        winner: The pipeline that won.
    """

    def __init__(self, winner: PipelineSpec) -> None:
        self._winner = winner
        self._sampling = _sampling(winner)

    @property
    def models(self) -> list[str]:
        """The models that the winner's document names, used there or not."""
        return list(self._winner.models)

    def single(self, model: str) -> Baseline:
        """One call of one model."""
        return self._made(f"{model}, one call", model, "single", [self._sample(model, 1)])

    def greedy(self, model: str) -> Baseline:
        """One call of one model at temperature 0."""
        step: Json = {"sample": {**self._sampling, "model": model, "temperature": 0.0}}
        return self._made(f"{model}, one call, greedy", model, "greedy", [step])

    def self_consistency(self, model: str, n: int) -> Baseline:
        """The most common answer of n."""
        steps: list[Json] = [self._sample(model, n), "vote"]
        return self._made(f"{SELF_CONSISTENCY}, {model}, n = {n}", model, SELF_CONSISTENCY, steps)

    def best_of_n(self, model: str, n: int) -> Baseline:
        """The answer of n to which the same model, as a judge, gives the highest score."""
        steps: list[Json] = [
            self._sample(model, n),
            {"score": {"model": model, "name": "judge"}},
            {"best": {"by": "judge"}},
        ]
        return self._made(f"{BEST_OF_N}, {model}, n = {n}", model, BEST_OF_N, steps)

    def _sample(self, model: str, n: int) -> Json:
        return {"sample": {**self._sampling, "model": model, "n": n}}

    def _made(self, label: str, model: str, family: str, steps: list[Json]) -> Baseline:
        models = self._winner.to_data()["models"]
        assert isinstance(models, dict), "a checked pipeline names its models in a mapping"
        document: dict[str, Json] = {"models": {model: models[model]}, "steps": steps}
        spec = PipelineSpec.from_data(like(self._winner, document, "prompts", "answer"), f"baseline `{label}`")
        return Baseline(label, spec, model, family)


def like(winner: PipelineSpec, document: dict[str, Json], *keys: str) -> dict[str, Json]:
    """A pipeline's document with what it takes over from a winner's, where the winner's says it."""
    data = winner.to_data()
    taken = {key: data[key] for key in keys if key in data}
    if "prompts" in taken:
        # As the winner resolved it: a relative path means another file here.
        taken["prompts"] = winner.prompts
    return {**taken, **document}


async def matched_n(tokens: Callable[[int], Awaitable[float]], target: float) -> int:
    """The n whose tokens come closest to the target, found with a few measurements.

    Args:
        tokens: Measures the mean nominal tokens of a baseline with n samples; grows with n, about linearly.
        target: The winner's mean nominal tokens.

    Returns:
        From 1 to `MOST`.
    """
    measured = {1: await tokens(1)}
    guess = 2
    # Costs are a line bent a little (equal candidates are judged once): each step draws the line through what is known.
    for _ in range(4):
        if measured[1] >= target or guess in measured:
            break
        measured[guess] = await tokens(guess)
        slope = (measured[guess] - measured[1]) / (guess - 1)
        if slope <= 0:
            break
        guess = max(2, min(MOST, round(1 + (target - measured[1]) / slope)))
    return min(measured, key=lambda n: (abs(measured[n] - target), n))


def _sampling(winner: PipelineSpec) -> dict[str, Json]:
    """The sampling parameters of the winner's first `sample` step; empty where it has none."""
    for step in winner.steps:
        if step.node.name == "sample" and isinstance(step.raw, dict):
            written = step.raw["sample"]
            if isinstance(written, dict):
                return {key: value for key, value in written.items() if key not in _KEPT}
    return {}
