"""The client's promises: the bank is shared, nothing is asked for twice, every call is in the ledger, budgets hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from inferloom.core.errors import (
    BudgetExceededError,
    ConnectionCutError,
    RateLimitedError,
    RequestRejectedError,
    ServerFaultError,
    StorageError,
)
from inferloom.core.protocols import Capabilities
from inferloom.core.types import Completion, Message, Request, Usage, total
from inferloom.models import retry
from inferloom.models.budget import Budget
from inferloom.models.client import Gateway, OpenModel, RunClient
from inferloom.models.scripted import ALL, Reply, ScriptedBackend
from inferloom.models.spec import ModelSpec
from inferloom.store import Address, Store

SINGLE = Capabilities(logprobs=True, prefix=True, seed=True, structured=True)


def random_words(request: Request, seed: int) -> str:
    return f"word{seed % 1000} A: {seed % 7}"


class Bench:
    """A store, a model and runs on it."""

    def __init__(
        self, store: Store, reply: Reply = random_words, capabilities: Capabilities = ALL, latency: float = 0
    ) -> None:
        self.backend = ScriptedBackend(reply, capabilities=capabilities, latency=latency)
        price = {"input": 1.0, "output": 2.0}
        self.spec = ModelSpec.parse({"model": "scripted:test", "price": price, "retries": 4})
        self.gateway = Gateway(store)
        self.model = OpenModel(self.spec, self.backend)
        self.store = store
        self._runs = 0

    async def run(
        self,
        stream: str = "s",
        budget: Budget | None = None,
        lanes: dict[str, int] | None = None,
        gateway: Gateway | None = None,
    ) -> RunClient:
        self._runs += 1
        client = RunClient(
            gateway or self.gateway,
            {"m": self.model},
            run=f"run{self._runs}",
            stream=stream,
            budget=budget,
            lanes=lanes,
        )
        await client.prepare()
        return client

    def drawn(self) -> int:
        return sum(len(served.seeds) for served in self.backend.served)


@pytest.fixture
def store(tmp_path: object) -> Iterator[Store]:
    with Store.open(f"{tmp_path}/client.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts are noted, not slept."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(retry, "sleep", note)
    return waits


def ask(text: str = "what?", n: int = 1) -> Request:
    return Request(messages=(Message("user", text),), n=n, max_tokens=20)


def texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def assert_ledger_agrees(store: Store, client: RunClient) -> None:
    store.flush()
    report = store.usage(client.run)
    for name, usages, summed in (
        ("nominal", client.nominal, report.nominal),
        ("billed", client.billed, report.billed),
        ("bound", client.bound, report.bound),
    ):
        expected = total(usages.values())
        for field in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens"):
            assert getattr(expected, field) == getattr(summed, field), (name, field)
        assert expected.usd == pytest.approx(summed.usd)


async def test_asking_for_16_where_8_are_banked_generates_8(store: Store) -> None:
    bench = Bench(store)
    first = await bench.run()
    eight = texts(await first.generate("m", ask(n=8), path="a"))
    second = await bench.run()
    sixteen = texts(await second.generate("m", ask(n=16), path="a"))
    assert sixteen[:8] == eight
    assert len(set(sixteen)) == 16
    assert bench.drawn() == 16
    assert second.nominal["m"].calls == 16
    assert second.billed["m"].completion_tokens == first.billed["m"].completion_tokens
    assert_ledger_agrees(store, first)
    assert_ledger_agrees(store, second)


async def test_two_nodes_that_ask_the_same_get_different_draws_and_a_second_run_the_same_ones(store: Store) -> None:
    bench = Bench(store)
    answers = []
    for _ in range(2):
        run = await bench.run()
        answers.append([texts(await run.generate("m", ask(n=2), path=path)) for path in ("a", "b")])
    assert answers[0] == answers[1]
    assert set(answers[0][0]).isdisjoint(answers[0][1])
    assert bench.drawn() == 4
    assert total(run.billed.values()) == Usage()
    assert run.nominal["m"].calls == 4


async def test_another_stream_gets_fresh_draws(store: Store) -> None:
    bench = Bench(store)
    here = texts(await (await bench.run("one")).generate("m", ask(n=4), path="a"))
    there = texts(await (await bench.run("two")).generate("m", ask(n=4), path="a"))
    assert set(here).isdisjoint(there)


async def test_parallel_twins_draw_the_same_whoever_comes_first(store: Store) -> None:
    bench = Bench(store)
    lanes = {"left": 0, "right": 1}
    drawn = []
    for order in (("left", "right"), ("right", "left")):
        run = await bench.run(lanes=lanes)
        drawn.append({path: texts(await run.generate("m", ask(n=3), path=path)) for path in order})
    assert drawn[0] == drawn[1]
    assert bench.drawn() == 6


async def test_an_identical_call_in_flight_is_joined(store: Store) -> None:
    bench = Bench(store, latency=0.05)
    runs = [await bench.run() for _ in range(5)]
    answers = await asyncio.gather(*(run.generate("m", ask(n=4), path="a") for run in runs))
    assert len({tuple(texts(answer)) for answer in answers}) == 1
    assert bench.drawn() == 4
    assert sum(run.billed["m"].calls for run in runs) == 1
    assert all(run.nominal["m"].calls == 4 for run in runs)
    for run in runs:
        assert_ledger_agrees(store, run)


async def test_a_call_that_ends_while_a_slow_database_is_read_is_not_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = store.banked

    async def slowly(address: Address, indices: Sequence[int]) -> dict[int, Completion]:
        found = await at_once(address, indices)
        await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(store, "banked", slowly)
    bench = Bench(store, latency=0.01)
    first, second = await bench.run(), await bench.run()
    flying = asyncio.create_task(first.generate("m", ask(n=3), path="a"))
    # The second looks before the first's call has ended, and hears of nothing until after that.
    await asyncio.sleep(0.03)
    assert texts(await second.generate("m", ask(n=3), path="a")) == texts(await flying)
    assert bench.drawn() == 3


async def test_whoever_joined_a_call_that_is_cancelled_makes_its_own(store: Store) -> None:
    bench = Bench(store, latency=0.1)
    owner, joiner = await bench.run(), await bench.run()
    flying = asyncio.create_task(owner.generate("m", ask(n=2), path="a"))
    await asyncio.sleep(0.02)
    joined = asyncio.create_task(joiner.generate("m", ask(n=2), path="a"))
    await asyncio.sleep(0.02)
    flying.cancel()
    assert len(await joined) == 2
    with pytest.raises(asyncio.CancelledError):
        await flying
    store.flush()
    (row,) = store.calls(owner.run)
    assert row.outcome == "unknown"
    assert row.bound.completion_tokens == 2 * 20
    assert_ledger_agrees(store, owner)
    assert_ledger_agrees(store, joiner)


async def test_n_is_emulated_by_calls_that_are_all_metered(store: Store) -> None:
    bench = Bench(store, capabilities=SINGLE)
    run = await bench.run()
    completions = await run.generate("m", ask(n=4), path="a")
    assert len(set(texts(completions))) == 4
    assert len(bench.backend.served) == 4
    assert run.billed["m"].calls == 4
    assert run.billed["m"].prompt_tokens == 4 * run.nominal["m"].prompt_tokens
    assert_ledger_agrees(store, run)


async def test_a_reply_with_too_few_choices_is_followed_by_a_call_for_the_rest(store: Store) -> None:
    bench = Bench(store)
    whole = bench.backend.generate

    async def stingy(request: Request, seeds: list[int], on_token: object = None) -> list[Completion]:
        return (await whole(request, seeds))[:3]

    bench.backend.generate = stingy  # type: ignore[method-assign, assignment]  # a server that gives at most three
    run = await bench.run()
    assert len(set(texts(await run.generate("m", ask(n=8), path="a")))) == 8
    assert [len(served.seeds) for served in bench.backend.served] == [8, 5, 2]
    assert_ledger_agrees(store, run)


async def test_failures_are_retried_and_stand_in_the_ledger(store: Store, no_waiting: list[float]) -> None:
    failures = [RateLimitedError("slow down", retry_after=7.5), ServerFaultError("500"), ConnectionCutError("cut")]

    def failing(request: Request, seed: int) -> str:
        if failures:
            raise failures.pop(0)
        return "A: 1"

    bench = Bench(store, failing)
    run = await bench.run()
    await run.generate("m", ask(), path="a")
    assert no_waiting[0] >= 7.5
    store.flush()
    rows = store.calls(run.run)
    assert [row.outcome for row in rows] == ["failed", "failed", "unknown", "ok"]
    assert [row.completions for row in rows] == [0, 0, 0, 1]
    assert rows[2].bound.completion_tokens == 20
    assert [row.nominal.calls for row in rows] == [0, 0, 0, 1]
    assert_ledger_agrees(store, run)


async def test_a_400_is_never_retried(store: Store) -> None:
    def refuse(request: Request, seed: int) -> str:
        raise RequestRejectedError("no such parameter")

    bench = Bench(store, refuse)
    run = await bench.run()
    with pytest.raises(RequestRejectedError):
        await run.generate("m", ask(), path="a")
    assert len(bench.backend.served) == 1
    store.flush()
    assert [row.outcome for row in store.calls(run.run)] == ["failed"]


async def test_a_budget_gives_what_fits_and_says_so(store: Store) -> None:
    bench = Bench(store)
    run = await bench.run(budget=Budget(calls=5))
    with pytest.raises(BudgetExceededError) as caught:
        await run.generate("m", ask(n=8), path="a")
    assert len(caught.value.received) == 5
    assert caught.value.limit == "calls"
    with pytest.raises(BudgetExceededError) as caught:
        await run.generate("m", ask(), path="a")
    assert caught.value.received == ()
    assert bench.drawn() == 5
    assert_ledger_agrees(store, run)


@pytest.mark.parametrize("budget", [Budget(tokens=150), Budget(usd=0.0002), Budget(calls=7), Budget(seconds=0.6)])
async def test_no_limit_is_passed_by_concurrent_calls(store: Store, budget: Budget) -> None:
    bench = Bench(store, latency=0.001)
    run = await bench.run(budget=budget)
    results = await asyncio.gather(
        *(run.generate("m", ask(f"question {i}", n=2), path="a") for i in range(12)), return_exceptions=True
    )
    stopped = [result for result in results if isinstance(result, BudgetExceededError)]
    assert 0 < len(stopped) < 12
    for name, limit in budget.limits().items():
        spent = run.nominal["m"]
        measured = {"tokens": spent.tokens, "usd": spent.usd, "calls": spent.calls, "seconds": spent.seconds}[name]
        assert 0 < measured <= limit


async def test_max_billed_counts_calls_and_leaves_the_bank_free(store: Store) -> None:
    bench = Bench(store)
    await (await bench.run()).generate("m", ask(n=3), path="a")
    capped = Gateway(store, max_billed=Budget(tokens=1))
    again = await bench.run(gateway=capped)
    assert len(await again.generate("m", ask(n=3), path="a")) == 3
    with pytest.raises(BudgetExceededError, match="max_billed tokens"):
        await again.generate("m", ask(n=3), path="a")


async def test_a_store_that_takes_no_writes_stops_every_call(store: Store) -> None:
    bench = Bench(store)
    run = await bench.run()
    await run.generate("m", ask(), path="a")
    store.close()
    with pytest.raises(StorageError):
        await run.generate("m", ask("another"), path="a")
    assert bench.drawn() == 1


async def test_cached_tokens_come_from_prompts_of_nodes_before(store: Store) -> None:
    bench = Bench(store)
    client = RunClient(
        bench.gateway, {"m": bench.model}, run="r", stream="s", before={"b": frozenset({"a"}), "c": frozenset()}
    )
    await client.prepare()
    long = "word " * 100
    await client.generate("m", ask(long), path="a")
    assert client.nominal["m"].cached_tokens == 0
    await client.generate("m", ask(long + "more"), path="b")
    after_b = client.nominal["m"].cached_tokens
    assert 80 <= after_b <= 101
    await client.generate("m", ask(long + "else"), path="c")
    assert client.nominal["m"].cached_tokens == after_b
