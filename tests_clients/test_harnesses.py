"""Two evaluation harnesses, as they are, on a small task of their own kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests_clients.conftest import KEY

QUESTIONS = [("12+34", "46"), ("3+4", "7"), ("20+5", "25"), ("7+8", "15"), ("11+22", "33"), ("40+2", "42")]
BIN = Path(sys.executable).parent

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], temperature: 0.8, max_gen_toks: 200}
filter_list:
  - name: last
    filter:
      - {function: regex, regex_pattern: "A: (.*)"}
      - {function: take_first}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_lm_evaluation_harness(server: str, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": asked, "answer": right}) + "\n" for asked, right in QUESTIONS))
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(data)))
    arguments = (
        f"model=vote,base_url={server}/v1/chat/completions,num_concurrent=4,max_retries=1,tokenizer_backend=None"
    )
    command = [BIN / "lm_eval", "--model", "local-chat-completions", "--model_args", arguments, "--tasks", "sums"]
    done = subprocess.run(
        [*command, "--include_path", tmp_path, "--output_path", tmp_path / "out", "--apply_chat_template"],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    score = json.loads(found.read_text())["results"]["sums"]["exact_match,last"]
    assert score > 0.3, "the pocket models can do most of these"


EVAL = """\
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

@task
def sums():
    samples = [Sample(input=asked, target=right) for asked, right in QUESTIONS]
    return Task(dataset=samples, solver=generate(), scorer=pattern(r"A: (.*)"))
"""


def test_inspect(server: str, tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(EVAL.replace("QUESTIONS", repr(QUESTIONS)))
    command = [BIN / "inspect", "eval", "sums.py", "--model", "openai-api/loom/vote", "--display", "plain"]
    done = subprocess.run(
        [*command, "--log-format", "json", "--log-dir", tmp_path / "logs", "--max-connections", "4"],
        cwd=tmp_path,
        env={**os.environ, "LOOM_API_KEY": KEY, "LOOM_BASE_URL": f"{server}/v1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = (tmp_path / "logs").glob("*.json")
    log = json.loads(found.read_text())
    assert log["status"] == "success"
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] > 0.3
