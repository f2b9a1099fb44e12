"""Programs in what a model wrote: which part of a text is code, and which parts of the code are tests."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

from inferloom.core.answers import split_reasoning

_PYTHON = frozenset({"python", "python3", "py"})
_FENCES = ("```", "~~~")
_PROGRAM = re.compile("program of a model")
"""The file name under which programs are looked at, and by which what Python warns of in them is kept quiet."""
_GOES_ON = (")", "]", "}", "else:", "elif ", "except", "finally:")
"""How a line at the margin begins that belongs to the statement above it."""


def parsed(code: str) -> ast.Module:
    """The syntax tree of a program.

    Raises:
        SyntaxError: This Python cannot parse it; ValueError for some texts.
        RecursionError: It is too deeply nested; MemoryError for some kinds of nesting.
    """
    _hush()
    return ast.parse(code, _PROGRAM.pattern)


def check(tree: ast.Module) -> None:
    """Compile a program, for what only the compiler refuses, such as `return` outside a function; never executes it.

    Raises:
        SyntaxError: It is refused; ValueError for some texts.
        RecursionError: It is too deeply nested; MemoryError for some kinds of nesting.
    """
    _hush()
    compile(tree, _PROGRAM.pattern, "exec", dont_inherit=True)


def code_of(text: str, *, cut: bool = False) -> str | None:
    """The program in a text: its blocks marked as Python, one after the other; else its last block; else all of it.

    Reasoning blocks never count. A block that is not closed goes to the end. None where there is no program.

    Args:
        text: What a model wrote.
        cut: Whether it was cut: then a program has to stand in blocks, and the last of them has to be closed.
    """
    visible, _ = split_reasoning(text)
    blocks, unclosed = _blocks(visible)
    if cut and (unclosed or not blocks):
        return None
    marked = [body for label, body in blocks if label in _PYTHON]
    program = "\n\n".join(marked) if marked else blocks[-1][1] if blocks else visible
    return program if program.strip() else None


def split_tests(code: str) -> list[str]:
    """The tests in a program, each as a program of its own that may follow the code under test.

    A test is an `assert` at the margin, or a function whose name begins with `test`, together with the call of it. What
    else stands at the margin (imports, helpers, data) goes in front of every test after it.
    """
    setup: list[str] = []
    tests: list[str] = []
    try:
        statements = _parsed_statements(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        statements = _read_statements(code)
    for statement, test in statements:
        if test is None:
            setup.append(statement)
        else:
            tests.append("\n".join([*setup, statement, *([f"{test}()"] if test else [])]))
    return tests


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(label, body) of every fenced block, and whether the last one is not closed."""
    blocks: list[tuple[str, str]] = []
    fence, label = "", ""
    body: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if fence:
            if bare.startswith(fence) and not bare.strip(fence[0]):
                blocks.append((label, textwrap.dedent("\n".join(body))))
                fence = ""
            else:
                body.append(line)
        elif bare.startswith(_FENCES) and bare[0] not in bare.lstrip(bare[0]):
            label = bare.lstrip(bare[0]).strip().split(" ")[0].lower()
            fence = bare[: len(bare) - len(bare.lstrip(bare[0]))]
            body = []
    if fence:
        blocks.append((label, textwrap.dedent("\n".join(body))))
    return blocks, bool(fence)


def _parsed_statements(code: str) -> list[tuple[str, str | None]]:
    """Each statement, and for a test the name of the function to call, empty for an `assert`."""
    # Columns are counted in bytes, and lines as Python ends them.
    lines = code.replace("\r\n", "\n").replace("\r", "\n").encode().split(b"\n")
    statements: list[tuple[str, str | None]] = []
    for node in parsed(code).body:
        first, start = node.lineno, node.col_offset
        last, end = node.end_lineno or first, node.end_col_offset or 0
        test = "" if isinstance(node, ast.Assert) else None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.decorator_list:
            first, start = node.decorator_list[0].lineno, 0
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            test = node.name
        taken = lines[first - 1 : last]
        taken[-1] = taken[-1][:end]
        taken[0] = taken[0][start:]
        statements.append((b"\n".join(taken).decode(), test))
    return statements


def _read_statements(code: str) -> list[tuple[str, str | None]]:
    """The same for a text that does not parse, by its lines: what is at the margin, with what is indented under it."""
    statements: list[list[str]] = []
    decorated = False
    for line in code.split("\n"):
        at_margin = line[:1].strip() and not line.startswith(("#", *_GOES_ON))
        if at_margin and not decorated:
            statements.append([line])
        elif statements:
            statements[-1].append(line)
        if at_margin:
            decorated = line.startswith("@")
    found: list[tuple[str, str | None]] = []
    for statement in ("\n".join(lines).rstrip() for lines in statements):
        is_function = statement.startswith("def test")
        called = statement[len("def ") :].split("(", 1)[0].strip() if is_function else None
        found.append((statement, "" if statement.startswith(("assert ", "assert(")) else called))
    return found


def _hush() -> None:
    """Have Python not warn of what stands in programs.

    Not by `catch_warnings`, which is for one thread, and not twice, since every new filter has old warnings told again.
    """
    if not any(action == "ignore" and module == _PROGRAM for action, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PROGRAM.pattern)
