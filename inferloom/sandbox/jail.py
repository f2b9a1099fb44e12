"""A program of its own: runs one piece of Python without files, network or processes, and says what became of it.

Started by `isolated.py` with an empty environment and no path to packages. One line of JSON comes in on stdin (`code`,
`inputs` and the limits), one goes out on stdout. It does not import inferloom.

What holds the piece of Python, in this order:

1. The modules that it may import are loaded; nothing else can be.
2. The process leaves for namespaces of its own (users, mounts, network, processes): no interface but a loopback that is
   down, and an empty, read-only root instead of the machine's files. Privileges are given up for good.
3. A child runs it, under limits that its kernel holds it to: no new file descriptors (none for files, none for
   sockets), no new processes or threads, no growing files, so much memory and so much processor time.
4. The child tries each of these once before it starts, and does not start where one of them can be done.
5. This process waits outside, reads what the child prints, and kills it when the time is up or its caller is gone.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import types

MODULES = (
    "abc", "array", "base64", "bisect", "builtins", "calendar", "cmath", "collections.abc", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools",
    "json", "keyword", "linecache", "locale", "math", "numbers", "operator", "pprint", "queue", "random", "re",
    "reprlib", "secrets", "statistics", "string", "struct", "sys", "textwrap", "time", "token", "tokenize",
    "traceback", "types", "typing", "unicodedata", "uuid", "warnings", "weakref", "zlib",
)  # fmt: skip
"""What a program may import."""

_NEW_USER, _NEW_NS, _NEW_NET = 0x10000000, 0x00020000, 0x40000000
_NEW_PID, _NEW_IPC, _NEW_UTS = 0x20000000, 0x08000000, 0x04000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_MNT_DETACH = 2
_CAPABILITY_VERSION = 0x20080522
_NOBODY = 65534
_REPORT = 3
"""The file descriptor on which the child reports."""
_CUT = 300


class Refused(Exception):
    """What cannot be shut off here."""


def main() -> None:
    """Read a request, run it, answer."""
    request = json.loads(sys.stdin.buffer.readline())
    for name in MODULES:
        with contextlib.suppress(ImportError):  # not every build of Python has all of them
            importlib.import_module(name)
    held = int(open("/proc/self/statm", "rb").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    try:
        shut_off()
        answer = supervise(request, held)
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # nothing to tidy, and no modules to import while doing so


# Shutting off.


def shut_off() -> None:
    """Leave the machine's files and network for good.

    Raises:
        Refused: The kernel does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(what: str, *arguments: object) -> None:
        if not hasattr(libc, what):
            raise Refused(f"the C library has no `{what}`")
        if getattr(libc, what)(*arguments) != 0:
            raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")

    if os.geteuid() == 0:
        # The kernel does not hold root to a number of processes. In a container root may be unable to become another;
        # the child finds out whether it can fork.
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the files of /proc/self belong to root
    user, group = os.geteuid(), os.getegid()
    call("unshare", _NEW_USER | _NEW_NS | _NEW_NET | _NEW_PID | _NEW_IPC | _NEW_UTS)
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"1000 {user} 1")
        _write("/proc/self/gid_map", f"1000 {group} 1")
    except OSError as error:
        raise Refused(f"mapping the user: {error.strerror}") from error
    with contextlib.suppress(OSError):  # no namespaces in this one, where /proc/sys can be written
        _write("/proc/sys/user/max_user_namespaces", "0")
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    call("mount", b"none", b"/proc", b"tmpfs", flags, b"size=4k,nr_inodes=1,mode=555")
    os.chdir("/proc")
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    call("mount", None, b"/", None, flags | _MS_REMOUNT | _MS_RDONLY, None)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


# Outside: the process that waits.


def supervise(request: dict[str, object], held: int) -> dict[str, object]:
    """Run the request in a child and kill it when it is due; what it printed and what it reported."""
    printed_in, printed_out = os.pipe()
    report_in, report_out = os.pipe()
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(printed_in)
        os.close(report_in)
        try:
            inside(request, held, supervisor, printed_out, report_out)
        finally:
            os._exit(1)
    os.close(printed_out)
    os.close(report_out)
    caps = {printed_in: int(str(request["output"])), report_in: 2 * int(str(request["output"])) + 65536}
    read: dict[int, bytes] = {printed_in: b"", report_in: b""}
    try:
        reason = _watch(caps, read, time.monotonic() + float(str(request["seconds"])))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    output = read[printed_in][: caps[printed_in]].decode(errors="replace")
    # The first line was written before the program began: it is the only one that is ours for certain.
    checked, _, rest = read[report_in].partition(b"\n")
    if checked not in (b"", b"shut"):
        raise Refused(checked.decode(errors="replace"))
    said = _reported(rest)
    if reason:
        said = {"outcome": "limit", "error": reason}
    elif "outcome" not in said:
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if by == signal.SIGXCPU or by == signal.SIGKILL:
            said = {"outcome": "limit", "error": "the program used up its processor time"}
        elif by:
            said = {"outcome": "limit", "error": f"the program brought its process down (signal {by})"}
        else:
            said = {"outcome": "error", "error": "the program ended its process before its end"}
    return {**said, "output": output}


def _watch(caps: dict[int, int], read: dict[int, bytes], due: float) -> str:
    """Read from the child until it has closed everything; the limit that it ran past, or nothing."""
    waiting = {*read, sys.stdin.fileno()}
    while waiting - {sys.stdin.fileno()}:
        left = due - time.monotonic()
        ready = select.select(list(waiting), [], [], max(left, 0))[0] if left > 0 else []
        if not ready:
            return "the program ran past its time limit"
        for descriptor in ready:
            chunk = os.read(descriptor, 65536)
            if descriptor not in read:
                return "the caller is gone"  # it writes nothing after the request
            if not chunk:
                waiting.discard(descriptor)
            read[descriptor] += chunk
            if len(read[descriptor]) > caps[descriptor]:
                return "the program printed past its output limit"
    return ""


def _reported(text: bytes) -> dict[str, object]:
    """What the child reported. Its program could write there too, so anything may come, a made-up success included.

    The jail keeps a program from doing harm; it cannot make it tell the truth about itself.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return said if said.get("outcome") in {"ok", "error", "limit", "unsupported"} else {}


# Inside: the process that runs the program.


def inside(request: dict[str, object], held: int, supervisor: int, printed: int, report: int) -> None:
    """Give up the rest, make sure of it, run the program and report."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()  # a signal to its own group must not reach the supervisor
    empty, end = os.pipe()
    os.close(end)
    # The report's end is moved out of the way first: it may be one of the three.
    kept = os.dup2(report, 100)
    for target, source in ((0, empty), (1, printed), (2, printed), (_REPORT, kept)):
        os.dup2(source, target)
    os.closerange(_REPORT + 1, 1024)
    seconds = int(float(str(request["seconds"]))) + 1
    memory = held + int(str(request["memory"]))
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (most, most))
    still_open = doors()
    os.write(_REPORT, f"{still_open[0]} is still possible\n".encode() if still_open else b"shut\n")
    if not still_open:
        os.write(_REPORT, json.dumps(run(request)).encode())
    os._exit(0)


def doors() -> list[str]:
    """What can be done although it should not; each is tried once."""
    found = []
    with contextlib.suppress(OSError):
        os.scandir("/").close()
        found.append("listing files")
    with contextlib.suppress(OSError):
        os.close(os.open("/", os.O_RDONLY))
        found.append("opening files")
    with contextlib.suppress(OSError):
        os.mkdir("/made")  # noqa: PTH102
        found.append("writing files")
    with contextlib.suppress(OSError):
        socket.socket().close()
        found.append("opening sockets")
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            os._exit(0)
        found.append("starting processes")
    return found


def run(request: dict[str, object]) -> dict[str, object]:
    """Run the program as `__main__`; its outcome, value and error."""
    os.environ.clear()
    for name in [name for name in sys.modules if name.split(".")[0] in {"ctypes", "_ctypes", "socket", "_socket"}]:
        del sys.modules[name]
    sys.path[:], sys.argv[:], sys.path_hooks[:] = [], ["main.py"], []
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    names = vars(main_module)
    inputs = request["inputs"]
    names.update(inputs if isinstance(inputs, dict) else {})
    sys.setrecursionlimit(int(str(request["recursion"])))
    random.seed(0)
    dumps, flush = json.dumps, sys.stdout.flush
    try:
        value = evaluate(str(request["code"]), names)
        flush()
    except BaseException as error:
        with contextlib.suppress(BaseException):
            flush()
        return failed(error)
    try:
        text = dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    except BaseException:  # a value may be of the program's own making
        text = b"null"
    if len(text) > int(str(request["output"])):
        text = b"null"
    return {"outcome": "ok", "value": json.loads(text)}


def evaluate(code: str, names: dict[str, object]) -> object:
    """Run a program; the value of its last line where that is an expression."""
    tree = ast.parse(code, "main.py")
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "main.py", "exec"), names)
        return None
    del tree.body[-1]
    exec(compile(tree, "main.py", "exec"), names)
    return eval(compile(ast.Expression(last.value), "main.py", "eval"), names)


def failed(error: BaseException) -> dict[str, object]:
    """The outcome of a program that raised."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "main.py":
            line = frame.tb_lineno
        frame = frame.tb_next
    try:
        text = str(error)[:_CUT]
    except BaseException:  # it is the program's own
        text = ""
    said = type(error).__name__ + (f": {text}" if text else "") + (f" (line {line})" if line else "")
    lacking = (
        # What Python itself does not find has a name; a bare ImportError is the program's own.
        (isinstance(error, ImportError) and error.name is not None)
        or isinstance(error, EOFError)
        or (isinstance(error, OSError) and error.errno is not None)
        or (isinstance(error, RuntimeError) and text == "can't start new thread")
    )
    past = isinstance(error, MemoryError | RecursionError)
    return {"outcome": "limit" if past else "unsupported" if lacking else "error", "error": said}


if __name__ == "__main__":
    main()
