"""Files and functions stay small enough to read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES = 600
TEST_FILE_LINES = 800
FUNCTION_LINES = 80

SOURCES = sorted(
    path
    for folder in ("inferloom", "tests", "tests_browser", "tests_vllm", "tests_clients", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path.is_file()
)


def functions(tree: ast.Module) -> list[tuple[str, int]]:
    """(name, lines) of every function and method, nested ones included."""
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_its_functions_are_short(path: Path) -> None:
    source = path.read_text()
    limit = TEST_FILE_LINES if path.is_relative_to(ROOT / "tests") else FILE_LINES
    assert source.count("\n") <= limit, f"{path} has more than {limit} lines"
    assert [(name, lines) for name, lines in functions(ast.parse(source)) if lines > FUNCTION_LINES] == []


def test_a_long_function_is_seen() -> None:
    body = "\n".join(["class A:", "    async def b(self):", *["        x = 1"] * FUNCTION_LINES])
    assert functions(ast.parse(body)) == [("b", FUNCTION_LINES + 1)]
