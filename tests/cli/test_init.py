"""`init`: three files that run, or nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from inferloom.models.spec import ModelSpec
from inferloom.pipelines.modelfile import load_models
from inferloom.pipelines.spec import PipelineSpec
from inferloom.search.job import load_job
from tests.cli.conftest import Cli

FILES = ["models.yaml", "pipeline.yaml", "search.yaml"]


def test_what_it_writes_runs(cli: Cli, folder: Path) -> None:
    done = cli("init", "new", "--model", "m=scripted:constant", "--data", "data.jsonl", "--json")
    assert done.code == 0
    assert done.json["files"] == [f"new/{name}" for name in FILES]
    assert done.json["items"] == 40
    assert sorted(path.name for path in (folder / "new").iterdir()) == FILES
    assert cli("plan", "new/pipeline.yaml", "--json").json["calls"] == [5, 5]
    assert cli("run", "new/pipeline.yaml", "hi", "--json").json["answer"] == "1"
    result = cli("search", "new/search.yaml", "--name", "s", "--out", "new", "--json")
    assert result.code == 0, result.out
    assert result.json["winner"]["test"]["mean"] == 1.0


def test_options_reach_the_files(cli: Cli, folder: Path) -> None:
    (folder / "my.csv").write_text("Frage,Ziel\n" + "".join(f"was ist {i}?,Wort {i}\n" for i in range(30)))
    done = cli(
        *("init", "--model", "a=openai:x", "--model", "b=openai:y", "--base-url", "http://127.0.0.1:1/v1"),
        *("--key", "b=B_KEY", "--price", "a=0.5/1.5", "--data", "my.csv", "--question", "Frage", "--answer", "Ziel"),
    )
    assert done.code == 0, done.err
    models = load_models(folder / "models.yaml")
    assert models["a"] == ModelSpec.parse(
        {"model": "openai:x", "base_url": "http://127.0.0.1:1/v1", "price": {"input": 0.5, "output": 1.5}}
    )
    assert (models["b"].base_url, models["b"].key, models["b"].price) == ("http://127.0.0.1:1/v1", "B_KEY", None)
    assert PipelineSpec.load(folder / "pipeline.yaml").models == dict(models)
    data = load_job(folder / "search.yaml").spec.data
    assert (data.file, data.fields, data.grader) == ("my.csv", {"question": "Frage", "answer": "Ziel"}, "exact")


def test_numbers_are_graded_as_numbers_and_fields_guessed(cli: Cli, folder: Path) -> None:
    (folder / "n.csv").write_text("Prompt,Target\n" + "".join(f"what is {i}+1?,{i + 1}\n" for i in range(30)))
    assert cli("init", "--yes", "--data", "n.csv").code == 0
    data = load_job(folder / "search.yaml").spec.data
    assert (data.fields, data.grader) == ({"question": "Prompt", "answer": "Target"}, "numeric")


def test_it_refuses_to_overwrite_without_force(cli: Cli, folder: Path) -> None:
    (folder / "pipeline.yaml").write_text("mine")
    refused = cli("init", "--yes")
    assert refused.code == 2
    assert "pipeline.yaml exists already" in refused.err
    assert (folder / "pipeline.yaml").read_text() == "mine"
    assert not (folder / "models.yaml").exists()
    assert cli("init", "--yes", "--force").code == 0
    assert PipelineSpec.load(folder / "pipeline.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "nothing.jsonl"],
        ["--data", "data.json"],
        ["--data", "data.jsonl", "--answer", "answr"],
        ["--data", "data.jsonl", "--grader", "exct"],
        ["--data", "few.csv"],
        ["--model", "m=opnai:x"],
        ["--model", "m=openai:x", "--key", "sk-abcdef"],
        ["--model", "m=openai:x", "--price", "cheap"],
        ["--model", "m=openai:x", "--model", "m=openai:y"],
        ["--base-url", "http://127.0.0.1:1/v1"],
        ["--question", "q"],
    ],
    ids=" ".join,
)
def test_a_mistake_leaves_nothing_half_written(cli: Cli, folder: Path, arguments: list[str]) -> None:
    (folder / "few.csv").write_text("question,answer\na?,b\n")
    before = sorted(folder.rglob("*"))
    done = cli("init", "new/place", "--yes", *arguments)
    assert done.code == 2, done.out
    assert done.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_it_asks_on_a_terminal(folder: Path) -> None:
    main, terminal = pty.openpty()
    answers = ["scripted:constant", "-", "data.jsonl", "", "", "numeric"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from inferloom.cli import main; main()", "init"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    os.write(main, "".join(f"{answer}\n" for answer in answers).encode())
    out, err = process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == 0, err
    assert "wrote pipeline.yaml" in out
    assert "its fields: question, answer" in err
    assert dict(load_models(folder / "models.yaml")) == {"small": ModelSpec.parse("scripted:constant")}
    assert load_job(folder / "search.yaml").spec.data.grader == "numeric"


def test_a_pipeline_reads_its_models_from_a_file_beside_it(cli: Cli, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "models.yaml").write_text("m: scripted:constant\n")
    (folder / "sub" / "p.yaml").write_text("models: models.yaml\nsteps: [{sample: {model: m}}]\n")
    assert cli("run", "sub/p.yaml", "hi", "--json").json["answer"] == "1"
    inline = PipelineSpec.parse("models: {m: 'scripted:constant'}\nsteps: [{sample: {model: m}}]\n")
    assert PipelineSpec.load(folder / "sub" / "p.yaml").hash == inline.hash
    (folder / "sub" / "models.yaml").write_text("m: scripted:constant\nn: {model: openai:x, prize: 3}\n")
    wrong = cli("run", "sub/p.yaml", "hi")
    assert wrong.code == 2
    assert "sub/models.yaml:2: n" in wrong.err
    (folder / "sub" / "models.yaml").unlink()
    assert "models.yaml" in cli("run", "sub/p.yaml", "hi").err
