"""Code in what a model wrote: where it stands, and which parts of it are tests."""

from __future__ import annotations

import pytest

from inferloom.core.code import code_of, split_tests


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```text\nseen\n```\n```\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nprints\n```\n1\n```\n~~~py\ny = 2\n~~~", "x = 1\n\ny = 2"),
        ("1. First\n   ```python\n   if x:\n       y = 1\n   ```", "if x:\n    y = 1"),
        ("```python\nx = 1", "x = 1"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("Use ```x``` here", "Use ```x``` here"),
        ("<think>```python\nx = 0\n```</think>```python\nx = 1\n```", "x = 1"),
        ("<think>```python\nx = 0\n```", None),
        ("```python\n```", None),
        ("", None),
        (" \n", None),
    ],
)
def test_the_code_of_a_text(text: str, code: str | None) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize("text", ["`" * 200_000, "```\n" * 50_000, "~~~ " * 50_000, "<think>" * 50_000])
def test_no_text_takes_long(text: str) -> None:
    assert isinstance(split_tests(code_of(text) or ""), list)


def test_each_assert_is_a_test_with_what_it_needs() -> None:
    assert split_tests("assert f(1) == 1\n\n# more\nassert f(\n    2\n) == 2, 'two'") == [
        "assert f(1) == 1",
        "assert f(\n    2\n) == 2, 'two'",
    ]
    assert split_tests("import math\nassert f(1)\ndata = [1]\nassert f(data)") == [
        "import math\nassert f(1)",
        "import math\ndata = [1]\nassert f(data)",
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```\na = 1\n```\nand then", "a = 1"),
        ("```python\na = 1\n```\n```python\nb = ", None),
        ("~~~python\na = 1", None),
        ("print(1)", None),
        ("<think>```python\na = 0\n```</think>", None),
    ],
)
def test_a_cut_text_has_a_program_only_in_closed_blocks(text: str, code: str | None) -> None:
    assert code_of(text, cut=True) == code


def test_statements_are_python_s_not_lines() -> None:
    setup = 'text = """\nassert this is text\ndef test_it():\n"""'
    rows = "rows = [\n1,\n2,\n]"
    assert split_tests(f"{setup}\n{rows}\nassert f(text) \\\n== rows") == [
        f"{setup}\n{rows}\nassert f(text) \\\n== rows"
    ]
    assert split_tests("é = 'é'; assert f(é)\r\nassert(f(2)); assert f(3)") == [
        "é = 'é'\nassert f(é)",
        "é = 'é'\nassert(f(2))",
        "é = 'é'\nassert f(3)",
    ]
    assert split_tests("@once\n@twice(\n1\n)\ndef test_f():\n    pass") == [
        "@once\n@twice(\n1\n)\ndef test_f():\n    pass\ntest_f()"
    ]


def test_a_text_that_does_not_parse_is_read_by_lines() -> None:
    assert split_tests("import math\nassert f(1)\ndef test_f():\n    f(2)\nassert f(") == [
        "import math\nassert f(1)",
        "import math\ndef test_f():\n    f(2)\ntest_f()",
        "import math\nassert f(",
    ]


def test_functions_that_test_are_called() -> None:
    code = "@mark\ndef helper():\n    assert False\n\ndef test_one():\n    assert f(1)\n\ntest_one()"
    setup = "@mark\ndef helper():\n    assert False"
    assert split_tests(code) == [f"{setup}\ndef test_one():\n    assert f(1)\ntest_one()"]


@pytest.mark.parametrize("code", ["", "x = 1", "if x:\n    assert x", "asserted = 1", "I assert that."])
def test_there_may_be_no_test(code: str) -> None:
    assert split_tests(code) == []
