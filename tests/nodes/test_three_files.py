"""Adding a node touches three files: its module, one line in `nodes/__init__.py`, and its test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import inferloom
from inferloom.nodes.base import NODES

PACKAGE = Path(inferloom.__file__).parent
TESTS = Path(__file__).parent
BUILT_IN = [name for name, node in NODES if node.__module__.startswith("inferloom.nodes.")]
OTHER_MEANINGS = {
    ("nodes/describe.py", "oracle"): "what a description says of every node",
    ("nodes/few_shot.py", "random"): "one way to choose examples",
    ("pipelines/graph.py", "best"): "in conditions, `best` is the highest value of a score",
    ("nodes/rank.py", "top_k"): "a parameter in the example of `rank`",
    ("pipelines/words.py", "top_k"): "a parameter that is said in short",
    ("nodes/refine.py", "critique"): "a value of the role `revise`, and a gate that goes by it",
    ("nodes/refine.py", "score"): "the gate that goes by a score",
}


def decisions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every text that code compares with, looks up or matches on."""
    for place in ast.walk(tree):
        deciding: list[ast.expr | None] = []
        if isinstance(place, ast.Compare):
            deciding = [place.left, *place.comparators]
        elif isinstance(place, ast.Dict):
            deciding = list(place.keys)
        elif isinstance(place, ast.MatchValue):
            deciding = [place.value]
        for expression in deciding:
            for part in ast.walk(expression) if expression else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_the_seven_of_the_first_release_are_there() -> None:
    assert {"best", "critique", "fuse", "rank", "sample", "score", "vote"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_node_is_a_module_an_export_and_a_test(name: str) -> None:
    node = NODES.get(name)
    assert node.__module__ == f"inferloom.nodes.{name}"
    exports = ast.parse((PACKAGE / "nodes" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.name
        for line in exports.body
        if isinstance(line, ast.ImportFrom) and line.module == node.__module__
        for alias in line.names
    }
    assert imported == {node.__name__}
    assert (TESTS / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_node_fits_on_a_screen_or_four(name: str) -> None:
    lines = (PACKAGE / "nodes" / f"{name}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= 200


def test_no_other_room_imports_a_nodes_module() -> None:
    found = [
        f"{path}:{line.lineno}: {line.module}"
        for path, tree in modules()
        if not path.startswith("nodes/")
        for line in ast.walk(tree)
        if isinstance(line, ast.ImportFrom) and line.module in {f"inferloom.nodes.{name}" for name in BUILT_IN}
    ]
    assert not found, "reach nodes through the registry"


def test_no_code_that_runs_nodes_decides_by_their_names() -> None:
    found = [
        f"{path}:{line}: {text}"
        for path, tree in modules()
        if path.split("/")[0] in {"core", "nodes", "pipelines"} and not path.startswith("nodes/prompts/")
        for line, text in decisions(tree)
        if text in BUILT_IN and path != f"nodes/{text}.py" and (path, text) not in OTHER_MEANINGS
    ]
    assert not found, "a new node would need a line here too"
