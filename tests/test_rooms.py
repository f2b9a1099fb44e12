"""The rooms of design/001-layout.md hold: who may import whom, and what stays out of memory until it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inferloom

ROOT = Path(inferloom.__file__).parent

_LOWER = {"core", "store", "models", "memory", "sandbox", "nodes"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "store": {"core"},
    "models": {"core", "store"},
    "memory": {"core", "store", "models"},
    "sandbox": {"core"},
    "nodes": {"core"},
    "pipelines": _LOWER,
    "evaluation": {*_LOWER, "pipelines"},
    "search": {*_LOWER, "pipelines", "evaluation"},
    "routing": {*_LOWER, "pipelines", "evaluation"},
    "serving": {*_LOWER, "pipelines", "evaluation", "routing"},
    "cli": {*_LOWER, "pipelines", "evaluation", "search", "routing", "serving"},
}
HEAVY = (
    "torch",
    "transformers",
    "langgraph",
    "langchain_core",
    "openai",
    "optuna",
    "alembic",
    "sqlalchemy",
    "numpy",
    "matplotlib",
    "pydantic_monty",
    "starlette",
    "uvicorn",
    "prometheus_client",
)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import of our own, and of every string that is one (registries import by name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node.lineno, node.module
            if node.module == "inferloom":
                yield from ((node.lineno, f"inferloom.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).startswith("inferloom."):
                    yield argument.lineno, str(argument.value)


def breaches(room: str, source: str) -> list[str]:
    """What in a module's source the room may not import, each as `line: module`."""
    found = []
    for line, module in imports(ast.parse(source)):
        parts = module.split(".")
        if parts[0] != "inferloom":
            continue
        if len(parts) == 1 or parts[1] not in ALLOWED:
            if room != "cli":
                found.append(f"{line}: {module} (the package itself imports every room)")
        elif parts[1] != room and parts[1] not in ALLOWED[room]:
            found.append(f"{line}: {module}")
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_what_the_table_allows(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT.parent)}:{breach}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for breach in breaches(room, path.read_text())
    ]
    assert found == []


def test_every_folder_is_a_room_of_the_table() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize(
    "source",
    [
        "from inferloom.models.client import Gateway",
        "import inferloom.store",
        "from inferloom import pipelines",
        "import inferloom",
        "def late():\n    from inferloom.store import Store",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from inferloom.store import Store",
        "import_module('inferloom.models')",
    ],
)
def test_a_breach_is_seen_wherever_it_stands(source: str) -> None:
    assert breaches("nodes", source) != []


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after running `code`."""
    told = "import sys; print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    script = f"{code}\n{told}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import inferloom",
        "from inferloom.cli.main import run; assert run(['--help']) == 0",
        "from inferloom.cli.main import run; assert run(['search', '--help']) == 0",
    ],
    ids=["import", "help", "search --help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    assert loaded_after(code).isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["inferloom.core.types", "inferloom.nodes", "inferloom.models", "inferloom.search"])
def test_rooms_load_without_torch_and_engines(module: str) -> None:
    assert loaded_after(f"import {module}").isdisjoint({"torch", "transformers", "openai", "optuna"})
