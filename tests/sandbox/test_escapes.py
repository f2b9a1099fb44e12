"""No program gets out of a sandbox or exhausts the machine, and the sandbox answers the next one.

Canaries prove it: a file that must not be read, a place that must not be written, an environment variable that must not
show, and a server on loopback that must get no connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from inferloom.core.protocols import Sandbox
from inferloom.sandbox import IsolatedSandbox, Limits, MontySandbox

SECRET = "canary-7f3a91"
VARIABLE = "INFERLOOM_CANARY"
LIMITS = Limits(seconds=3, memory=48 * 2**20, output=4096)
SHORT = replace(LIMITS, seconds=0.1)
"""For what would use up any time."""

# What must not happen is read from the canaries; the program itself may end as it likes.
ESCAPES = {
    "open": "open({file!r}).read()",
    "open to write": "open({target!r}, 'w').write('x')",
    "open caught": "try:\n    found = open({file!r}).read()\nexcept Exception as e:\n    found = repr(e)\nfound",
    "open by descriptor": "[open(n).read() for n in (3, 4, 5, 6, 7)]",
    "pathlib": "import pathlib\npathlib.Path({file!r}).read_text()",
    "pathlib write": "from pathlib import Path\nPath({target!r}).write_text('x')",
    "pathlib relative": "from pathlib import Path\nPath('/..' * 20 + {file!r}).read_text()",
    "os.open": "import os\nos.read(os.open({file!r}, os.O_RDONLY), 100)",
    "os.open after close": "import os\nfor n in range(8):\n    try:\n        os.close(n)\n"
    "    except OSError:\n        pass\nos.read(os.open({file!r}, os.O_RDONLY), 100)",
    "os.mkdir": "import os\nos.mkdir({target!r})",
    "os.remove": "import os\nos.remove({file!r})",
    "os.rename": "import os\nos.rename({file!r}, {target!r})",
    "os.truncate": "import os\nos.truncate({file!r}, 0)",
    "os.symlink": "import os\nos.symlink('/', {target!r})",
    "os.listdir": "import os\nos.listdir({folder!r})",
    "os.chroot": "import os\nos.chroot('.')\nos.chdir('../' * 40)\nopen({file!r}).read()",
    "io and codecs": "import io, codecs\nio.FileIO({file!r}).read() + codecs.open({file!r}).read()",
    "linecache": "import linecache\nlinecache.getline({file!r}, 1)",
    "import from file": "import sys\nsys.path.insert(0, {folder!r})\nimport planted\nplanted.found",
    "loader": "import sys\nfor finder in sys.meta_path:\n    print(finder)\n"
    "sys.modules['__main__'].__spec__\nfrom importlib.machinery import SourceFileLoader\n"
    "SourceFileLoader('planted', {folder!r} + '/planted.py').load_module().found",
    "environ": "import os\nstr(dict(os.environ))",
    "getenv": "import os\nos.getenv({variable!r})",
    "posix environ": "import posix\nstr(posix.environ)",
    "proc environ": "open('/proc/self/environ').read() + open('/proc/1/environ').read()",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
    "_socket": "import _socket\n_socket.socket().connect(('127.0.0.1', {port}))",
    "socket found": "import gc\nkinds = [o for o in gc.get_objects() if getattr(o, '__name__', '') == 'socket']\n"
    "[kind().connect(('127.0.0.1', {port})) for kind in kinds]",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/').read()",
    "asyncio connection": "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', {port}))",
    "fork": "import os\nwhile True:\n    os.fork()",
    "os.system": "import os\nos.system('cat {file} > {target}')\nos.popen('cat {file}').read()",
    "subprocess": "import subprocess\nsubprocess.run(['touch', {target!r}])",
    "spawn": "import os\nos.posix_spawn('/bin/touch', ['touch', {target!r}], {{}})",
    "exec": "import os\nos.execv('/bin/touch', ['touch', {target!r}])",
    "threads": "import threading\nthreading.Thread(target=open, args=({target!r}, 'w')).start()",
    "_thread": "import _thread, time\n_thread.start_new_thread(open, ({target!r}, 'w'))\ntime.sleep(0.1)",
    "kill everything": "import os, signal\nfor one in (0, -1, 1, os.getppid(), {pid}):\n    try:\n"
    "        os.kill(one, signal.SIGKILL)\n    except Exception:\n        pass",
    "ctypes": "import ctypes\nctypes.CDLL(None).system(b'touch {target}')",
    "ctypes found": "import gc\nlibraries = [o for o in gc.get_objects() if type(o).__name__ == 'CDLL']\n"
    "libraries += [type(o) for o in gc.get_objects() if type(o).__name__ == 'LibraryLoader']\n"
    "[library.system(b'touch {target}') for library in libraries]",
    "__import__": "__import__('os').popen('cat {file}').read()",
    "dunder walk": "kinds = ().__class__.__mro__[-1].__subclasses__()\n"
    "[k.__init__.__globals__['sys'].modules['os'].popen('cat {file}').read() for k in kinds "
    "if 'sys' in getattr(k.__init__, '__globals__', {{}})]",
    "frames": "import sys\nframe = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\n"
    "frame.f_globals['os'].listdir({folder!r})",
    "builtins": "import builtins\nbuiltins.open = print\nbuiltins.print = None\nbuiltins.__import__ = None\n"
    "builtins.Exception = BaseException = None\nopen({target!r}, 'w')",
    "eval and exec": "eval(\"exec('open({file!r}).read()')\")",
    "compile": "exec(compile('import os; found = os.listdir({folder!r})', 'x', 'exec'))\nfound",
    "pickle": "import pickle\npickle.loads(b'cposix\\nsystem\\n(S\"touch {target}\"\\ntR.')",
    "format string": "'{{0.__class__.__init__.__globals__}}'.format(open)",
    "limits raised": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\nopen({file!r}).read()",
    "report forged": 'import os\nos.write(3, b\'{{"refused": "x"}}\')\nos._exit(0)',
    "stdin": "input()",
}
# These must end, and not as `ok`.
EXHAUSTIONS = {
    "loop": "while True:\n    pass",
    "loop that catches": "while True:\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        pass",
    "signals ignored": "import signal\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
    "    except Exception:\n        pass\nwhile True:\n    pass",
    "exit handlers": "import atexit, sys\ndef again():\n    while True:\n        pass\natexit.register(again)\nagain()",
    "huge number": "10 ** 10 ** 8",
    "huge shift": "1 << (1 << 40)",
    "huge factorial": "import math\nmath.factorial(10 ** 8)",
    "huge text": "'x' * 10 ** 12",
    "huge list": "[0] * 10 ** 11",
    "huge range": "list(range(10 ** 10))",
    "doubling": "text = 'x'\nwhile True:\n    text += text",
    "doubling in a dict": "held = {}\nwhile True:\n    held[len(held)] = 'x' * 10 ** 6 + str(len(held))",
    "format width": "'{:>{}}'.format('x', 10 ** 10)",
    "f-string width": "f'{1:>10000000000}'",
    "percent width": "'%*d' % (2 * 10 ** 9, 1)",
    "recursion": "def down():\n    return down()\ndown()",
    "recursion unlimited": "import sys\nsys.setrecursionlimit(10 ** 9)\n"
    "def down(n):\n    return [down(n + 1)]\ndown(0)",
    "recursion in repr": "held = []\nfor _ in range(10 ** 6):\n    held = [held]\nrepr(held)",
    "recursion in parsing": "(" * 50_000 + ")" * 50_000,
    "recursion in eval": "eval('-' * 10 ** 6 + '1')",
    "endless output": "while True:\n    print('x' * 1000)",
    "one long line": "print('x' * 10 ** 6)",
    "error output": "import sys\nwhile True:\n    print('x' * 1000, file=sys.stderr)",
    "endless generator": "import itertools\nsum(1 for _ in itertools.count())",
    "endless iterator": "list(iter(int, 1))",
    "exception bomb": "def fail():\n    try:\n        fail()\n    except RecursionError:\n"
    "        fail()\n        fail()\nfail()",
    "exception text": "raise ValueError('x' * 10 ** 9)",
    "slow sort": "sorted(range(10 ** 9), key=lambda n: -n)",
    "hash collisions": "held = set()\nfor n in range(10 ** 6):\n    held.add(n * (2 ** 61 - 1))\nwhile True:\n    pass",
    "product": "import itertools\nlen(list(itertools.product(range(100), repeat=8)))",
    "memory by slices": "held = [b'x' * 10 ** 6]\nwhile True:\n    held += held",
    "self-made string": "class Bomb:\n    def __str__(self):\n        while True:\n            pass\nstr(Bomb())",
    "compiled": "exec('x = 1\\n' * 10 ** 7)",
}
# These must end; whether they are a matter of limits depends on the engine.
HEAVY = {
    "sleep": "import time\ntime.sleep(3600)",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "big value": "[[n] * 100 for n in range(2000)]",
    "deep value": "held = []\nfor _ in range(100_000):\n    held = [held]\nheld",
    "value in itself": "held = []\nheld.append(held)\nheld",
    "large decimals": "int('9' * 10 ** 6)",
    "exit": "raise SystemExit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "null byte": "x = 1\0",
    "odd unicode": "\ufeff# -*- coding: utf-7 -*-\n'\u202e\u2028'",
    "much source": "x = 1\n" * 400_000,
}


@dataclass
class Canaries:
    """What must stay as it is."""

    folder: Path
    server: socket.socket

    @property
    def places(self) -> dict[str, object]:
        """What the programs are told."""
        return {
            "folder": str(self.folder),
            "file": str(self.folder / "secret.txt"),
            "target": str(self.folder / "written"),
            "port": self.server.getsockname()[1],
            "variable": VARIABLE,
            "pid": os.getpid(),
        }

    def check(self, told: str) -> None:
        """Nothing was read, written or reached."""
        assert SECRET not in told
        assert {path.name for path in self.folder.iterdir()} == {"secret.txt", "planted.py"}
        assert (self.folder / "secret.txt").read_text() == SECRET
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return
        raise AssertionError("the server got a connection")


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "planted.py").write_text(f"found = {SECRET!r}")
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)  # it is not for lack of permission that the secret stays one
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv(VARIABLE, SECRET)
        server.setblocking(False)
        yield Canaries(folder, server)


@pytest.fixture(scope="module")
def sandbox(engine: type[MontySandbox | IsolatedSandbox], canaries: Canaries) -> MontySandbox | IsolatedSandbox:
    return engine(LIMITS)


@pytest.fixture(scope="module")
def hurried(engine: type[MontySandbox | IsolatedSandbox], canaries: Canaries) -> MontySandbox | IsolatedSandbox:
    return engine(SHORT)


async def tried(sandbox: Sandbox, code: str, canaries: Canaries) -> str:
    """Run a program, look at the canaries, ask for the next program; the outcome."""
    async with asyncio.timeout(60):  # against a test that hangs; no promise
        result = await sandbox.run(code)
    canaries.check(f"{result.output}{result.value}{result.error}")
    assert len(result.output) <= LIMITS.output and len(result.error) <= 300
    if isinstance(sandbox, MontySandbox):  # its workers live on; the other engine has a process for each program
        assert (await sandbox.run("1 + 1")).value == 2
    return result.outcome


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_escape_succeeds(sandbox: Sandbox, canaries: Canaries, name: str) -> None:
    await tried(sandbox, ESCAPES[name].format(**canaries.places), canaries)


@pytest.mark.parametrize("name", EXHAUSTIONS)
async def test_no_exhaustion_succeeds(hurried: Sandbox, canaries: Canaries, name: str) -> None:
    assert await tried(hurried, EXHAUSTIONS[name], canaries) in {"limit", "error", "unsupported"}


@pytest.mark.parametrize("name", HEAVY)
async def test_what_is_heavy_or_odd_ends(hurried: Sandbox, canaries: Canaries, name: str) -> None:
    assert await tried(hurried, HEAVY[name], canaries) in {"ok", "limit", "error", "unsupported"}


def test_the_canaries_would_be_seen(canaries: Canaries) -> None:
    """What the programs are after can be had without a sandbox, and the check notices it."""
    places = canaries.places
    with pytest.raises(AssertionError):
        canaries.check(Path(str(places["file"])).read_text())
    target = Path(str(places["target"]))
    target.write_text("x")
    with pytest.raises(AssertionError):
        canaries.check("")
    target.unlink()
    with socket.create_connection(("127.0.0.1", canaries.server.getsockname()[1])), pytest.raises(AssertionError):
        canaries.check("")
    assert os.environ[VARIABLE] == SECRET
    canaries.check("")


async def test_many_at_once(sandbox: MontySandbox | IsolatedSandbox) -> None:
    roomy = type(sandbox)(Limits(seconds=20))
    codes = ["1 + 1", "'x' * 10 ** 12", "raise ValueError", "import no_such_module", "2 + 2"] * 2
    results = await asyncio.gather(*[roomy.run(code) for code in codes])
    assert [result.outcome for result in results] == ["ok", "limit", "error", "unsupported", "ok"] * 2
