"""A routed system at work: it moves as a whole, decides alike, learns from late scores, changes hands by records."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from inferloom.core.errors import DataError, InferloomError, SetupError, SpecError
from inferloom.core.types import Usage
from inferloom.models.client import Gateway
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.routing.card import RouterCard, arm_names, read_card
from inferloom.routing.explore import Explore
from inferloom.routing.export import export_system
from inferloom.routing.online import Online, served_outcomes
from inferloom.routing.outcomes import merged, names_arm
from inferloom.routing.policy import Policy
from inferloom.routing.promotion import card_of, monitor, promote, roll_back, shadow
from inferloom.routing.router import Manifest, Router
from inferloom.store import FeedbackRow, Store
from inferloom.store.decisions import Decided
from inferloom.store.rows import DecisionRow
from tests.support import routed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "work.db")) as opened:
        yield opened


def served(
    card: RouterCard, count: int, *, dear: float = 0.9, share: float = 0.3, seed: int = 0, cost: float = 1.0
) -> list[Decided]:
    """Decisions of a router with their scores, as the database would give them, without running anything."""
    rng, records = Random(seed), []
    policy = {"price": 0.003, "explore": {"share": share, "random": share / 2, "extra": 10}}
    for number in range(count):
        text = routed.question(rng, hard=number % 2 == 1)
        choice = card.choose(text, policy, rng)
        chance = dear if choice.arm == "dear" else routed.chance("cheap", text)
        row = DecisionRow(
            id=str(number),
            router=choice.router,
            version=choice.version,
            run=str(number),
            query="",
            arm=choice.arm,
            propensity=choice.propensity,
            explored=choice.explored,
            reasons=choice.reasons,
            created=float(number),
        )
        usage = Usage(completion_tokens=round(routed.COSTS[choice.arm] * cost))
        records.append(Decided(row, text, "done", float(rng.random() < chance), usage))
    return records


async def test_the_pair_runs_from_anywhere(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    routed.exported(tmp_path / "made", price=0.003)
    shutil.move(tmp_path / "made", tmp_path / "moved")
    monkeypatch.chdir("/")
    pipeline = Pipeline(PipelineSpec.load(tmp_path / "moved" / "routed.yaml"), Gateway(store))
    easy = await pipeline.ainvoke("12+34", stream="a")
    hard = await pipeline.ainvoke("sort the words cat bee ant dog fox fox", stream="a")
    assert (easy.answer, easy.usage.calls) == ("cheap", 1)
    assert (hard.answer, hard.usage.calls) == ("dear", 3)
    (decision,) = store.decisions(run=hard.run_id)
    assert decision.propensity == 1 and not decision.explored
    assert decision.version == read_card(tmp_path / "moved" / "router").version
    assert "sort the words" not in json.dumps(dict(decision.reasons)), "reasons hold no question"


async def test_what_is_tried_out_depends_on_the_stream_alone(store: Store, tmp_path: Path) -> None:
    path = routed.exported(tmp_path, price=0.003, explore={"share": 0.4, "random": 0.4, "extra": 10})
    pipeline = Pipeline(PipelineSpec.load(path), Gateway(store))
    rounds = [[(await pipeline.ainvoke("12+34", stream=str(n))).answer for n in range(30)] for _ in range(2)]
    assert rounds[0] == rounds[1] and set(rounds[0]) == {"cheap", "dear"}
    explored = [row for row in store.decisions("small-world") if row.explored]
    assert explored and all(row.propensity == pytest.approx(0.2, abs=0.01) for row in explored)


def test_nothing_is_tried_out_on_questions_with_a_bypass_tag() -> None:
    online = Online(routed.trained())
    explore = Explore(share=0.9, random=0.9, extra=10, bypass=("private",))
    taken = [online.choose("12+34", Policy(lam=0.003), explore, Random(seed), "private") for seed in range(40)]
    assert all(not one.explored and one.chances.max() == 1 for one in taken)
    others = [online.choose("12+34", Policy(lam=0.003), explore, Random(seed), "open") for seed in range(40)]
    assert any(one.explored for one in others)


def test_a_hard_limit_of_cost_holds_for_what_is_tried_out_too() -> None:
    online = Online(routed.trained())
    explore = Explore(share=1.0, random=1.0, extra=10)
    capped = Policy(lam=0.0, max_cost=20.0)
    assert {online.choose("sort the words ant bee", capped, explore, Random(seed)).arm for seed in range(40)} == {0}


def test_late_scores_correct_the_router_and_a_missing_one_is_not_zero(tmp_path: Path) -> None:
    routed.exported(tmp_path)
    card = read_card(tmp_path / "router")
    online = Online.load(tmp_path / "router")
    # The dear arm has become bad, and half of the scores never came.
    records = [
        record._replace(score=None if number % 4 > 1 else record.score)
        for number, record in enumerate(served(card, 800, dear=0.1))
    ]
    scored = online.learn(records, list(card.ids))
    assert scored == sum(record.score is not None for record in records)
    online.save(tmp_path / "router")
    again = read_card(tmp_path / "router").online
    before, about = again.describe(["sort the words ant bee cat dog eel fox"])
    after, _ = again.corrected(before, about)
    assert before.quality[0, 1] > 0.8 and after.quality[0, 1] < 0.4
    assert after.quality[0, 0] == pytest.approx(before.quality[0, 0], abs=0.12)
    nothing = Online.load(tmp_path / "router")
    nothing.learn([record._replace(score=None) for record in records], list(card.ids))
    unchanged, _ = nothing.corrected(before, about)
    assert unchanged.quality == pytest.approx(before.quality)


def test_scored_decisions_are_training_data_with_their_propensity(tmp_path: Path) -> None:
    routed.exported(tmp_path, price=0.003)
    card = read_card(tmp_path / "router")
    records = [
        record._replace(score=record.score if number % 3 else None) for number, record in enumerate(served(card, 300))
    ]
    made = served_outcomes(card.online.router, records, list(card.ids))
    assert [arm.id for arm in made.arms] == ["c" * 16, "d" * 16]
    assert int(made.count.sum()) == 200 and made.propensity is not None
    seen = made.propensity[made.observed]
    assert seen.min() < 0.3 and seen.max() > 0.7
    both = merged([routed.outcomes(), made])
    assert len(both) == 300 + len(made), "learned from together"


def test_what_was_learned_for_another_router_is_refused(tmp_path: Path) -> None:
    routed.exported(tmp_path)
    Online.load(tmp_path / "router").save(tmp_path / "router")
    path = tmp_path / "router" / "online.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="does not belong to this router or is damaged"):
        Online.load(tmp_path / "router")


def test_monitors_see_costs_and_quality_move(tmp_path: Path) -> None:
    routed.exported(tmp_path, price=0.003)
    card = read_card(tmp_path / "router")
    sound = {(one.monitor, one.about) for one in monitor(card, served(card, 600)) if one.alarm}
    assert not sound & {("cusum", "dear"), ("cost", "dear"), ("cost", "cheap")}
    moved = {(one.monitor, one.about) for one in monitor(card, served(card, 600, dear=0.3, cost=2)) if one.alarm}
    assert {("cusum", "dear"), ("cost", "dear"), ("cost", "cheap")} <= moved


def _kept(store: Store) -> None:
    """Two versions: one that always takes the dear arm, and one that was trained."""
    good = routed.trained()
    policy = {**good.manifest.policy, "lam": 0.003}
    told = {**good.manifest.to_json(), "policy": policy}
    poor = {**told, "policy": {**policy, "default": "d" * 16, "allowed": ["d" * 16]}}
    for manifest in (poor, told):
        store.routers.add(
            "w", *Router(Manifest.from_json(json.loads(json.dumps(manifest)), "x"), good.arrays).to_blob()
        )


def test_a_challenger_takes_over_only_by_records_and_can_be_taken_back(store: Store, tmp_path: Path) -> None:
    _kept(store)
    champion, challenger = (card_of(store, store.routers.get("w", version)) for version in (1, 2))
    # What was served knows both arms: it tried them out.
    wide = served(card_of(store, store.routers.get("w", 2)), 3000, share=0.9)
    found = shadow(champion, challenger, wide)
    assert found.verdict.promote, found.verdict.why
    assert found.scored == 3000
    assert found.verdict.difference is not None
    gain = found.challenger.doubly_robust - found.champion.doubly_robust
    assert gain == pytest.approx(found.verdict.difference.mean) and found.champion.unsupported == 0
    assert json.loads(json.dumps(found.to_json()))["challenger"]["ess"] == found.challenger.ess
    folder = tmp_path / "router"
    promote(store, "w", 2, found, folder)
    assert store.routers.get("w").version == 2 and read_card(folder).version == challenger.version
    assert roll_back(store, "w", folder).version == 1
    assert store.routers.get("w").version == 1 and read_card(folder).version == champion.version
    back = shadow(challenger, champion, wide)
    with pytest.raises(SetupError, match=r"not promoted \(worse\)"):
        promote(store, "w", 1, back, folder)


def test_no_verdict_from_records_that_tried_nothing_out(store: Store) -> None:
    _kept(store)
    champion, challenger = (card_of(store, store.routers.get("w", version)) for version in (1, 2))
    narrow = served(champion, 600, share=0.0)
    found = shadow(champion, challenger, narrow)
    assert found.verdict.standing == "refused" and "no chance" in found.verdict.why
    with pytest.raises(SetupError, match=r"not promoted \(refused\)"):
        promote(store, "w", 2, found, None)
    assert store.routers.get("w").version == 1, "nothing was changed"
    with pytest.raises(DataError, match="has a score yet"):
        shadow(champion, challenger, [record._replace(score=None) for record in narrow])
    with pytest.raises(SetupError, match="none to go back to"):
        roll_back(store, "w", None)


async def test_scores_come_from_feedback_on_the_run_or_on_the_decision(store: Store, tmp_path: Path) -> None:
    path = routed.exported(tmp_path, price=0.003)
    pipeline = Pipeline(PipelineSpec.load(path), Gateway(store))
    runs = [(await pipeline.ainvoke(f"{number}+1")).run_id for number in range(10, 13)]
    decisions = {row.run: row for row in store.decisions("small-world")}

    def score(run: str, value: float, decision: str | None = None) -> FeedbackRow:
        return FeedbackRow(
            id=f"{run}{value}", run=run, decision=decision, score=value, grader="test", owner="", created=time.time()
        )

    await store.write(score(runs[0], 1.0), score(runs[0], 0.5), score(runs[1], 0.25, decisions[runs[1]].id))
    found = {record.decision.run: record for record in store.decided("small-world")}
    assert [found[run].score for run in runs] == [0.75, 0.25, None]
    assert all(found[run].usage == store.usage(run).nominal for run in runs)
    assert [row.score for row in store.served.feedback(runs[0])] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"prize": 1}, "unknown key `prize` of a policy"),
        ({"price": -1}, "`price` of a policy must be a number from 0"),
        ({"default": "chaep"}, "did you mean `cheap`"),
        ({"allowed": []}, "`allowed` must be a list of arms"),
        ({"cost_factor": {"dear": "half"}}, "`cost_factor.dear` of a policy must be a number"),
        ({"explore": {"shair": 0.1}}, "unknown key `shair` of `explore`"),
        ({"explore": {"share": 2}}, "`share` is 2"),
        ({"explore": {"bypass": ["x"]}}, "unknown key `bypass` of `explore`"),
        ({"unfamiliar": "no"}, "must be true or false"),
    ],
)
def test_a_wrong_policy_is_one_sentence(tmp_path: Path, policy: dict[str, object], told: str) -> None:
    routed.exported(tmp_path)
    with pytest.raises(SpecError) as raised:
        read_card(tmp_path / "router").check_policy(policy)  # type: ignore[arg-type] # plain JSON
    assert told in raised.value.sentence


def test_a_policy_names_arms_as_the_pipeline_does(tmp_path: Path) -> None:
    routed.exported(tmp_path)
    weighed, explore = read_card(tmp_path / "router").policy(
        {"price": 0.5, "default": "dear", "allowed": ["dear"], "cost_factor": {"dear": 2}, "explore": True}
    )
    assert (weighed.lam, weighed.default, weighed.allowed) == (0.5, "d" * 16, ("d" * 16,))
    assert dict(weighed.cost_factor) == {"d" * 16: 2.0} and explore is not None


def test_names_of_arms_are_plain_and_apart() -> None:
    names = arm_names([("a" * 16, "small, vote of 4"), ("b" * 16, "x/y"), ("c" * 16, "x y"), ("d" * 16, "ok")])
    assert list(names) == ["small-vote-of-4", "x-y-bbbbbbbb", "x-y-cccccccc", "ok"]


@pytest.mark.parametrize("break_it", ["gone", "json", "weights"])
def test_a_router_that_is_not_there_or_corrupt_is_one_error(tmp_path: Path, break_it: str) -> None:
    path = routed.exported(tmp_path)
    manifest = tmp_path / "router" / "manifest.json"
    if break_it == "gone":
        shutil.rmtree(tmp_path / "router")
    elif break_it == "json":
        manifest.write_text("{")
    else:
        weights = tmp_path / "router" / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InferloomError) as raised:
        spec = PipelineSpec.load(path)
        card = read_card(tmp_path / "router")
        card.choose("1+1", {}, Random(0))
        assert spec
    assert "\n" not in raised.value.sentence and "router" in raised.value.sentence


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    router = routed.trained()
    outside = Router(
        Manifest.from_json(
            {**router.manifest.to_json(), "arms": [_plain(names_arm("a")), _plain(names_arm("b"))]}, "x"
        ),
        router.arrays,
    )
    with pytest.raises(DataError, match="comes from outside results"):
        export_system(outside, tmp_path / "r.yaml", tmp_path / "router")
    with pytest.raises(SetupError, match="moved together"):
        export_system(router, tmp_path / "r.yaml", tmp_path.parent / "elsewhere")
    assert list(tmp_path.iterdir()) == []
    routed.exported(tmp_path)
    with pytest.raises(SetupError, match="exists already"):
        routed.exported(tmp_path)


def _plain(arm: object) -> dict[str, object]:
    return {"id": arm.id, "label": arm.label, "yaml": None, "features": {}}


def test_forgetting_a_question_empties_what_its_decision_says(store: Store, tmp_path: Path) -> None:
    path = routed.exported(tmp_path, price=0.003)
    pipeline = Pipeline(PipelineSpec.load(path), Gateway(store))
    run = pipeline.invoke("77+11").run_id
    store.write_sync(FeedbackRow(id="f", run=run, score=1.0, grader="g", comment="about 77+11", owner="", created=0.0))
    store.bank_forget("77+11")
    (decision,) = store.decisions(run=run)
    assert (decision.query, dict(decision.reasons)) == ("", {}) and decision.propensity == 1
    assert store.served.feedback(run)[0].comment is None
    assert np.isfinite(store.decided("small-world")[0].usage.usd)
