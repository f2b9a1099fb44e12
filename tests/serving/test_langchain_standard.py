"""LangChain's standard tests for chat models, on a vote among the calls of a scripted model that uses tools.

No test is overridden; only capabilities are declared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from inferloom.serving.langchain import ChatInferloom
from tests.support import tool_user  # noqa: F401  # it registers the model

VOTE = """
models: {m: scripted:tool-user}
steps:
  - sample: {model: m, n: 3}
  - vote
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with two pipelines, and a database in memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERLOOM_DB", "sqlite://")
    (tmp_path / "vote.yaml").write_text(VOTE)
    (tmp_path / "one.yaml").write_text("models: {m: scripted:tool-user}\nsteps:\n  - sample: {model: m}\n")


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatInferloom

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "vote.yaml"}


class TestIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatInferloom

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "vote.yaml"}

    @property
    def model_override_value(self) -> str:
        return "one.yaml"

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestIntegrationOfOneCall(TestIntegration):
    """The same where one call writes the answer, so that tokens are streamed as they come."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "one.yaml"}
