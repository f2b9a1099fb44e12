"""`inferloom router export, feedback, learn, monitor, promote, rollback`, one after the other as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferloom.store import Store
from tests.cli.conftest import Cli
from tests.support import routed


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a database that holds two versions of a router."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERLOOM_DB", f"sqlite:///{tmp_path}/w.db")
    with Store.open(str(tmp_path / "w.db")) as store:
        for seed in (0, 1):
            store.routers.add("w", *routed.trained("w", seed).to_blob())
    return tmp_path


def test_from_export_to_roll_back(kept: Path, cli: Cli) -> None:
    done = cli("router", "export", "w", "--out", "routed.yaml", "--price", "0.003", "--explore", "0.5", "--json")
    assert done.code == 0 and done.json["arms"] == ["cheap", "dear"]
    assert cli("plan", "routed.yaml", "--json").json["calls"] == [1, 3]
    assert '"cheap"' in cli("show", "routed.yaml", "--mermaid").out
    runs = [cli("run", "routed.yaml", f"{number}+5", "--json").json["run_id"] for number in range(20, 28)]
    shown = cli("runs", "show", runs[0])
    assert f"routed to  {cli('runs', 'show', runs[0], '--json').json['decisions'][0]['arm']} by w" in shown.out
    for run in runs[:5]:
        assert cli("router", "feedback", run, "1").code == 0
    assert cli("router", "feedback", runs[0], "0", "--json").json == {"run": runs[0], "score": 0.0, "decisions": 1}
    learned = cli("router", "learn", "router", "--json").json
    assert (learned["decisions"], learned["scored"]) == (8, 5)
    assert (kept / "router" / "online.safetensors").is_file()
    assert cli("run", "routed.yaml", "20+5", "--json").json["answer"] in ("cheap", "dear")
    assert "8 decisions" not in cli("router", "monitor", "router", "--json").out
    refused = cli("router", "promote", "w", "2", "--folder", "router")
    assert refused.code == 2 and "not promoted (refused)" in refused.err and refused.err.count("\n") == 1
    compared = cli("router", "promote", "w", "2", "--dry-run", "--json").json
    assert compared["promoted"] is False and compared["standing"] == "refused"
    before = (kept / "router" / "manifest.json").read_text()
    assert cli("router", "promote", "w", "2", "--force", "--folder", "router").code == 0
    assert (kept / "router" / "manifest.json").read_text() != before
    assert not (kept / "router" / "online.safetensors").exists(), "what was learned belonged to the other"
    assert cli("run", "routed.yaml", "20+5").code == 0
    assert cli("router", "rollback", "w", "--folder", "router", "--json").json == {"router": "w", "version": 1}
    assert (kept / "router" / "manifest.json").read_text() == before


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["router", "export", "x", "--out", "r.yaml"], "unknown router `x`"),
        (["router", "export", "w", "--out", "r.txt"], "must end in .yaml"),
        (["router", "feedback", "nope", "1"], "unknown run `nope`"),
        (["router", "learn", "nowhere"], "there is no router in `nowhere`"),
        (["router", "monitor", "nowhere"], "there is no router in `nowhere`"),
        (["router", "promote", "w", "1"], "is the champion already"),
        (["router", "promote", "w", "7"], "unknown version of the router `w` `7`"),
        (["router", "promote", "w", "2"], "has a score yet"),
        (["router", "rollback", "w"], "none to go back to"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(kept: Path, cli: Cli, command: list[str], told: str) -> None:
    before = sorted(path.name for path in kept.iterdir())
    done = cli(*command)
    assert done.code == 2 and told in done.err and done.err.count("\n") == 1
    assert sorted(path.name for path in kept.iterdir()) == before
