"""Files, the default embedder and notes in a whole pipeline, on real files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from inferloom.core.errors import SpecError
from inferloom.core.types import Request
from inferloom.models.client import Gateway
from inferloom.models.embedding import default_embedder
from inferloom.models.scripted import ScriptedBackend, register_backend
from inferloom.pipelines.run import Pipeline
from inferloom.pipelines.spec import PipelineSpec
from inferloom.store import Store

SEEN: list[Request] = []


def answer(request: Request, seed: int) -> str:
    SEEN.append(request)
    asked = request.messages[-1].content
    if "<document number" in asked:
        # The password note is the one that helps.
        return "\n".join(f"{n}: {9 if 'password' in part else 1}" for n, part in enumerate(asked.split("<document ")))
    return "A: done"


register_backend("context-steps", ScriptedBackend(answer, name="context-steps"))


@pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None,
    reason="the extra `embeddings` is not installed: pip install 'inferloom[embeddings]'",
)
async def test_examples_and_documents_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFERLOOM_EMBEDDER", raising=False)
    default_embedder.cache_clear()
    questions = ["Add 3 and 5.", "How do I change my user name?", "Which planet is the largest?"]
    examples = [{"question": question, "answer": f"A: {index}"} for index, question in enumerate(questions)]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, examples)))
    (tmp_path / "d.txt").write_text(
        "Cats sleep all day.\nThe login page is blue.\nA password is changed in settings.\n"
    )
    text = f"""
models: {{m: scripted:context-steps}}
steps:
  - few_shot: {{examples: {tmp_path}/e.jsonl, k: 1}}
  - retrieve: {{documents: {tmp_path}/d.txt, k: 2}}
  - rerank: {{model: m}}
  - safety: {{disallowed: [weapons]}}
  - sample: {{model: m}}
"""
    SEEN.clear()
    with Store.open(f"{tmp_path}/run.db") as store:
        result = await Pipeline(PipelineSpec.parse(text, "test.yaml"), Gateway(store)).ainvoke(
            "How can I change my login password?"
        )
    assert result.answer == "done" and result.usage.calls == 2
    judging, asking = SEEN
    assert "Cats" not in judging.messages[-1].content
    system, *turns = asking.messages
    assert "Not allowed: weapons." in system.content and "A password is changed in settings." in system.content
    assert "blue" not in system.content
    assert [turn.content for turn in turns] == [
        "How do I change my user name?",
        "A: 1",
        "How can I change my login password?",
    ]


def test_rerank_wants_notes_before_it() -> None:
    text = "models: {m: scripted:context-steps}\nsteps: [{sample: m}, {rerank: m}]\n"
    with pytest.raises(SpecError, match="`rerank` needs notes"):
        PipelineSpec.parse(text, "test.yaml")
