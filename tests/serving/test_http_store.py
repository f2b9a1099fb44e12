"""What the server keeps: spending is the ledger's, and forgetting reaches it too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferloom.core.types import Usage
from inferloom.store import FeedbackRow, ServedRow, Store
from tests.store.store_samples import call, run

SERVED = ServedRow(
    id="s1",
    owner="alice",
    idempotency="k",
    request="r",
    run="run-1",
    stream="s",
    status="done",
    response='{"text": "a secret"}',
    created=1.0,
    updated=2.0,
)
FEEDBACK = FeedbackRow(
    id="f1", run="run-1", score=0.5, grader="user", comment="the secret is out", owner="alice", created=3.0
)


@pytest.fixture
def store() -> Store:
    return Store.open("sqlite://")


def test_rows_come_back_as_they_were_and_a_later_one_replaces_the_earlier(store: Store) -> None:
    store.write_sync(SERVED, FEEDBACK)
    assert store.served.row("s1") == SERVED
    assert store.served.feedback("run-1") == [FEEDBACK]
    store.write_sync(replace(SERVED, status="failed", response=None))
    assert store.served.row("s1") == replace(SERVED, status="failed", response=None)
    assert store.served.row("s2") is None
    store.close()


def test_what_a_tag_has_spent_is_the_sum_of_its_calls_from_a_moment_on(store: Store) -> None:
    usage = Usage(calls=1, prompt_tokens=3, completion_tokens=2)
    store.write_sync(run("a", tag="serve:alice"), run("b", tag="serve:bob"), run("c", tag="serve:alice"))
    store.write_sync(
        call("1", "a", billed=usage, started=10.0),
        call("2", "b", billed=usage, started=10.0),
        call("3", "c", billed=usage, started=20.0),
        call("4", "c", billed=Usage(), bound=usage, outcome="unknown", started=30.0),
    )
    assert store.served.spent("serve:alice", 0).billed.tokens == 10
    late = store.served.spent("serve:alice", 15.0)
    assert (late.billed.calls, late.bound.calls) == (1, 1)
    assert store.served.spent("serve:nobody", 0).billed == Usage()
    store.close()


def test_forgetting_reaches_answers_and_remarks(store: Store) -> None:
    store.write_sync(run("run-1", question="tell me the secret"), SERVED, FEEDBACK)
    store.bank_forget("secret")
    assert store.served.row("s1") is None
    assert store.served.feedback("run-1") == [replace(FEEDBACK, comment=None)]
    store.close()
