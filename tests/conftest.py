"""Every test runs in a clean environment: no keys, no tracing, no database of the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("INFERLOOM_DB", "INFERLOOM_DEBUG", "INFERLOOM_EMBEDDER", "INFERLOOM_SANDBOX")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", *ours):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
