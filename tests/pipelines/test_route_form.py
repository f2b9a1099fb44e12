"""`route` among the steps: what it becomes, how it runs, what it costs and records, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from inferloom.core import late
from inferloom.core.errors import SpecError, UserError
from inferloom.core.routing import ROUTER_READER
from inferloom.core.types import Choice, Json, Request
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.draw import mermaid
from inferloom.pipelines.plan import plan
from inferloom.pipelines.run import Pipeline, RunResult, StreamEvent
from inferloom.pipelines.shape import Shapes
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.space import Space
from inferloom.store import Store


def seeded(request: Request, seed: int) -> str:
    """Another answer for every draw."""
    return f"A: {seed % 1000}"


SMALL = register_backend("route-small", ScriptedBackend(seeded, name="route-small"))
LARGE = register_backend("route-large", ScriptedBackend(seeded, name="route-large"))

MODELS = "models: {small: scripted:route-small, large: scripted:route-large}\n"
CHEAP = MODELS + "steps: [sample: {model: small, n: 2}]\n"
DEAR = (
    MODELS + "steps:\n  - sample: {model: small, n: 3}\n  - score: {model: large, name: judge}\n"
    "  - calibrate: {by: judge, reference: steps/0}\n  - best: {by: judge}\n"
)
ROUTED = (
    MODELS
    + """steps:
  - route:
      router: ./router
      policy: {price: 0.5}
      arms:
        cheap: [sample: {model: small, n: 2}]
        dear:
          - sample: {model: small, n: 3}
          - score: {model: large, name: judge}
          - calibrate: {by: judge, reference: steps/0/dear/0}
          - best: {by: judge}
"""
)


@dataclass
class WordCard:
    """A router that goes by a word in the question."""

    arms: Mapping[str, str | None] = field(default_factory=lambda: {"cheap": CHEAP, "dear": DEAR})
    name: str = "by a word"
    version: str = "abc"

    def check_policy(self, policy: Mapping[str, Json]) -> None:
        if set(policy) - {"price"}:
            raise UserError(f"unknown key `{next(iter(policy))}` of a policy")

    def choose(self, question: str, policy: Mapping[str, Json], rng: Random) -> Choice:
        arm = rng.choice(list(self.arms)) if "any" in question else "dear" if "hard" in question else "cheap"
        return Choice(
            arm=arm, reasons={"price": policy.get("price")}, router=self.name, version=self.version, propensity=0.75
        )


CARD = WordCard()


def read_word_card(folder: Path) -> WordCard:
    if not folder.is_dir():
        raise UserError(f"there is no router in `{folder.name}`")
    return CARD


@pytest.fixture(autouse=True)
def bound_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(late._PLACES, ROUTER_READER, f"{__name__}:read_word_card")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "router").mkdir()
    (tmp_path / "routed.yaml").write_text(ROUTED)
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/route.db") as opened:
        yield opened


async def answer(store: Store, source: Path | str, question: str, stream: str = "s", **more: Budget) -> RunResult:
    spec = PipelineSpec.load(source) if isinstance(source, Path) else PipelineSpec.parse(source, "alone.yaml")
    return await Pipeline(spec, Gateway(store)).ainvoke(question, stream=stream, **more)


def paths(store: Store, result: RunResult) -> list[str]:
    return [step.path for step in store.steps(result.run_id)]


async def test_one_arm_runs_and_the_choice_is_recorded(store: Store, folder: Path) -> None:
    easy = await answer(store, folder / "routed.yaml", "easy")
    assert paths(store, easy) == ["steps/0", "steps/0/cheap/0", "steps/0/join"]
    hard = await answer(store, folder / "routed.yaml", "hard")
    assert paths(store, hard)[1:-1] == [f"steps/0/dear/{position}" for position in range(4)]
    for result, arm in ((easy, "cheap"), (hard, "dear")):
        (decision,) = store.decisions(run=result.run_id)
        assert (decision.arm, decision.propensity, decision.reasons) == (arm, 0.75, {"price": 0.5})
        assert all(decision.created <= call.started for call in store.calls(result.run_id))


async def test_an_arm_draws_and_costs_what_its_pipeline_does_alone(store: Store, folder: Path) -> None:
    for question, text in (("easy", CHEAP), ("hard", DEAR)):
        routed = await answer(store, folder / "routed.yaml", question, "same")
        alone = await answer(store, text, question, "same")
        assert [one.text for one in routed.candidates] == [one.text for one in alone.candidates]
        assert routed.usage == alone.usage and alone.usage.calls > 0
        assert alone.billed.calls == 0, "every draw came from the bank"
        assert routed.usage == store.usage(routed.run_id).nominal


async def test_the_same_stream_decides_alike(store: Store, folder: Path) -> None:
    first = [paths(store, await answer(store, folder / "routed.yaml", "any", f"{n}"))[1] for n in range(12)]
    again = [paths(store, await answer(store, folder / "routed.yaml", "any", f"{n}"))[1] for n in range(12)]
    assert first == again and len(set(first)) == 2


async def test_who_watches_sees_the_choice_before_the_arm(store: Store, folder: Path) -> None:
    pipeline = Pipeline(PipelineSpec.load(folder / "routed.yaml"), Gateway(store))
    events: asyncio.Queue[StreamEvent] = asyncio.Queue()
    await pipeline.ainvoke("hard", events=events)
    kinds = [events.get_nowait() for _ in range(events.qsize())]
    assert kinds[0].kind == "route" and kinds[0].data["arm"] == "dear"


async def test_a_budget_that_ends_in_an_arm_gives_what_is_there(store: Store, folder: Path) -> None:
    result = await answer(store, folder / "routed.yaml", "hard", budget=Budget(calls=2))
    assert result.stopped == "budget" and result.usage.calls <= 2 and len(result.candidates) == 2


async def test_a_route_stands_among_other_steps_and_nests(store: Store, folder: Path) -> None:
    text = (
        MODELS
        + """steps:
  - sample: {model: large}
  - route:
      router: router
      arms:
        cheap:
          - parallel: [[sample: {model: small}], [sample: {model: large}]]
        dear:
          - route:
              router: router
              arms:
                cheap: [sample: {model: small}]
                dear: [sample: {model: small, n: 9}, vote]
  - vote
"""
    )
    (folder / "nested.yaml").write_text(text)
    CARD.arms = {"cheap": None, "dear": None}
    try:
        easy = await answer(store, folder / "nested.yaml", "easy")
        hard = await answer(store, folder / "nested.yaml", "hard")
        assert (easy.usage.calls, hard.usage.calls) == (3, 10)
        assert [row.arm for row in store.decisions(run=hard.run_id)] == ["dear", "dear"]
        spec = PipelineSpec.load(folder / "nested.yaml")
        assert plan(spec).calls == (2, 10), "of the arms one counts"
        assert PipelineSpec.parse(spec.to_yaml().replace("router: router", f"router: {folder}/router")).to_data()
    finally:
        CARD.arms = {"cheap": CHEAP, "dear": DEAR}


def test_plan_picture_and_normal_form_know_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PipelineSpec.load(folder / "routed.yaml")
    assert plan(spec).calls == (2, 6)
    assert '"dear"' in mermaid(spec) and '"cheap"' in mermaid(spec)
    monkeypatch.chdir(folder)
    again = PipelineSpec.parse(spec.to_yaml())
    assert again.to_data() == spec.to_data() and again.hash == spec.hash
    route = spec.to_data()["steps"][0]["route"]  # type: ignore[index, call-overload] # the form that stands there
    assert route["version"] == "abc", "another router is another pipeline"  # type: ignore[index, call-overload]


def test_a_routed_pipeline_is_a_step_wherever_the_outer_one_lies(folder: Path) -> None:
    (folder / "deep").mkdir()
    outer = folder / "deep" / "outer.yaml"
    outer.write_text(MODELS + "steps:\n  - pipeline: ../routed.yaml\n  - vote\n")
    spec = PipelineSpec.load(outer)
    assert [step.node.name for step in spec.steps][-2:] == ["join", "vote"]
    assert "router: ../router" in spec.to_yaml()


def test_a_space_may_have_holes_around_and_inside_a_route(folder: Path) -> None:
    holes = ROUTED.replace("price: 0.5", "price: {choice: [0.1, 0.9]}") + "  - optional: vote\n"
    (folder / "space.yaml").write_text(holes)
    points = Space.load(folder / "space.yaml").valid_points()
    assert points is not None and len(points) == 4


def test_documents_that_differ_in_an_arm_have_keys_of_their_own(folder: Path) -> None:
    shapes = Shapes()
    data = json.loads(json.dumps(PipelineSpec.load(folder / "routed.yaml").to_data()))
    other = json.loads(json.dumps(data))
    other["steps"][0]["route"]["arms"]["cheap"] = ["vote"]
    assert shapes.key(data) != shapes.key(other)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("./router\n", "./rooter\n", "there is no router in `rooter`"),
        ("policy: {price: 0.5}", "policy: {prise: 0.5}", "unknown key `prise` of a policy"),
        ("        cheap: [sample", "        chap: [sample", "knows no arm `chap`; did you mean `cheap`?"),
        ("        cheap: [sample: {model: small, n: 2}]\n", "", "at least two arms"),
        ("cheap: [sample: {model: small, n: 2}]", "cheap: [sample: {model: small, n: 4}]", "trained on another"),
        ("cheap: [sample: {model: small, n: 2}]", "cheap: []", "at least one step"),
        (
            "./router\n",
            "./router\n      version: old\n",
            "written for version old",
        ),
        ("policy: {price: 0.5}", "policies: 1", "unknown key `policies`"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(folder: Path, old: str, new: str, told: str) -> None:
    assert ROUTED.count(old) == 1
    (folder / "routed.yaml").write_text(ROUTED.replace(old, new))
    with pytest.raises(SpecError, match=r"routed\.yaml:") as raised:
        PipelineSpec.load(folder / "routed.yaml")
    assert told in raised.value.sentence and "\n" not in raised.value.sentence


def test_an_arm_that_the_router_may_choose_must_be_there(folder: Path) -> None:
    CARD.arms = {"cheap": CHEAP, "dear": DEAR, "third": DEAR}
    try:
        with pytest.raises(SpecError, match="may choose the arm `third`, which this pipeline has not"):
            PipelineSpec.load(folder / "routed.yaml")
    finally:
        CARD.arms = {"cheap": CHEAP, "dear": DEAR}
