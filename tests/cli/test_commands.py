"""The other commands: what they say and the shape of their JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

JOB = """\
data: {file: data.jsonl, grader: numeric}
split: {dev: 10, confirm: 5, test: 20}
objectives: [quality, tokens]
trials: 4
batch: 2
space:
  models: {small: "scripted:replies.yaml", large: "scripted:constant"}
  steps:
    - sample: {model: {choice: [small, large]}, n: {choice: [1, 4]}}
    - vote
"""


def test_nodes_are_a_list_with_requires_provides_and_parameters(cli: Cli) -> None:
    nodes = {node["name"]: node for node in cli("nodes", "--json").json}
    assert {"sample", "vote", "score", "rank", "critique", "fuse", "best"} <= set(nodes)
    assert all({"name", "requires", "provides", "parameters"} <= set(node) for node in nodes.values())
    assert nodes["rank"]["requires"] == ["candidates"]
    assert "temperature" in {parameter["name"] for parameter in nodes["sample"]["parameters"]}
    assert [node["name"] for node in cli("nodes", "vote", "--json").json] == ["vote"]
    assert "1 to 1024" in cli("nodes", "sample").out


def test_plan_predicts_what_a_run_does(cli: Cli) -> None:
    plan = cli("plan", "p.yaml", "--json").json
    run = cli("run", "p.yaml", "how many?", "--json").json
    assert plan["calls"] == [run["usage"]["calls"]] * 2
    assert plan["at_most"]["completion_tokens"] >= run["usage"]["completion_tokens"]
    assert "4 calls" in cli("plan", "p.yaml").out


def test_plan_and_show_know_presets(cli: Cli, folder: Path) -> None:
    assert cli("plan", "archon_classic").code == 0
    drawn = cli("show", "archon_classic").out
    assert drawn.index("sample") < drawn.index("critique") < drawn.index("rank") < drawn.index("fuse")
    assert cli("show", "archon_classic", "--mermaid").out.startswith("flowchart")
    assert not (folder / "inferloom.db").exists()


def test_show_draws_loops_and_round_trips_yaml(cli: Cli, folder: Path) -> None:
    (folder / "loop.yaml").write_text(
        "models: {m: 'scripted:constant'}\n"
        "nodes: {draw: {sample: {model: m, n: 2}}, pick: vote}\n"
        "edges: [[draw, pick], {from: pick, to: draw, when: agreement < 0.5, at_most: 3}]\n"
    )
    assert "pick ⇢ draw   (if agreement < 0.5, back, at most 3x)" in cli("show", "loop.yaml").out
    (folder / "again.yaml").write_text(cli("show", "loop.yaml", "--yaml").out)
    first, second = (cli("show", name, "--json").json for name in ("loop.yaml", "again.yaml"))
    assert first["hash"] == second["hash"]


def test_eval_grades_every_item_and_counts_the_look_at_test(cli: Cli) -> None:
    done = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", "numeric", "--stream", "e", "--json")
    assert done.code == 0
    document = done.json
    assert document["score"]["n"] == len(document["items"]) == 40
    assert document["score"]["mean"] == pytest.approx(sum(item["score"] for item in document["items"]) / 40)
    assert document["usage"]["calls"] == sum(item["usage"]["calls"] for item in document["items"]) == 160
    assert document["test_touches"] == 1
    again = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", "numeric", "--stream", "e", "--json").json
    assert again["billed"]["calls"] == 0
    assert again["items"][0]["score"] == document["items"][0]["score"]
    assert again["test_touches"] == 2
    dev = cli("eval", "p.yaml", "--data", "data.jsonl", "--split", "dev", "--json").json
    assert dev["score"]["n"] < 40
    assert dev["test_touches"] == 2


def test_search_writes_report_and_winner_and_repeats_for_nothing(cli: Cli, folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB)
    first = cli("search", "job.yaml", "--name", "one", "--out", "o", "--json")
    assert first.code == 0, first.out
    study = first.json
    assert {"study", "winner", "front", "baselines", "trials", "billed"} <= set(study)
    assert {"pipeline", "dev", "test", "nominal"} <= set(study["winner"])
    assert set(study["winner"]["test"]) == {"mean", "low", "high", "n"}
    assert study["billed"]["calls"] > 0
    assert (folder / "o" / "report.html").stat().st_size > 1000
    assert (folder / "o" / "best.yaml").read_text() == study["winner"]["pipeline"]

    second = cli("search", "job.yaml", "--name", "two", "--json").json
    assert second["billed"]["calls"] == 0
    assert [entry["test"] for entry in second["front"]] == [entry["test"] for entry in study["front"]]
    assert [entry["nominal"] for entry in second["front"]] == [entry["nominal"] for entry in study["front"]]

    assert {row["study"] for row in cli("study", "--json").json} == {"one", "two"}
    assert cli("show", "one", "--json").json["winner"] == study["winner"]
    assert "winner" in cli("show", "one").out
    assert cli("show", "one", "--yaml").out == study["winner"]["pipeline"]


def test_search_stops_at_what_may_be_billed(cli: Cli, folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB)
    stopped = cli("search", "job.yaml", "--name", "s", "--max-billed", "calls=45", "--json")
    assert stopped.json["billed"]["calls"] <= 45
    assert "max_billed" in stopped.json["stopped"]
    assert cli("show", "s").code == 2
    assert cli("search", "job.yaml", "--name", "s", "--max-billed", "calls=many").code == 2


def test_models_are_listed_and_checked(cli: Cli, folder: Path) -> None:
    (folder / "models.yaml").write_text("m: scripted:constant\n")
    assert "m" in {model["name"] for model in cli("models", "--json").json}
    report = cli("models", "check", "m", "--json").json
    assert report["reachable"]
    assert {probe["name"] for probe in report["probes"]} >= {"n", "logprobs", "prefix", "seed"}
    assert cli("models", "check", "scripted:echo").code == 0


@pytest.mark.parametrize(
    "command",
    [
        *("run", "search", "eval", "plan", "show", "nodes", "init"),
        *("models list", "models check", "runs list", "runs show"),
        *("study list", "study show", "study compare", "study export", "study delete", "study resume", "study extend"),
        *("bank size", "bank prune", "bank export", "bank forget"),
        *("space list", "space show", "space count", "space sample"),
    ],
)
def test_every_command_takes_db_and_json(cli: Cli, command: str) -> None:
    helped = cli(*command.split(), "--help")
    assert helped.code == 0
    assert "--db" in helped.out
    assert "--json" in helped.out


def test_no_command_is_help(cli: Cli) -> None:
    assert "Commands" in cli().out


def test_eval_takes_a_grader_that_asks_a_model_and_reports_it_apart(cli: Cli) -> None:
    judge = "judge: {model: 'scripted:constant:A: correct'}"
    done = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", judge, "--stream", "e", "--json")
    assert done.code == 0
    assert done.json["score"]["mean"] == 1.0
    assert (done.json["usage"]["calls"], done.json["grading"]["usage"]["calls"]) == (160, 40)
    assert "grading, apart from that" in cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", judge).out
    own = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", "judge: {model: 'scripted:replies.yaml'}")
    assert own.code == 2 and "same_model" in own.err
    wrong = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", "judge: scripted")
    assert wrong.code == 2 and "must be a grader's name" in wrong.err


def test_scaling_tells_coverage_from_what_was_drawn(cli: Cli, folder: Path) -> None:
    nothing = cli("scaling", "--data", "data.jsonl", "--grader", "numeric")
    assert nothing.code == 2 and "evaluate such a pipeline" in nothing.err
    assert not (folder / "inferloom.db").exists()
    score = cli("eval", "p.yaml", "--data", "data.jsonl", "--grader", "numeric", "--stream", "e", "--json")
    assert score.code == 0
    calls = score.json["usage"]["calls"]
    done = cli("scaling", "--data", "data.jsonl", "--grader", "numeric", "--html", "s.html", "--json")
    assert done.code == 0
    (setting,) = done.json["settings"]
    assert [point["k"] for point in setting["curve"]] == [1, 2, 4]
    assert (setting["items"], setting["samples"]) == (40, 4) and calls == 160
    assert sum(item["right"] for item in setting["per_item"]) == pytest.approx(setting["curve"][0]["mean"] * 160)
    assert "<svg" in (folder / "s.html").read_text()
    table = cli("scaling", "--data", "data.jsonl", "--grader", "numeric", "--pipeline", "p.yaml").out
    assert "pass@k" in table and "never right" in table


def test_eval_tells_of_answers_that_could_not_be_graded(cli: Cli, folder: Path) -> None:
    (folder / "lacking.yaml").write_text(
        "models: {m: 'scripted:constant:import numpy'}\nsteps:\n  - sample: {model: m, n: 1}\n"
    )
    (folder / "code.jsonl").write_text('{"id": "a", "question": "q", "answer": "assert True"}\n')
    asked = ("eval", "lacking.yaml", "--data", "code.jsonl", "--grader", "code")
    done = cli(*asked)
    assert done.code == 0
    assert "1 item could not be graded and count as 0; the first, a: ungraded: " in done.out.replace("\n", " ")
    document = cli(*asked, "--json").json
    assert (document["ungraded"], document["failed"], document["score"]["mean"]) == (1, 0, 0.0)
