"""`inferloom memory` and what learns: every command, as a person would use them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from inferloom.models import embedding
from tests.cli.conftest import Cli, Done

LEARNS = """\
models: {m: "scripted:replies.yaml"}
steps:
  - recall: {memory: sums, kinds: [example]}
  - sample: {model: m}
  - curate: {memory: sums, mode: full_history}
"""


@embedding.register_embedder("lengths")
def lengths(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


@pytest.fixture(autouse=True)
def embedder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("INFERLOOM_EMBEDDER", "lengths")
    embedding.default_embedder.cache_clear()
    yield
    embedding.default_embedder.cache_clear()


@pytest.fixture
def learned(cli: Cli, folder: Path) -> Cli:
    """A memory with two entries in two versions."""
    (folder / "learn.yaml").write_text(LEARNS)
    for question in ("what is 2 times 7?", "what is 30 times 7?"):
        assert cli("run", "learn.yaml", question).code == 0
    return cli


def rows(done: Done) -> list[dict[str, object]]:
    assert done.code == 0, done.err
    return list(done.json["rows"])


def test_a_memory_is_listed_and_shown(learned: Cli) -> None:
    [one] = learned("memory", "list", "--json").json
    assert (one["name"], one["head"], one["entries"]) == ("sums", 2, 2)
    assert "sums" in learned("memory").out
    assert {row["key"] for row in rows(learned("memory", "show", "sums", "--json"))} == {
        "what is 2 times 7?",
        "what is 30 times 7?",
    }
    assert len(rows(learned("memory", "show", "sums@1", "--json"))) == 1
    assert "what is 2 times 7?" in learned("memory", "show", "sums").out
    history = learned("memory", "show", "sums", "--history")
    assert history.out.count("curated") == 2
    assert "no memories yet" in learned("memory", "--db", "sqlite:///other.db").out


def test_versions_are_compared_and_gone_back_to(learned: Cli) -> None:
    assert learned("memory", "diff", "sums@1", "sums@1").out == "no difference\n"
    found = learned("memory", "diff", "sums@1", "--json").json
    assert [entry["key"] for entry in found["added"]] == ["what is 30 times 7?"]
    assert learned("memory", "diff", "sums@1").out.startswith("+ ")
    assert learned("memory", "rollback", "sums@1", "--json").json == {"version": 3}
    assert len(rows(learned("memory", "show", "sums", "--json"))) == 1
    assert len(rows(learned("memory", "show", "sums@2", "--json"))) == 2


def test_a_fork_learns_for_itself_and_is_merged(learned: Cli) -> None:
    assert learned("memory", "fork", "sums@1", "ann/sums").code == 0
    assert learned("run", "learn.yaml", "what is 400 times 7?", "--namespace", "ann").code == 0
    assert len(rows(learned("memory", "show", "ann/sums", "--json"))) == 2
    merged = learned("memory", "merge", "sums", "ann/sums", "--json").json
    assert (merged["added"], merged["removed"]) == (1, 0)
    assert len(rows(learned("memory", "show", "sums", "--json"))) == 3


@pytest.mark.parametrize("ending", ["json", "md"])
def test_a_memory_goes_to_a_file_and_comes_back(learned: Cli, folder: Path, ending: str) -> None:
    file = f"sheet.{ending}"
    assert learned("memory", "export", "sums", file).code == 0
    assert learned("memory", "export", "sums", file).code == 2
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace("what is 2 times 7?", "ask ann@example.org"))
    brought = learned("memory", "import", file, "copy", "--json").json
    assert (brought["version"], brought["entries"], brought["masked"]) == (1, 2, 1)
    assert "ask [email]" in {row["key"] for row in rows(learned("memory", "show", "copy", "--json"))}


def test_what_is_forgotten_is_gone_from_every_version(learned: Cli) -> None:
    assert learned("memory", "forget", "30 times", "--json").json == {"forgotten": 1}
    assert len(rows(learned("memory", "show", "sums@2", "--json"))) == 1
    assert learned("memory", "forget", "--expired", "--json").json == {"forgotten": 0}
    assert learned("memory", "forget", "--memory", "sums").code == 0
    assert learned("memory", "list", "--json").json == []


def test_forgetting_in_the_bank_reaches_what_was_learned(learned: Cli) -> None:
    assert learned("bank", "forget", "30 times", "--json").json["memory_entries"] == 1
    assert [row["key"] for row in rows(learned("memory", "show", "sums", "--json"))] == ["what is 2 times 7?"]
    assert "0 memory entries" in learned("bank", "forget", "30 times").out


def test_an_online_evaluation_learns_on_a_fork_and_a_frozen_one_learns_nothing(learned: Cli) -> None:
    data = ("--data", "data.jsonl", "--limit", "10")
    assert learned("eval", "learn.yaml", *data).code == 0
    assert [one["head"] for one in learned("memory", "list", "--json").json] == [2]
    done = learned("eval", "learn.yaml", *data, "--memory", "online", "--order", "3", "--stream", "s", "--json").json
    assert sorted(item["position"] for item in done["items"]) == list(range(10))
    memories = {one["namespace"]: one for one in learned("memory", "list", "--json").json}
    assert memories["default"]["head"] == 2
    assert memories["default:eval-s/3"]["head"] == 10
    assert '"order": 3' in memories["default:eval-s/3"]["protocol"]
    said = learned("eval", "learn.yaml", *data, "--memory", "online").out
    assert "first half of the stream" in said and "learned: inferloom memory list" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "smus"], "unknown memory `smus`; did you mean `sums`?"),
        (["show", "sums@9"], "version is 9; must be from 0 to 2"),
        (["show", "sums@new"], "the version is `new`"),
        (["rollback", "sums"], "must be MEMORY@VERSION"),
        (["fork", "sums", "sums"], "is there already"),
        (["fork", "sums", "other@1"], "has no version yet"),
        (["merge", "sums", "sums"], "cannot be merged into itself"),
        (["merge", "sums@1", "sums"], "is not the newest version"),
        (["merge", "sums", "sums", "--keep", "our"], "did you mean `ours`?"),
        (["export", "sums", "a.txt"], "must end in .json or .md"),
        (["export", "sums", "no/a.md"], "the folder does not exist"),
        (["import", "no.md", "sums"], "cannot be read"),
        (["import", "p.yaml", "sums"], "no entry is in it"),
        (["import", "p.yaml", "sums@1"], "leave @ out"),
        (["forget"], "say what to forget"),
        (["forget", "ab"], "at least 3 characters"),
        (["lst"], "did you mean `list`?"),
    ],
)
def test_a_mistake_is_one_sentence(learned: Cli, arguments: list[str], said: str) -> None:
    done = learned("memory", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--memory", "onlin"], "did you mean `online`?"), (["--order", "1"], "goes with `--memory online`")],
)
def test_a_wrong_protocol_is_one_sentence(learned: Cli, options: list[str], said: str) -> None:
    done = learned("eval", "learn.yaml", "--data", "data.jsonl", *options)
    assert done.code == 2 and said in done.err
