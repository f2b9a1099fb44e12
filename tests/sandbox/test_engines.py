"""What both engines promise of a program: outcome, value, output, error; and how an engine is chosen."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inferloom.core.errors import SetupError, UnknownNameError
from inferloom.core.types import Json
from inferloom.sandbox import IsolatedSandbox, Limits, MontySandbox, default_sandbox, isolated

LIMITS = Limits(seconds=20, output=2000)


@pytest.fixture
def sandbox(engine: type[MontySandbox | IsolatedSandbox]) -> MontySandbox | IsolatedSandbox:
    return engine(LIMITS)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", 2),
        ("x = 3", None),
        ("", None),
        ("[1, 2.5, 'a', None, True, {'b': (1, 2)}]", [1, 2.5, "a", None, True, {"b": [1, 2]}]),
        ("{1, 2}", None),
        ("b'x'", None),
        ("float('nan')", None),
        ("10 ** 5000", None),
        ("'x' * 3000", None),
        ("import math\nround(math.sqrt(2), 3)", 1.414),
        ("def double(n):\n    return 2 * n\ndouble(21)", 42),
    ],
)
async def test_the_value_is_that_of_the_last_expression(
    sandbox: MontySandbox | IsolatedSandbox, code: str, value: Json
) -> None:
    result = await sandbox.run(code)
    assert (result.outcome, result.value, result.error) == ("ok", value, "")


async def test_output_and_inputs(sandbox: MontySandbox | IsolatedSandbox) -> None:
    result = await sandbox.run("print('sum', a + b['c'][0])\na", {"a": 1, "b": {"c": [41]}})
    assert (result.output, result.value) == ("sum 42\n", 1)


@pytest.mark.parametrize(
    ("code", "outcome", "error"),
    [
        ("1\nraise ValueError('no')", "error", "ValueError: no (line 2)"),
        ("1 +", "error", "SyntaxError"),
        ("nothing_like_this", "error", "NameError"),
        ("assert 1 == 2, 'differs'", "error", "AssertionError: differs"),
        ("import math\nmath.no_such", "error", "AttributeError"),
        ("[].no_such", "error", "AttributeError"),
        ("raise NotImplementedError('not yet')", "error", "NotImplementedError"),
        ("raise PermissionError('of its own')", "error", "PermissionError"),
        ("raise SystemExit", "error", "SystemExit"),
        ("\ud800", "error", "not Unicode"),
        ("return", "error", "SyntaxError: 'return' outside function (line 1)"),
        ("def f(x): return x - 1\nif f:\n    return\nassert f(1) == 2", "error", "'return' outside function"),
        ("import asyncio\nawait asyncio.sleep(0)", "error", "'await' outside function"),
        ("[(yield 1) for _ in '12']", "error", "'yield'"),
        ("raise ImportError('x')", "error", "ImportError: x"),
        ("raise SystemExit(0)", "error", ""),
        ("import sys\nsys.exit()", "error", ""),
        ("-" * 5000 + "1", "limit", "nested"),
        ("import no_such_module", "unsupported", "ModuleNotFoundError"),
        ("__dict__", "error", "NameError"),
        ("open('/etc/hostname')", "unsupported", "Error"),
        ("input()", "unsupported", "Error"),
        ("import socket", "unsupported", "ModuleNotFoundError"),
        ("def f(n):\n    return f(n)\nf(1)", "limit", "RecursionError"),
        ("while True:\n    print('x' * 100)", "limit", "output limit"),
        ("x = 1\n" * 300_000, "limit", "characters"),
    ],
)
async def test_the_outcome_says_whose_fault_it_was(
    sandbox: MontySandbox | IsolatedSandbox, code: str, outcome: str, error: str
) -> None:
    quick = type(sandbox)(Limits(seconds=1.0 if "while" in code else 20, output=2000))
    result = await quick.run(code)
    assert result.outcome == outcome
    assert error in result.error and "\n" not in result.error


@pytest.mark.parametrize(
    "code",
    ["def f():\n    yield 1", "class A(dict):\n    pass", "x = 1\ndel x", "import heapq", "globals()", "len.__name__"],
)
async def test_what_monty_lacks_is_not_an_error_of_the_program(code: str) -> None:
    assert (await MontySandbox(LIMITS).run(code)).outcome in {"unsupported", "ok"}
    assert (await MontySandbox(LIMITS).run(code)).outcome != "error"


@pytest.mark.parametrize(
    "code",
    [
        "exit()",
        "quit(1)",
        "from sys import exit\nexit(0)",
        "import os\nos._exit(0)",
        "raise NameError(\"name 'open' is not defined\")",
        "kind = ImportError\nraise kind(\n    \"No module named 'x'\"\n)",
        "exec('raise ModuleNotFoundError(\"No module named x\")')",
        "raise RuntimeError('threads not supported in this environment')",
        "raise PermissionError('Permission denied: x')",
        "from math import no_such",
    ],
)
async def test_a_program_cannot_pass_its_own_failure_off_as_what_monty_lacks(code: str) -> None:
    assert (await MontySandbox(LIMITS).run(code)).outcome == "error"


@pytest.mark.parametrize(
    "code", ["def f(x):\n    raise ValueError(x)\nimport heapq", "def f(x):\n    raise ValueError(x)\nopen('/x')"]
)
async def test_a_raise_elsewhere_does_not_hide_what_monty_lacks(code: str) -> None:
    assert (await MontySandbox(LIMITS).run(code)).outcome == "unsupported"


async def test_a_later_grammar_is_run_but_cannot_hide_a_return_outside_a_function() -> None:
    later = "f'{'a'}'"  # from Python 3.12 on
    assert (await MontySandbox(LIMITS).run(later)).value == "a"
    assert (await MontySandbox(LIMITS).run(f"{later}\nreturn")).outcome != "ok"


async def test_what_python_warns_of_is_not_told(sandbox: MontySandbox | IsolatedSandbox) -> None:
    assert (await sandbox.run("'\\d' is 1\n2")).value == 2


def test_threads_may_use_a_sandbox_for_the_first_time_at_once() -> None:
    script = (
        "import asyncio, sysconfig, threading, time\n"
        "from inferloom.sandbox import MontySandbox\n"
        "inside, real = [], sysconfig.get_path\n"
        "def get_path(*asked):\n"  # it fills a table when first called, and is not for several threads then
        "    inside.append(1)\n"
        "    time.sleep(0.02)\n"
        "    assert inside == [1], 'used in two threads at once'\n"
        "    inside.pop()\n"
        "    return real(*asked)\n"
        "sysconfig.get_path = get_path\n"
        "sandbox, together, values = MontySandbox(), threading.Barrier(8), []\n"
        "def run():\n"
        "    import pydantic_monty\n"
        "    together.wait()\n"
        "    values.append(asyncio.run(sandbox.run('1 + 1')).value)\n"
        "threads = [threading.Thread(target=run) for _ in range(8)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "assert values == [2] * 8, values\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("code", ["len('x' * (200 * 2**20))", "held = []\nwhile True:\n    held += [held] * 10_000"])
async def test_memory_is_limited_long_before_the_time_is_up(sandbox: MontySandbox | IsolatedSandbox, code: str) -> None:
    result = await type(sandbox)(Limits(seconds=20, memory=64 * 2**20)).run(code)
    assert result.outcome == "limit" and "emory" in result.error


async def test_output_before_a_failure_is_kept_and_cut(sandbox: MontySandbox | IsolatedSandbox) -> None:
    assert (await sandbox.run("print('seen')\n1 / 0")).output == "seen\n"
    cut = await sandbox.run("print('é' * 5000)")
    assert cut.outcome == "limit" and cut.output == "é" * (LIMITS.output // 2)


async def test_the_same_program_gives_the_same_result(sandbox: MontySandbox | IsolatedSandbox) -> None:
    code = "import random\n[random.random(), hash('text'), list({'b', 'a', 'c'})]"
    results = [await sandbox.run(code) for _ in range(2)]
    assert results[0] == results[1] and results[0].outcome == "ok"


async def test_programs_share_nothing(sandbox: MontySandbox | IsolatedSandbox) -> None:
    await sandbox.run("left = 1")
    assert (await sandbox.run("left")).outcome == "error"


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object()])
async def test_inputs_that_are_not_plain_data_run_nothing(sandbox: MontySandbox | IsolatedSandbox, value: Json) -> None:
    assert (await sandbox.run("1", {"a": value})).outcome in {"error", "unsupported"}


def children(of: int) -> set[int]:
    """Processes whose ancestor this one is."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(folder.name)] = int(fields[1])
    found: set[int] = set()
    new = {of}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


async def test_a_cancel_leaves_no_process_behind(sandbox: MontySandbox | IsolatedSandbox) -> None:
    await sandbox.run("1")
    before = children(os.getpid())
    task = asyncio.create_task(sandbox.run("while True:\n    pass"))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        while len(children(os.getpid())) > len(before):  # noqa: ASYNC110 - processes end when the kernel gets to it
            await asyncio.sleep(0.02)
    assert (await sandbox.run("1 + 1")).value == 2


def test_one_sandbox_serves_one_event_loop_after_another(sandbox: MontySandbox | IsolatedSandbox) -> None:
    assert [asyncio.run(sandbox.run(str(number))).value for number in range(3)] == [0, 1, 2]


def test_workers_end_with_the_process_even_when_it_is_killed(sandbox: MontySandbox | IsolatedSandbox) -> None:
    """The one engine's at once, the other's with the program at work, so after the time limit at the latest."""
    seconds = 100 if isinstance(sandbox, IsolatedSandbox) else 3
    script = (
        "import asyncio, os, sys\n"
        f"from inferloom.sandbox import Limits, {type(sandbox).__name__} as Engine\n"
        "async def main():\n"
        f"    task = asyncio.create_task(Engine(Limits(seconds={seconds})).run('while True:\\n    pass'))\n"
        "    await asyncio.sleep(1.0)\n"
        "    print('running', flush=True)\n"
        "    await asyncio.sleep(100)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        descendants = children(process.pid)
        process.kill()
    assert descendants
    give_up = time.monotonic() + 60
    while any(_state(pid) not in {"Z", ""} for pid in descendants):
        assert time.monotonic() < give_up, "still running"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def test_the_environment_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFERLOOM_SANDBOX", raising=False)
    assert isinstance(default_sandbox(), MontySandbox) and default_sandbox() is default_sandbox()
    monkeypatch.setenv("INFERLOOM_SANDBOX", "isolated")
    assert isinstance(default_sandbox(), IsolatedSandbox)
    monkeypatch.setenv("INFERLOOM_SANDBOX", "isolate")
    with pytest.raises(UnknownNameError) as refused:
        default_sandbox()
    assert refused.value.sentence == "INFERLOOM_SANDBOX: unknown sandbox `isolate`; did you mean `isolated`?"


async def test_elsewhere_than_linux_isolated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SetupError, match="cannot shut off files and network here"):
        await IsolatedSandbox(LIMITS).run("1")


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        ('"unshare", ', '"unshare", 1 | ', "unshare: Invalid argument"),
        ('"pivot_root", b"."', '"pivot_root", b"nowhere"', "pivot_root: No such file or directory"),
        ('"capset"', '"no_such_call"', "the C library has no `no_such_call`"),
        ("(resource.RLIMIT_NOFILE, 0),", "", "listing files is still possible"),
        ("(resource.RLIMIT_NPROC, 0),", "", "starting processes is still possible"),
    ],
)
async def test_where_something_cannot_be_shut_off_nothing_runs(
    sandbox: MontySandbox | IsolatedSandbox,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: str,
    instead: str,
    why: str,
) -> None:
    if isinstance(sandbox, MontySandbox):
        return
    source = Path(isolated.__file__).with_name("jail.py").read_text()
    assert line in source
    copy = tmp_path / "jail.py"
    copy.write_text(source.replace(line, instead))
    monkeypatch.setattr(isolated, "_JAIL", copy)
    with pytest.raises(SetupError) as refused:
        await sandbox.run("1 + 1")
    assert why in refused.value.message and json.dumps(refused.value.to_json())
